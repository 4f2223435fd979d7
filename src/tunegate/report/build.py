"""Build the report page of a run: choose what to show of it, and fill the template."""

import json

from tunegate.report import charts, curation, parts
from tunegate.report.answers import COUNTS
from tunegate.report.collect import Run
from tunegate.report.page import fill
from tunegate.steps import STEPS


def render(run: Run) -> str:
    """Fill the page."""
    told = parts.of_verdict(run.verdict, run.signed, run.waived) if run.verdict else parts.NO_VERDICT | {"waived": run.waived}
    return fill(
        "page.html.j2",
        **told | {"banner": _banner(run)}, **parts.of_figures(run.table, run.items, run.arms, run.verdict),
        answers=parts.answers(run.items, run.table, run.verdict, run.test, COUNTS),
        run=run, training=_training(run), curation=curation.view(run.curation), lineage=_lineage(run),
        seconds=sum(record["seconds"] for record in run.records.values() if not record["reused"]),
    )  # fmt: skip


def _banner(run: Run) -> dict:
    if run.errors:
        step, error = next(iter(run.errors.items()))
        word = f"STOPPED AT {step.upper()}"
        return {"style": "bad", "word": word, "meaning": "The run ended with an error.", "reasons": [error["sentence"]], "next": ""}
    if run.verdict is None:
        reached = list(run.records)[-1] if run.records else "no step"
        meaning = f"The run has come as far as {reached}."
        return {"style": "info", "word": "NO VERDICT YET", "meaning": meaning, "reasons": [], "next": ""}
    return parts.banner(run.verdict)


def _training(run: Run) -> list[dict]:
    found = []
    for step, title in (("sft", "Supervised fine-tuning"), ("prefer", "Preference optimisation")):
        if (record := run.records.get(step)) is None:
            continue
        points = [(entry["step"], entry["loss"]) for entry in record["summary"].get("log", []) if "loss" in entry]
        chart = charts.line(points, "optimizer step", "loss") if len(points) > 1 else None
        found.append({"title": title, "line": record["line"], "chart": chart})
    return found


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
