"""Look for parts of the test on which the candidate is worse, and correct for having looked at many.

Source: Holm 1979, "A simple sequentially rejective multiple test procedure": the chance of any false alarm is at most alpha.

Not covered: a slice without an alarm is not shown to be as good; with few items little can be shown.
"""

import numpy as np
import pandas as pd

from tunegate.gate import stats
from tunegate.gate.measures import CANDIDATE, KEY, kind_of
from tunegate.gate.policy import Policy, Slices
from tunegate.gate.verdict import Unusable
from tunegate.gate.wording import apart, shown, signed


def judge_slices(policy: Policy, held: pd.DataFrame) -> list[dict]:
    """Test every slice that the policy asks about: is the candidate worse there than the other arm, by more than the margin?

    Raises:
        Unusable: the two arms were not measured on the same items.
    """
    rule = policy.slices
    pairs = _pairs(rule, held)
    found = [_measured(rule, by, value, part) for by in rule.by for value, part in pairs.groupby(by, sort=True)]
    tested = [entry for entry in found if entry["p"] is not None]
    for entry, p_holm in zip(tested, stats.holm([entry["p"] for entry in tested]), strict=True):
        entry["p_holm"], entry["alarm"] = p_holm, p_holm <= policy.alpha
        entry["reason"] = _sentence(rule, entry)
    return found


def _pairs(rule: Slices, held: pd.DataFrame) -> pd.DataFrame:
    """Give one row for each item of the metric: slice columns, cluster, and the scores `better` and `worse` are taken from."""
    rows = held[held["metric"] == rule.metric]
    arms = {arm: part.set_index(KEY).sort_index() for arm, part in rows.groupby("arm")}
    for arm in (CANDIDATE, rule.versus):
        if arm not in arms:
            raise Unusable(f"slices: there is no '{rule.metric}' of the arm {arm}.")
    candidate, versus = arms[CANDIDATE], arms[rule.versus]
    if not candidate.index.equals(versus.index) or (candidate["cluster_id"] != versus["cluster_id"]).any():
        raise Unusable(f"slices: '{rule.metric}' of {CANDIDATE} and {rule.versus} was not measured on the same items and clusters.")
    return candidate.assign(versus=versus["score"])


def _measured(rule: Slices, by: str, value: str, part: pd.DataFrame) -> dict:
    candidate, versus, clusters = (part[name].to_numpy() for name in ("score", "versus", "cluster_id"))
    entry = {
        "by": by, "value": value, "metric": rule.metric, "versus": rule.versus, "n": len(part), "clusters": len(set(clusters)),
        "kind": kind_of(np.concatenate([candidate, versus])), "candidate": float(candidate.mean()), "versus_value": float(versus.mean()),
        "difference": None, "ci": None, "p": None, "p_holm": None, "alarm": False,
    }  # fmt: skip
    if len(part) < rule.min_n:
        return entry | {"reason": f"{_name(entry)} is too small to be tested: {len(part)} items, and the policy asks for {rule.min_n}."}
    better, worse = (versus, candidate) if rule.direction == "lower_is_better" else (candidate, versus)
    try:
        estimate = stats.difference(better, worse, clusters)
    except stats.NoSpread as error:
        return entry | {"reason": f"{_name(entry)} cannot be tested: {error}."}
    # the alarm is the claim that has to be proven, so its null hypothesis is that the candidate is not worse by more than the margin
    return entry | {"difference": estimate.value, "ci": list(estimate.interval()), "p": estimate.p_below(-rule.margin)}


def _name(entry: dict) -> str:
    return f"{entry['by']} {entry['value'] or '(none)'}"


def _sentence(rule: Slices, entry: dict) -> str:
    kind, sign = entry["kind"], -1 if rule.direction == "lower_is_better" else 1
    low, high = (signed(limit, kind, unit=False) for limit in sorted(sign * limit for limit in entry["ci"]))
    verb = "goes beyond" if entry["alarm"] else "is not shown to go beyond"
    return (
        f"{_name(entry)}: {rule.metric} {shown(entry['candidate'], kind)} against {shown(entry['versus_value'], kind)} ({rule.versus}) on "
        f"{entry['n']} items, a change of {signed(sign * entry['difference'], kind)} (95 % interval {low} to {high}), which "
        f"{verb} the {apart(rule.margin, kind)} allowed (p {entry['p_holm']:.2g} after Holm)."
    )
