"""Run the gate's own estimators on samples of one design, count how often they are wrong, and say whether that is allowed."""

import numpy as np
from scipy import stats as scipy_stats

from tests.simulation.designs import Design, draw, outcomes, sizes_of
from tunegate.gate import stats

ALPHA, POWER, MARGIN = 0.05, 0.8, 0.05
BATCH = 500  # samples drawn at a time, so that they fit the cache
# What issue 5 asks of every cell.
MAX_FALSE_PROMOTION, MIN_COVERAGE, MAX_COVERAGE = 0.06, 0.93, 0.97


def run_cell(design: Design, runs: int, seed: int = 0) -> dict:
    """Give the rates of one cell and the share of runs that the gate refuses.

    promoted_*: the bound passes although the truth is just not good enough, of all runs: what is refused is not promoted.
    covered_*: the 95 % interval holds the truth, of the runs not refused, as all that follows.
    mde: declared on average where there is no effect. power: the bound passes where the truth is that mde. share_*: of the
    candidate's share of right answers, tested against its own truth; its power is that against a threshold lower by its mde.
    """
    rng = np.random.default_rng([seed, design.clusters, round(10 * design.icc), len(design.sizes), len(design.values)])
    none = _judge(design, 0.0, 0.0, runs, rng)
    worse = _judge(design, -MARGIN, -MARGIN, runs, rng)
    found = {
        "items": int(sizes_of(design).sum()), "refused": none["refused"], "effective_clusters": none["effective_clusters"],
        "promoted_superior": none["promoted_of_all"], "promoted_noninferior": worse["promoted_of_all"], "mde": none["mde"],
        "covered_no_effect": none["covered"], "covered_margin": worse["covered"], "exact": none["exact"],
    }  # fmt: skip
    if none["refused"] < 0.5:
        better = _judge(design, none["mde"], 0.0, runs, rng)
        found |= {"power": better["promoted"], "covered_mde": better["covered"]}
    return found | {name: value for name, value in none.items() if name.startswith("share")}


def outcome(found: dict, runs: int, tolerance: float = 0.0) -> str:
    """Say whether a cell holds: "holds", "holds, conservative", "too few clusters", or what breaks.

    Args:
        tolerance: chance with which a cell exactly at a limit may be called broken; 0 compares the bare rates with the limits.
            The power is always compared with a tolerance of 0.001, as the declared effect aims at 0.8 itself.
    """
    if found["refused"] >= 0.5:
        return "too few clusters"
    accepted, said = round(runs * (1 - found["refused"])), []
    for name, rate in found.items():
        if "promoted" in name and _above(rate, MAX_FALSE_PROMOTION, runs, tolerance):
            said.append("false promotion")
        if "covered" in name and _above(1 - rate, 1 - MIN_COVERAGE, accepted, tolerance):
            said.append("coverage")
        if name in ("power", "share_power") and _above(1 - rate, 1 - POWER, accepted, tolerance or 0.001):
            said.append("power")
    wide = [name for name, rate in found.items() if "covered" in name and _above(rate, MAX_COVERAGE, accepted, tolerance)]
    # bounds that are exact for discrete laws hold too often, and no more: a share's always are, a difference's of few discordant pairs
    if any(not name.startswith("share") for name in wide) and found["exact"] < 0.05:
        said.append("coverage above 97 %")
    if said:
        return "breaks: " + ", ".join(dict.fromkeys(said))
    return "holds, conservative" if wide else "holds"


def _above(rate: float, limit: float, runs: int, tolerance: float) -> bool:
    if tolerance == 0:
        return rate > limit + 1e-12
    return scipy_stats.binom.sf(round(rate * runs) - 1, runs, limit) < tolerance


def _judge(design: Design, effect: float, threshold: float, runs: int, rng: np.random.Generator) -> dict:
    """Judge the difference, and for binary scores the candidate's share of right answers, whose truth is its own threshold."""
    sizes = sizes_of(design)
    index = np.repeat(np.arange(len(sizes)), sizes)
    gains, _, both, _ = outcomes(effect)
    truth, rows, shares = gains + both, [], []
    for start in range(0, runs, BATCH):
        for candidate, versus in zip(*draw(design, index, effect, min(BATCH, runs - start), rng), strict=True):
            if (found := _estimated(stats.difference, candidate, versus, index)) is not None:
                passed = found.bounds(ALPHA)[0] > threshold
                mde = found.mde(ALPHA, POWER)
                rows.append((passed, _holds(found.interval(), effect), mde, found.effective_clusters, found.exact is not None))
            if design.values == "binary" and (share := _estimated(stats.mean, candidate, index)) is not None:
                low = share.bounds(ALPHA)[0]
                shares.append((low >= truth - 1e-12, _holds(share.interval(), truth), low, share.mde(ALPHA, POWER)))
    names = ("promoted", "covered", "mde", "effective_clusters", "exact")
    means = np.mean(rows, axis=0).tolist() if rows else [np.nan] * len(names)
    judged = dict(zip(names, means, strict=True)) | {"refused": 1 - len(rows) / runs}
    judged["promoted_of_all"] = sum(row[0] for row in rows) / runs
    if shares:
        passed, covered, low, mde = np.array(shares, dtype=float).T
        power = (low >= truth - mde.mean()).mean()
        judged |= {"share_promoted": passed.sum() / runs, "share_covered": covered.mean(), "share_mde": mde.mean(), "share_power": power}
    return judged


def _estimated(estimator, *values):
    try:
        return estimator(*values)
    except stats.NoSpread:
        return None


def _holds(interval: tuple[float, float], truth: float) -> bool:
    # a bound that equals the truth holds it, whatever float arithmetic makes of the two
    return interval[0] <= truth + 1e-12 and truth - 1e-12 <= interval[1]
