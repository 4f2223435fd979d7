"""Average every metric of every arm: what the verdict tells beside its gates."""

import numpy as np
import pandas as pd

from tunegate.gate import stats
from tunegate.gate.policy import SERVING
from tunegate.results import TASK_SPLITS

CANDIDATE, ADAPTER, CHAMPION, ZERO_SHOT, FEW_SHOT = "candidate", "adapter", "champion", "base_zero_shot", "base_few_shot"
KEY = ["split", "item_id"]
ARM_ORDER = [ZERO_SHOT, FEW_SHOT, CHAMPION, ADAPTER]  # as people read them; what is not here follows, the candidate comes last


def with_serving_metrics(held: pd.DataFrame) -> pd.DataFrame:
    """Add tokens and times of each task request as metrics (serve/…), so that gates can name them."""
    asked = requests(held)
    parts = [held]
    for column in SERVING:
        measured = asked[asked[column].notna()]
        parts.append(measured.assign(metric=f"serve/{column}", score=measured[column]))
    return pd.concat(parts, ignore_index=True)


def requests(held: pd.DataFrame) -> pd.DataFrame:
    """Give one row for each task item that an arm was asked; what a judge was asked about it is another request."""
    return held[held["split"].isin(TASK_SPLITS) & held["metric"].str.startswith("task/")].drop_duplicates(["arm", *KEY])


def measures(held: pd.DataFrame) -> list[dict]:
    """Average every metric of every arm, with 95 % intervals, its paired change from the zero-shot base, and quantiles of times."""
    found = []
    for (split, metric), rows in held.groupby(["split", "metric"], sort=True):
        kind = kind_of(rows["score"])
        zero = rows[rows["arm"] == ZERO_SHOT].set_index("item_id")
        for arm, mine in rows.groupby("arm", sort=True):
            entry = {"arm": arm, "split": split, "metric": metric, "kind": kind, "n": len(mine), "mean": float(mine["score"].mean())}
            entry["ci"] = _interval(stats.mean, mine["score"].to_numpy(), clusters=mine["cluster_id"].to_numpy())
            if metric.endswith("_seconds"):
                entry |= {f"p{share}": float(np.percentile(mine["score"], share)) for share in (50, 95)}
            mine = mine.set_index("item_id")
            if arm != ZERO_SHOT and set(mine.index) == set(zero.index):
                pair = zero["score"].reindex(mine.index).to_numpy()
                entry["change"] = entry["mean"] - float(zero["score"].mean())
                entry["change_ci"] = _interval(stats.difference, mine["score"].to_numpy(), pair, clusters=mine["cluster_id"].to_numpy())
            found.append(entry)
    return found


def before_after(measured: list[dict], arms: dict[str, dict], cost_per_hour: float | None) -> list[dict]:
    """Make one row per arm: its metrics, and what 1,000 requests cost at the speed it was served with (arms.json)."""
    rows = []
    for arm in sorted({entry["arm"] for entry in measured}, key=_arm_order):
        told = arms.get(arm, {})
        cost = None
        if cost_per_hour is not None and told.get("items"):
            cost = told["seconds"] / told["items"] * 1000 / 3600 * cost_per_hour
        mine = [entry for entry in measured if entry["arm"] == arm]
        rows.append({
            "arm": arm, "few_shot": told.get("few_shot"), "cost_per_1000_requests": cost,
            "metrics": {entry["metric"]: {k: v for k, v in entry.items() if k not in ("arm", "metric")} for entry in mine},
        })  # fmt: skip
    return rows


def _arm_order(arm: str) -> tuple:
    name = arm.partition(":")[0]
    return arm == CANDIDATE, ARM_ORDER.index(name) if name in ARM_ORDER else len(ARM_ORDER), arm


def _interval(estimator, *scores, clusters) -> list[float] | None:
    try:
        return list(estimator(*scores, clusters).interval())
    except stats.NoSpread:
        return None


def kind_of(scores) -> str:
    return "share" if np.isin(np.asarray(scores), (0.0, 1.0)).all() else "number"
