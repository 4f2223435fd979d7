"""Judge one gate: estimate, bound, compare with the policy, and say it in a sentence."""

import numpy as np
import pandas as pd

from tunegate.gate import quantiles, resample, stats
from tunegate.gate.measures import kind_of
from tunegate.gate.pairs import Paired, paired
from tunegate.gate.policy import Gate, Policy
from tunegate.gate.verdict import Unusable
from tunegate.gate.wording import apart, number, shown, signed


def judge(gate: Gate, policy: Policy, held: pd.DataFrame) -> dict:
    """Judge one gate. The result holds its numbers, whether it passed, its outcome and a sentence."""
    result = {"id": gate.id, "metric": gate.metric, "test": gate.test, "required": gate.required, "direction": gate.direction}
    result |= {key: value for key in ("versus", "margin", "at_least", "at_most", "mde_max") if (value := getattr(gate, key)) is not None}
    if gate.statistic != "mean":
        result["statistic"] = gate.statistic
    try:
        result |= _NUMBERS[gate.test](gate, policy, paired(gate, held))
    except (Unusable, stats.NoSpread) as error:
        return result | {"passed": False, "outcome": "error", "reason": f"{gate.id}: {error}."}
    result["outcome"] = _outcome(gate, result)
    result["passed"] = result["outcome"] == "passed"
    result["reason"] = f"{gate.id}: {_sentence(gate, result)}"
    return result


def _value(gate: Gate, pairs: Paired, scores: np.ndarray, arm: int) -> float:
    """Give the gate's statistic of one arm: of `scores`, or of the labels at place `arm`."""
    if gate.statistic == "mean":
        return float(scores.mean())
    if gate.statistic == "macro_f1":
        return resample.macro_f1_of(pairs.labels[arm], pairs.labels[0])
    return quantiles.quantile_of(scores, _percent(gate))


def _percent(gate: Gate) -> int:
    return int(gate.statistic[1:])


def _kind(gate: Gate, *scores: np.ndarray) -> str:
    return "share" if gate.statistic == "macro_f1" else kind_of(np.concatenate(scores))


def _both(gate: Gate, pairs: Paired) -> dict:
    return {
        "kind": _kind(gate, pairs.candidate, pairs.versus), "candidate": _value(gate, pairs, pairs.candidate, 1),
        "versus_value": _value(gate, pairs, pairs.versus, 2),
    }  # fmt: skip


def _difference(gate: Gate, policy: Policy, pairs: Paired) -> dict:
    upside_down, measured = gate.direction == "lower_is_better", _both(gate, pairs)
    if gate.test == "max_improvement":
        # An alarm, not a claim: the observed gain itself is compared, without a bound that noise could hide a leak in.
        gain = (measured["candidate"] - measured["versus_value"]) * (-1 if upside_down else 1)
        return measured | {"n": len(pairs.candidate), "clusters": len(set(pairs.clusters)), "difference": gain}
    better, worse = (pairs.versus, pairs.candidate) if upside_down else (pairs.candidate, pairs.versus)
    if gate.statistic == "mean":
        estimate = stats.difference(better, worse, pairs.clusters)
        measured["mcnemar_p"] = stats.mcnemar_p(better, worse)
    elif gate.statistic == "macro_f1":
        expected, *answers = pairs.labels
        estimate = resample.compare_macro_f1(*(answers[::-1] if upside_down else answers), expected, pairs.clusters)
    else:
        estimate = quantiles.compare_quantiles(better, worse, pairs.clusters, _percent(gate), as_ratio=False)
    threshold = gate.margin if gate.test == "superiority" else -gate.margin
    return measured | _common(estimate, policy, threshold, "low") | {"difference": estimate.value}


def _absolute(gate: Gate, policy: Policy, pairs: Paired) -> dict:
    if gate.statistic == "mean":
        estimate = stats.mean(pairs.candidate, pairs.clusters)
    elif gate.statistic == "macro_f1":
        estimate = resample.macro_f1(pairs.labels[1], pairs.labels[0], pairs.clusters)
    else:
        estimate = quantiles.quantile(pairs.candidate, pairs.clusters, _percent(gate))
    side, threshold = ("high", gate.at_most) if gate.direction == "lower_is_better" else ("low", gate.at_least)
    return {"kind": _kind(gate, pairs.candidate), "candidate": estimate.value} | _common(estimate, policy, threshold, side)


def _ratio(gate: Gate, policy: Policy, pairs: Paired) -> dict:
    if gate.statistic == "mean":
        estimate = stats.ratio(pairs.candidate, pairs.versus, pairs.clusters)
    else:
        estimate = quantiles.compare_quantiles(pairs.candidate, pairs.versus, pairs.clusters, _percent(gate), as_ratio=True)
    return _both(gate, pairs) | _common(estimate, policy, gate.at_most, "high") | {"kind": "number", "ratio": estimate.value}


