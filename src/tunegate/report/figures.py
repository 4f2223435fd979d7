"""Show what was measured: a table of arms and metrics, bars of the main one, the few figures that people ask for first."""

from collections import defaultdict

import numpy as np

from tunegate.gate.wording import number, shown, signed
from tunegate.report import charts
from tunegate.report.words import STATISTICS, arm_name, arm_style, cost, metric_name, metric_order

TIMES = ("serve/latency_seconds", "serve/first_token_seconds")  # people feel the median and the slow ones, not the mean


def with_quantiles(table: list[dict], items: list[dict]) -> list[dict]:
    """Add median and 95th percentile (p50, p95) of the times of each arm, where the verdict does not hold them yet."""
    times = defaultdict(dict)
    for item in items:
        for metric in TIMES:
            if item["split"] in ("dev", "test") and (value := item.get(metric.partition("/")[2])) is not None:
                times[item["arm"], item["split"], metric][item["item_id"]] = value
    filled = []
    for row in table:
        metrics = dict(row["metrics"])
        for metric in TIMES:
            found = metrics.get(metric)
            if found and (values := times.get((row["arm"], found["split"], metric))):
                quantiles = {f"p{share}": float(np.percentile(list(values.values()), share)) for share in (50, 95)}
                metrics[metric] = quantiles | found
        filled.append(row | {"metrics": metrics})
    return filled


def throughput(items: list[dict], arms: dict[str, dict]) -> dict[str, float]:
    """Count the tokens that the server answered in a second, by arm, over the split that arms.json timed."""
    tokens = defaultdict(dict)
    for item in items:
        if item["split"] == arms.get(item["arm"], {}).get("split"):
            tokens[item["arm"]][item["item_id"]] = item["completion_tokens"]
    return {arm: sum(found.values()) / arms[arm]["seconds"] for arm, found in tokens.items() if arms[arm].get("seconds")}


def main_metric(table: list[dict], policy: dict | None = None) -> str | None:
    """Name the metric that the bars show: the first of the policy that is the task's own and was measured."""
    measured = {metric for row in table for metric in row["metrics"]}
    asked = [gate["metric"] for gate in (policy or {}).get("gates", [])]
    return next((metric for metric in [*asked, "task/exact"] if metric.startswith("task/") and metric in measured), None)


def bars(table: list[dict], metric: str | None) -> dict | None:
    rows = []
    for row in table:
        if found := row["metrics"].get(metric):
            name, css = arm_name(row["arm"], row["few_shot"]), arm_style(row["arm"])
            rows.append({"label": name, "value": found["mean"], "ci": found["ci"], "css": css})
    if not rows:
        return None
    kind = next(row["metrics"][metric]["kind"] for row in table if metric in row["metrics"])
    return {"plot": charts.bars(rows, kind), "name": metric_name(metric)[0]}


def metric_table(table: list[dict], speeds: dict[str, float]) -> dict | None:
    """Make the before/after table: a row per metric, a column per arm."""
    if not table:
        return None
    metrics = {metric: found for row in table for metric, found in row["metrics"].items()}
    lines = []
    for metric in sorted(metrics, key=metric_order):
        mine = [row["metrics"].get(metric) for row in table]
        count = f"{max(found['n'] for found in mine if found):,}"
        if any("p50" in found for found in mine if found):
            for share in ("p50", "p95"):
                cells = [_plain(number(found[share])) if found and share in found else None for found in mine]
                lines.append(_line(metric, count, cells, share))
        else:
            lines.append(_line(metric, count, [_cell(found) for found in mine]))
    if speeds:
        cells = [_plain(number(speeds[row["arm"]])) if row["arm"] in speeds else None for row in table]
        lines.append({"id": "", "name": "Speed", "unit": "answer tokens per second, all requests together", "n": "", "cells": cells})
    if any(row["cost_per_1000_requests"] is not None for row in table):
        cells = [_plain(cost(row["cost_per_1000_requests"])) for row in table]
        lines.append({"id": "", "name": "Cost", "unit": "per 1,000 requests", "n": "", "cells": cells})
    heads = [{"name": arm_name(row["arm"], row["few_shot"]), "css": arm_style(row["arm"])} for row in table]
    split = "dev" if all(found["split"] == "dev" for found in metrics.values()) else "sealed test"
    return {"heads": heads, "lines": lines, "split": split, "priced": any(row["cost_per_1000_requests"] is not None for row in table)}


def _line(metric: str, count: str, cells: list, statistic: str = "") -> dict:
    name, unit = metric_name(metric)
    return {"id": metric, "name": name, "unit": f"{unit}, {STATISTICS[statistic]}" if statistic else unit, "n": count, "cells": cells}


def _plain(value: str) -> dict:
    return {"value": value, "ci": "", "change": ""}


def _cell(found: dict | None) -> dict | None:
    if found is None:
        return None
    scale, digits = (100, 1) if found["kind"] == "share" else (1, 3 if abs(found["mean"]) < 20 else 1)
    ci = f"{scale * found['ci'][0]:.{digits}f} to {scale * found['ci'][1]:.{digits}f}" if found["ci"] else ""
    change = ""
    if found.get("change") is not None:
        change = signed(found["change"], found["kind"]) if digits != 1 or scale == 100 else f"{found['change']:+,.1f}"
    return {"value": shown(found["mean"], found["kind"]), "ci": ci, "change": change}


def tiles(table: list[dict], metric: str | None) -> list[dict]:
    """Show the few figures that people ask for first."""
    rows = {row["arm"].partition(":")[0]: row for row in table}
    candidate, few, zero, champion = (
        rows.get(arm, {"metrics": {}}) for arm in ("candidate", "base_few_shot", "base_zero_shot", "champion")
    )  # fmt: skip
    told = candidate if candidate["metrics"] else few if few["metrics"] else zero
    shown_tiles = []
    if main := told["metrics"].get(metric):
        others = [(name, row) for name, row in (("zero-shot", zero), ("few-shot", few), ("champion", champion)) if row is not told]
        others = [f"{name} {shown(found['mean'], found['kind'])}" for name, row in others if (found := row["metrics"].get(metric))]
        name = f"{metric_name(metric)[0]}, {arm_name(told['arm'], told['few_shot']).lower()}"
        shown_tiles.append({"name": name, "value": shown(main["mean"], main["kind"]), "detail": " · ".join(others)})
    general = candidate["metrics"].get("general/nats_per_token")
    if general and general.get("change") is not None:
        detail = f"{general['change_ci'][0]:+.3f} to {general['change_ci'][1]:+.3f} (95 %)" if general["change_ci"] else ""
        shown_tiles.append({"name": "General loss, nats per token", "value": signed(general["change"], "number"), "detail": detail})
    if tokens := told["metrics"].get("serve/prompt_tokens"):
        other = few["metrics"].get("serve/prompt_tokens") if told is candidate else None
        detail = f"few-shot {number(other['mean'])}" if other else ""
        shown_tiles.append({"name": "Prompt tokens per request", "value": number(tokens["mean"]), "detail": detail})
    if (price := told.get("cost_per_1000_requests")) is not None:
        other = few.get("cost_per_1000_requests") if told is candidate else None
        detail = f"few-shot {cost(other)}" if other is not None else ""
        shown_tiles.append({"name": "Cost per 1,000 requests", "value": cost(price), "detail": detail})
    return shown_tiles
