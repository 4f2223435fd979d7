"""Judge one gate: match the items of two arms, estimate, bound, compare with the policy, and say it in a sentence."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tunegate.gate import quantiles, resample, stats
from tunegate.gate.measures import CANDIDATE, KEY, kind_of
from tunegate.gate.policy import Gate, Policy
from tunegate.gate.verdict import Unusable
from tunegate.gate.wording import apart, number, shown, signed
from tunegate.tasks.text import as_label


@dataclass(frozen=True)
class Paired:
    """Two arms' scores of the same items in the same order, and the items' clusters; for macro-F1 also labels."""

    candidate: np.ndarray
    versus: np.ndarray | None
    clusters: np.ndarray
    labels: tuple[np.ndarray, ...] = ()  # expected, the candidate's, and the other arm's where there is one


def judge(gate: Gate, policy: Policy, held: pd.DataFrame) -> dict:
    """Judge one gate. The result holds its numbers, whether it passed, its outcome and a sentence."""
    result = {"id": gate.id, "metric": gate.metric, "test": gate.test, "required": gate.required, "direction": gate.direction}
    result |= {key: value for key in ("versus", "margin", "at_least", "at_most", "mde_max") if (value := getattr(gate, key)) is not None}
    if gate.statistic != "mean":
        result["statistic"] = gate.statistic
    try:
        result |= _NUMBERS[gate.test](gate, policy, _paired(gate, held))
    except (Unusable, stats.NoSpread) as error:
        return result | {"passed": False, "outcome": "error", "reason": f"{gate.id}: {error}."}
    result["outcome"] = _outcome(gate, result)
    result["passed"] = result["outcome"] == "passed"
    result["reason"] = f"{gate.id}: {_sentence(gate, result)}"
    return result


def _paired(gate: Gate, held: pd.DataFrame) -> Paired:
    """Give the results of both arms on the same items in the same order."""
    rows = held[held["metric"] == gate.metric]
    arms = {arm: part.set_index(KEY) for arm, part in rows.groupby("arm")}
    for arm in (CANDIDATE, gate.versus):
        if arm is not None and arm not in arms:
            raise Unusable(f"there is no '{gate.metric}' of the arm {arm}")
    everything = set(rows.set_index(KEY).index)
    for arm in filter(None, (CANDIDATE, gate.versus)):
        if missing := len(everything - set(arms[arm].index)):
            raise Unusable(f"the arm {arm} lacks {missing} of {len(everything)} items, so the arms are not measured on the same ones")
    candidate = arms[CANDIDATE].sort_index()
    clusters = candidate["cluster_id"].to_numpy()
    if (clusters == "").any():
        raise Unusable(f"{(clusters == '').sum()} items have no cluster, so their dependence is unknown")
    if len(candidate) < gate.min_n:
        raise Unusable(f"{len(candidate)} items are fewer than the {gate.min_n} that the policy asks for")
    if (count := len(set(clusters))) < gate.min_clusters:
        raise Unusable(f"{count} clusters are fewer than the {gate.min_clusters} that the policy asks for")
    if gate.versus is None:
        return Paired(candidate["score"].to_numpy(), None, clusters, _labels(gate, candidate))
    versus = arms[gate.versus].reindex(candidate.index)
    if (versus["cluster_id"].to_numpy() != clusters).any():
        raise Unusable(f"items belong to other clusters in the arm {gate.versus} than in the arm {CANDIDATE}")
    general = candidate.index.get_level_values("split") == "general"
    if (versus["prompt_hash"].to_numpy() != candidate["prompt_hash"].to_numpy())[general].any():
        raise Unusable(f"the arms {CANDIDATE} and {gate.versus} were given different general texts under the same item")
    return Paired(candidate["score"].to_numpy(), versus["score"].to_numpy(), clusters, _labels(gate, candidate, versus))


def _labels(gate: Gate, *arms: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """Give the expected labels and each arm's answers, read as tunegate.tasks reads labels; nothing where the gate needs none."""
    if gate.statistic != "macro_f1":
        return ()
    expected, *others = (arm["expected"].map(as_label).to_numpy() for arm in arms)
    if (expected == "").any():
        raise Unusable(f"{(expected == '').sum()} items have no expected answer, without which there is no macro-F1")
    if any((other != expected).any() for other in others):
        raise Unusable(f"items have other expected answers in the arm {gate.versus} than in the arm {CANDIDATE}")
    return expected, *(arm["output"].map(as_label).to_numpy() for arm in arms)


