"""Build the report page: choose what to show of a run, and fill the template."""

import json
from collections import defaultdict

from tunegate.gate.wording import apart, number, shown, signed
from tunegate.report import charts, curation
from tunegate.report.collect import Run
from tunegate.report.page import fill
from tunegate.report.words import DECISIONS, METRICS, TESTS, arm_name, arm_style, cost, metric_name
from tunegate.steps import STEPS

MAX_TASK_TYPES = 20
SAMPLES = {  # which answers are shown, by (few-shot right, candidate right): how many, and the title
    (False, True): (3, "Right only after fine-tuning"),
    (True, True): (1, "Right with examples and after fine-tuning"),
    (True, False): (2, "Right only with examples"),
    (False, False): (2, "Wrong either way"),
}


def render(run: Run) -> str:
    """Fill the page."""
    return fill(
        "page.html.j2",
        run=run, banner=_banner(run), tiles=_tiles(run), bars=_exact_bars(run), table=_metric_table(run), gates=_gates(run),
        prompting=(run.verdict or {}).get("predicate", {}).get("prompting"), training=_training(run), curation=curation.view(run.curation),
        by_type=_by_type(run), samples=_samples(run), lineage=_lineage(run), policy=_policy(run),
        seconds=sum(record["seconds"] for record in run.records.values() if not record["reused"]),
    )  # fmt: skip


def _banner(run: Run) -> dict:
    if run.errors:
        step, error = next(iter(run.errors.items()))
        word = f"STOPPED AT {step.upper()}"
        return {"style": "bad", "word": word, "meaning": "The run ended with an error.", "reasons": [error["sentence"]]}
    if run.verdict is None:
        reached = list(run.records)[-1] if run.records else "no step"
        return {"style": "info", "word": "NO VERDICT YET", "meaning": f"The run has come as far as {reached}.", "reasons": []}
    decision = run.verdict["decision"]
    style, meaning = DECISIONS[decision]
    return {"style": style, "word": decision.replace("_", " "), "meaning": meaning, "reasons": run.verdict["reasons"]}


def _tiles(run: Run) -> list[dict]:
    """Show the few figures that people ask for first."""
    rows = {row["arm"].partition(":")[0]: row for row in run.table}
    candidate, few, zero = (rows.get(arm, {"metrics": {}}) for arm in ("candidate", "base_few_shot", "base_zero_shot"))
    told = candidate if candidate["metrics"] else few if few["metrics"] else zero
    tiles = []
    if exact := told["metrics"].get("task/exact"):
        others = [(name, row) for name, row in (("zero-shot", zero), ("few-shot", few)) if row is not told]
        others = [f"{name} {shown(found['mean'], 'share')}" for name, row in others if (found := row["metrics"].get("task/exact"))]
        name = f"Exact match, {arm_name(told['arm'], told['few_shot']).lower()}"
        tiles.append({"name": name, "value": shown(exact["mean"], exact["kind"]), "detail": " · ".join(others)})
    general = candidate["metrics"].get("general/nats_per_token")
    if general and general.get("change") is not None:
        detail = f"{general['change_ci'][0]:+.3f} to {general['change_ci'][1]:+.3f} (95 %)" if general["change_ci"] else ""
        tiles.append({"name": "General loss, nats per token", "value": signed(general["change"], "number"), "detail": detail})
    if tokens := told["metrics"].get("serve/prompt_tokens"):
        other = few["metrics"].get("serve/prompt_tokens") if told is candidate else None
        detail = f"few-shot {number(other['mean'])}" if other else ""
        tiles.append({"name": "Prompt tokens per request", "value": number(tokens["mean"]), "detail": detail})
    if (price := told.get("cost_per_1000_requests")) is not None:
        other = few.get("cost_per_1000_requests") if told is candidate else None
        detail = f"few-shot {cost(other)}" if other is not None else ""
        tiles.append({"name": "Cost per 1,000 requests", "value": cost(price), "detail": detail})
    return tiles