_NUMBERS = {
    "superiority": _difference, "noninferiority": _difference, "max_improvement": _difference,
    "absolute_lcb": _absolute, "ratio_ucb": _ratio,
}  # fmt: skip


def _common(estimate: stats.Bounded, policy: Policy, threshold: float, side: str) -> dict:
    low, high = estimate.bounds(policy.alpha)
    bound, other_bound, p = (low, high, estimate.p_above(threshold)) if side == "low" else (high, low, estimate.p_below(threshold))
    distance = estimate.value - threshold if side == "low" else threshold - estimate.value
    return {
        "n": estimate.n, "clusters": estimate.clusters, "effective_clusters": estimate.effective_clusters, "method": estimate.method,
        "se": estimate.se, "ci": list(estimate.interval()), "bound": bound, "other_bound": other_bound, "threshold": threshold, "p": p,
        "mde": estimate.mde(policy.alpha, policy.power),
        "required_n": estimate.required_n(distance, policy.alpha, policy.power),
    }  # fmt: skip


def _outcome(gate: Gate, r: dict) -> str:
    if gate.test == "max_improvement":
        return "passed" if r["difference"] <= gate.margin else "held"
    if gate.test in ("superiority", "noninferiority"):
        passed = r["bound"] > r["threshold"]
    else:
        passed = r["bound"] >= r["threshold"] if "at_least" in r else r["bound"] <= r["threshold"]
    if passed:
        return "passed"
    # Too few items to see what matters, unless even the favourable bound is on the wrong side.
    lost = r["other_bound"] > r["threshold"] if "at_most" in r else r["other_bound"] < r["threshold"]
    return "inconclusive" if gate.mde_max is not None and r["mde"] > gate.mde_max and not lost else "failed"


def _sentence(gate: Gate, r: dict) -> str:
    kind, passed = r["kind"], r["outcome"] == "passed"
    name = "" if gate.statistic == "mean" else "macro-F1 of " if gate.statistic == "macro_f1" else f"{gate.statistic} of "
    text = f"{name}{gate.metric} {shown(r['candidate'], kind)}"
    if gate.versus is not None:
        text += f" against {shown(r['versus_value'], kind)} ({gate.versus}): "
    if gate.test == "max_improvement":
        text += f"a gain of {signed(r['difference'], kind)}, {'' if passed else 'suspiciously '}"
        text += f"{'within' if passed else 'above'} {apart(gate.margin, kind)}"
    elif gate.test == "ratio_ucb":
        low, high = map(number, r["ci"])
        text += f"{number(r['ratio'])} times as much (95 % interval {low} to {high}). The upper bound, {number(r['bound'])}, "
        text += f"{'stays within' if passed else 'exceeds'} the {number(gate.at_most)} allowed"
    elif gate.test == "absolute_lcb":
        at_least = "at_least" in r
        verb = ("reaches" if passed else "does not reach") if at_least else ("stays within" if passed else "exceeds")
        text += f". The {'lower' if at_least else 'upper'} bound, {shown(r['bound'], kind)}, {verb} "
        text += f"the {shown(r['threshold'], kind)} {'asked for' if at_least else 'allowed'}"
    elif gate.test == "superiority":
        low, high = (signed(limit, kind, unit=False) for limit in r["ci"])
        text += f"a gain of {signed(r['difference'], kind)} (95 % interval {low} to {high}). The lower bound, "
        text += f"{signed(r['bound'], kind, unit=False)}, {'exceeds' if passed else 'does not exceed'} "
        text += f"the {apart(gate.margin, kind)} asked for"
    else:
        # Said in the metric's own direction: a loss that rises by 0.02 is a change of +0.02.
        sign = -1 if gate.direction == "lower_is_better" else 1
        low, high = (signed(limit, kind, unit=False) for limit in sorted(sign * limit for limit in r["ci"]))
        text += f"a change of {signed(sign * r['difference'], kind)} (95 % interval {low} to {high})"
        text += f"{', where lower is better' if sign < 0 else ''}. The unfavourable bound, {signed(sign * r['bound'], kind, unit=False)}, "
        text += f"{'stays within' if passed else 'goes beyond'} the {apart(gate.margin, kind)} allowed"
    if r["outcome"] == "inconclusive":
        text += f". {r['n']} items can show no less than {apart(r['mde'], kind)}, "
        text += f"and the policy wants to see {apart(gate.mde_max, kind)}"
        text += f"; about {r['required_n']:,} items would settle it" if r["required_n"] else ""
    return text + "."