def _value(gate: Gate, paired: Paired, scores: np.ndarray, arm: int) -> float:
    """Give the gate's statistic of one arm: of `scores`, or of the labels at place `arm`."""
    if gate.statistic == "mean":
        return float(scores.mean())
    if gate.statistic == "macro_f1":
        return resample.macro_f1_of(paired.labels[arm], paired.labels[0])
    return quantiles.quantile_of(scores, _percent(gate))


def _percent(gate: Gate) -> int:
    return int(gate.statistic[1:])


def _kind(gate: Gate, *scores: np.ndarray) -> str:
    return "share" if gate.statistic == "macro_f1" else kind_of(np.concatenate(scores))


def _both(gate: Gate, paired: Paired) -> dict:
    return {
        "kind": _kind(gate, paired.candidate, paired.versus), "candidate": _value(gate, paired, paired.candidate, 1),
        "versus_value": _value(gate, paired, paired.versus, 2),
    }  # fmt: skip


def _difference(gate: Gate, policy: Policy, paired: Paired) -> dict:
    upside_down, measured = gate.direction == "lower_is_better", _both(gate, paired)
    if gate.test == "max_improvement":
        # An alarm, not a claim: the observed gain itself is compared, without a bound that noise could hide a leak in.
        gain = (measured["candidate"] - measured["versus_value"]) * (-1 if upside_down else 1)
        return measured | {"n": len(paired.candidate), "clusters": len(set(paired.clusters)), "difference": gain}
    better, worse = (paired.versus, paired.candidate) if upside_down else (paired.candidate, paired.versus)
    if gate.statistic == "mean":
        estimate = stats.difference(better, worse, paired.clusters)
        measured["mcnemar_p"] = stats.mcnemar_p(better, worse)
    elif gate.statistic == "macro_f1":
        expected, *answers = paired.labels
        estimate = resample.compare_macro_f1(*(answers[::-1] if upside_down else answers), expected, paired.clusters)
    else:
        estimate = quantiles.compare_quantiles(better, worse, paired.clusters, _percent(gate), as_ratio=False)
    threshold = gate.margin if gate.test == "superiority" else -gate.margin
    return measured | _common(estimate, policy, threshold, "low") | {"difference": estimate.value}


def _absolute(gate: Gate, policy: Policy, paired: Paired) -> dict:
    if gate.statistic == "mean":
        estimate = stats.mean(paired.candidate, paired.clusters)
    elif gate.statistic == "macro_f1":
        estimate = resample.macro_f1(paired.labels[1], paired.labels[0], paired.clusters)
    else:
        estimate = quantiles.quantile(paired.candidate, paired.clusters, _percent(gate))
    side, threshold = ("high", gate.at_most) if gate.direction == "lower_is_better" else ("low", gate.at_least)
    return {"kind": _kind(gate, paired.candidate), "candidate": estimate.value} | _common(estimate, policy, threshold, side)


def _ratio(gate: Gate, policy: Policy, paired: Paired) -> dict:
    if gate.statistic == "mean":
        estimate = stats.ratio(paired.candidate, paired.versus, paired.clusters)
    else:
        estimate = quantiles.compare_quantiles(paired.candidate, paired.versus, paired.clusters, _percent(gate), as_ratio=True)
    return _both(gate, paired) | _common(estimate, policy, gate.at_most, "high") | {"kind": "number", "ratio": estimate.value}


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