def _exact_bars(run: Run):
    rows = []
    for row in run.table:
        if found := row["metrics"].get("task/exact"):
            label = arm_name(row["arm"], row["few_shot"])
            rows.append({"label": label, "value": found["mean"], "ci": found["ci"], "css": arm_style(row["arm"])})
    return charts.bars(rows, "share") if rows else None


def _metric_table(run: Run) -> dict | None:
    """Make the before/after table: a row per metric, a column per arm."""
    if not run.table:
        return None
    metrics = {metric: found for row in run.table for metric, found in row["metrics"].items()}
    known = list(METRICS)
    order = sorted(metrics, key=lambda metric: (known.index(metric) if metric in known else len(known), metric))
    lines = []
    for metric in order:
        name, unit = metric_name(metric)
        cells = [_cell(row["metrics"].get(metric)) for row in run.table]
        count = max(row["metrics"][metric]["n"] for row in run.table if metric in row["metrics"])
        lines.append({"name": name, "unit": unit, "n": f"{count:,}", "cells": cells})
    if any(row["cost_per_1000_requests"] is not None for row in run.table):
        cells = [{"value": cost(row["cost_per_1000_requests"]), "ci": "", "change": ""} for row in run.table]
        lines.append({"name": "Cost", "unit": "per 1,000 requests", "n": "", "cells": cells})
    heads = [{"name": arm_name(row["arm"], row["few_shot"]), "css": arm_style(row["arm"])} for row in run.table]
    return {"heads": heads, "lines": lines, "split": "dev" if all(f["split"] != "test" for f in metrics.values()) else "sealed test"}


def _cell(found: dict | None) -> dict | None:
    if found is None:
        return None
    scale, digits = (100, 1) if found["kind"] == "share" else (1, 3 if abs(found["mean"]) < 20 else 1)
    ci = f"{scale * found['ci'][0]:.{digits}f} to {scale * found['ci'][1]:.{digits}f}" if found["ci"] else ""
    change = ""
    if found.get("change") is not None:
        change = signed(found["change"], found["kind"]) if digits != 1 or scale == 100 else f"{found['change']:+,.1f}"
    return {"value": shown(found["mean"], found["kind"]), "ci": ci, "change": change}


def _gates(run: Run) -> dict | None:
    if not run.verdict or not run.verdict["predicate"]["gates"]:
        return None
    drawn, lines = [], []
    for gate in run.verdict["predicate"]["gates"]:
        versus = arm_name(gate["versus"], run.arms.get(gate["versus"], {}).get("few_shot")).lower() if "versus" in gate else ""
        subtitle = metric_name(gate["metric"])[0].lower() + (f" vs {versus}" if versus else "")
        needed = _needed(gate)
        if "kind" in gate:
            drawn.append(gate | {"subtitle": subtitle, "needed": needed})
        lines.append({
            "id": gate["id"].replace("_", " "), "test": TESTS[gate["test"]], "outcome": gate["outcome"], "needed": needed,
            "required": gate["required"], "size": f"{gate['n']:,} / {gate['clusters']:,}" if "n" in gate else "–",
            "p": _p(gate.get("p")), "mcnemar": _p(gate.get("mcnemar_p")), "mde": apart(gate["mde"], gate["kind"]) if "mde" in gate else "–",
            "reason": gate["reason"].partition(": ")[2],
        })  # fmt: skip
    return {"plot": charts.forest(drawn), "lines": lines}


def _needed(gate: dict) -> str:
    if "kind" not in gate:
        return ""
    kind = gate["kind"]
    if gate["test"] == "max_improvement":
        return f"alarm above {signed(gate['margin'], kind)}"
    if gate["test"] == "ratio_ucb":
        return f"bound {number(gate['bound'])}, at most {number(gate['at_most'])}"
    if gate["test"] == "absolute_lcb":
        return f"bound {shown(gate['bound'], kind)}, at {'most' if 'at_most' in gate else 'least'} {shown(gate['threshold'], kind)}"
    return f"bound {signed(gate['bound'], kind, unit=False)}, limit {signed(gate['threshold'], kind)}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _training(run: Run) -> list[dict]:
    found = []
    for step, title in (("sft", "Supervised fine-tuning"), ("prefer", "Preference optimisation")):
        if (record := run.records.get(step)) is None:
            continue
        points = [(entry["step"], entry["loss"]) for entry in record["summary"].get("log", []) if "loss" in entry]
        chart = charts.line(points, "optimizer step", "loss") if len(points) > 1 else None
        found.append({"title": title, "line": record["line"], "chart": chart})
    return found


