"""Run the gate's own estimators on samples of one design, and count how often they are wrong."""

import numpy as np

from tests.simulation.designs import Design, draw, outcomes, sizes_of
from tunegate.gate import stats

ALPHA, POWER, MARGIN = 0.05, 0.8, 0.05
BATCH = 500  # samples drawn at a time, so that they fit the cache


def run_cell(design: Design, runs: int, seed: int = 0) -> dict:
    """Give the rates of one cell, among the runs whose design the gate accepts, and the share that it refuses.

    effective_clusters: mean. mde: mean over the runs without effect. promoted_*: the bound passes although the truth is just
    not good enough. covered_*: the 95 % interval holds the truth. power: the bound passes when the truth is the declared MDE.
    """
    rng = np.random.default_rng([seed, design.clusters, round(10 * design.icc), len(design.sizes), len(design.values)])
    none = _differences(design, 0.0, 0.0, runs, rng)
    worse = _differences(design, -MARGIN, -MARGIN, runs, rng)
    found = {
        "items": int(sizes_of(design).sum()), "refused": none["refused"], "effective_clusters": none["effective_clusters"],
        "promoted_superior": none["promoted"], "promoted_noninferior": worse["promoted"], "mde": none["mde"],
        "covered_no_effect": none["covered"], "covered_margin": worse["covered"], "exact": max(none["exact"], worse["exact"]),
    }  # fmt: skip
    if none["refused"] < 1:
        better = _differences(design, none["mde"], 0.0, runs, rng)
        found |= {"power": better["promoted"], "covered_mde": better["covered"], "exact": max(found["exact"], better["exact"])}
    if design.values == "binary":
        found |= {name: value for name, value in none.items() if name.startswith("share")}
    return found


def _differences(design: Design, effect: float, threshold: float, runs: int, rng: np.random.Generator) -> dict:
    """Judge the difference, and for binary scores the candidate's share of right answers, whose truth is its own threshold."""
    sizes = sizes_of(design)
    index = np.repeat(np.arange(len(sizes)), sizes)
    gains, _, both, _ = outcomes(effect)
    rows, shares = [], []
    for start in range(0, runs, BATCH):
        for candidate, versus in zip(*draw(design, index, effect, min(BATCH, runs - start), rng), strict=True):
            try:
                found = stats.difference(candidate, versus, index)
                rows.append((
                    found.bounds(ALPHA)[0] > threshold, _holds(found.interval(), effect), found.mde(ALPHA, POWER),
                    found.effective_clusters, found.exact is not None,
                ))  # fmt: skip
            except stats.NoSpread:
                pass
            try:
                share = stats.mean(candidate, index)
                low = share.bounds(ALPHA)[0]
                shares.append((low >= gains + both - 1e-12, _holds(share.interval(), gains + both), low, share.mde(ALPHA, POWER)))
            except stats.NoSpread:
                pass
    names = ("promoted", "covered", "mde", "effective_clusters", "exact")
    found = dict(zip(names, np.mean(rows, axis=0).tolist() if rows else [0.0] * len(names), strict=True)) | {
        "refused": 1 - len(rows) / runs
    }
    if design.values == "binary" and shares:
        low, mde = np.array(shares)[:, 2], np.mean(shares, axis=0)[3]
        found |= {"share_promoted": np.mean(shares, axis=0)[0], "share_covered": np.mean(shares, axis=0)[1]}
        found |= {"share_mde": mde, "share_power": (low >= gains + both - mde).mean(), "share_refused": 1 - len(shares) / runs}
    return found


def _holds(interval: tuple[float, float], truth: float) -> bool:
    # a bound that equals the truth holds it, whatever float arithmetic makes of the two
    return interval[0] <= truth + 1e-12 and truth - 1e-12 <= interval[1]