def _by_type(run: Run) -> dict | None:
    """Average exact match by task type, the most frequent types first."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for item in run.items:
        if item["metric"] == "task/exact" and item["split"] == "test" and item["task_type"]:
            scores[item["task_type"]][item["arm"]].append(item["score"])
    if not scores:
        return None
    arms = [row["arm"] for row in run.table if any(row["arm"] in by_arm for by_arm in scores.values())]
    size = {name: max(map(len, by_arm.values())) for name, by_arm in scores.items()}
    names = sorted(scores, key=lambda name: (-size[name], name))
    lines = []
    for name in names[:MAX_TASK_TYPES]:
        shares = [sum(found) / len(found) if (found := scores[name].get(arm)) else None for arm in arms]
        cells = [None if share is None else {"percent": f"{100 * share:.0f}", "css": arm_style(arm)}
                 for share, arm in zip(shares, arms, strict=True)]  # fmt: skip
        lines.append({"name": name, "n": size[name], "cells": cells})
    heads = [arm_name(arm, run.arms.get(arm, {}).get("few_shot")) for arm in arms]
    return {"heads": heads, "lines": lines, "left_out": len(names) - len(lines)}


def _samples(run: Run) -> list[dict]:
    """Choose answers to show side by side: some learnt, some lost, some still wrong; the same ones every time."""
    found: dict[str, dict[str, dict]] = defaultdict(dict)
    for item in run.items:
        if item["metric"] == "task/exact" and item["split"] == "test":
            found[item["item_id"]][item["arm"]] = item
    order = [row["arm"] for row in run.table]
    left, chosen = {kind: count for kind, (count, _) in SAMPLES.items()}, defaultdict(list)
    for item_id in sorted(found):
        answers = found[item_id]
        kind = tuple(bool(answers.get(arm, {}).get("score")) for arm in ("base_few_shot", "candidate"))
        if item_id in run.test and "candidate" in answers and left[kind]:
            left[kind] -= 1
            chosen[kind].append(_sample(run, item_id, answers, order, SAMPLES[kind][1]))
    return [sample for kind in SAMPLES for sample in chosen[kind]]


def _sample(run: Run, item_id: str, answers: dict[str, dict], order: list[str], title: str) -> dict:
    messages = run.test[item_id]["messages"]
    asked = "\n".join(turn["content"] for turn in messages[:-1] if turn["role"] != "system")
    given = []
    for arm in (arm for arm in order if arm in answers):
        name, text = arm_name(arm, run.arms.get(arm, {}).get("few_shot")), answers[arm]["output"] or "(nothing)"
        given.append({"name": name, "right": bool(answers[arm]["score"]), "text": text})
    return {"title": title, "asked": asked, "expected": messages[-1]["content"], "answers": given}


def _lineage(run: Run) -> list[dict]:
    lines = []
    for step in STEPS:
        if record := run.records.get(step):
            config = record["config"].get("recipe") or json.dumps(record["config"], indent=1, ensure_ascii=False)
            state = "found by digest" if record["reused"] else "done"
            lines.append(record | {"state": state, "config_text": config, "took": record["seconds"]})
        elif error := run.errors.get(step):
            nothing = {"refs": {}, "inputs": {}, "key": "", "config_text": "", "took": None}
            lines.append(nothing | {"step": step, "state": "failed", "line": error["sentence"]})
    return lines


def _policy(run: Run) -> dict | None:
    if not run.verdict:
        return None
    predicate = run.verdict["predicate"]
    return {"name": predicate["policy"]["name"], "sha256": predicate["policy"]["sha256"], "evidence": predicate["evidence"]["sha256"],
            "alpha": predicate["policy"]["document"]["alpha"]}  # fmt: skip
