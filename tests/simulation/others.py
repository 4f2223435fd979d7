"""Simulate ratios, quantiles and macro-F1, whose truth is known from the law that the results are drawn from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

from tests.simulation.cells import ALPHA
from tunegate.gate import quantiles, resample, stats

RESAMPLES = 999  # fewer than the gate draws, for time: its bounds then only vary more
LABELS = 5  # the k-th label is expected 1/k as often as the first (Zipf)


@dataclass(frozen=True)
class Other:
    name: str
    clusters: int
    size: int  # items per cluster
    icc: float
    side: str  # the side that the gate's bound is on: low or high
    sample: Callable  # a generator, index [n] and Other -> estimate
    truth: float


def latencies(rng: np.random.Generator, index: np.ndarray, icc: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw log-normal seconds of two equal arms, correlated by 0.5 over the items; `spread` is the logarithm's deviation."""
    count = index.max() + 1
    shared, ours, theirs = (
        np.sqrt(icc) * rng.standard_normal(count)[index] + np.sqrt(1 - icc) * rng.standard_normal(len(index)) for _ in range(3)
    )
    return tuple(np.exp(spread * np.sqrt(0.5) * (shared + own)) for own in (ours, theirs))


def answers(rng: np.random.Generator, index: np.ndarray, icc: float, right: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the expected labels and the answers of two equal arms; a wrong answer is any other label."""
    n, shares = len(index), 1 / np.arange(1, LABELS + 1)
    expected = rng.choice(LABELS, n, p=shares / shares.sum())
    shared = np.sqrt(icc) * rng.standard_normal(index.max() + 1)[index] + np.sqrt(1 - icc) * rng.standard_normal(n)

    def arm() -> np.ndarray:
        ease = np.sqrt(0.5) * (shared + rng.standard_normal(n))
        wrong = (expected + rng.integers(1, LABELS, n)) % LABELS
        return np.where(ease < scipy_stats.norm.ppf(right), expected, wrong)

    return arm(), arm(), expected


def true_macro_f1(right: float) -> float:
    shares = 1 / np.arange(1, LABELS + 1)
    shares /= shares.sum()
    told = right * shares + (1 - right) * (1 - shares) / (LABELS - 1)
    return float((2 * right * shares / (shares + told)).mean())


def _ratio(spread):
    return lambda rng, index, icc: stats.ratio(*latencies(rng, index, icc, spread), index)


def _quantile(percent, spread=0.5):
    return lambda rng, index, icc: quantiles.quantile(latencies(rng, index, icc, spread)[0], index, percent)


def _compared(percent, as_ratio, spread=0.5):
    return lambda rng, index, icc: quantiles.compare_quantiles(*latencies(rng, index, icc, spread), index, percent, as_ratio)


def _f1(right):
    def sample(rng, index, icc):
        ours, _, expected = answers(rng, index, icc, right)
        return resample.macro_f1(ours, expected, index)

    return sample


def _f1_difference(right):
    def sample(rng, index, icc):
        return resample.compare_macro_f1(*answers(rng, index, icc, right), index)

    return sample


def _others():
    for clusters, size, icc in ((100, 1, 0), (50, 5, 0.3), (200, 5, 0.3)):
        for spread in (0.5, 1.0):
            yield Other(f"ratio of means, log-normal {spread}", clusters, size, icc, "high", _ratio(spread), 1.0)
        for percent in (50, 95):
            truth = float(np.exp(0.5 * scipy_stats.norm.ppf(percent / 100)))
            yield Other(f"p{percent} of one arm", clusters, size, icc, "high", _quantile(percent), truth)
            yield Other(f"ratio of p{percent}", clusters, size, icc, "high", _compared(percent, True), 1.0)
        yield Other("difference of p90", clusters, size, icc, "low", _compared(90, False), 0.0)
        yield Other("macro-F1, 80 % right", clusters, size, icc, "low", _f1(0.8), true_macro_f1(0.8))
        for right in (0.8, 0.97):
            yield Other(f"difference of macro-F1, {100 * right:.0f} % right", clusters, size, icc, "low", _f1_difference(right), 0.0)
    for clusters, size, icc in ((500, 1, 0), (300, 5, 0.3)):
        yield Other("p99 of one arm", clusters, size, icc, "high", _quantile(99), float(np.exp(0.5 * scipy_stats.norm.ppf(0.99))))
        yield Other("ratio of p99", clusters, size, icc, "high", _compared(99, True), 1.0)


OTHERS = list(_others())


def run_other(other: Other, runs: int, seed: int = 0) -> dict:
    """Give the rates of false promotion, of all runs, of coverage, of those not refused, and of refusals."""
    rng = np.random.default_rng([seed, other.clusters, other.size, *other.name.encode()])
    index = np.repeat(np.arange(other.clusters), other.size)
    resamples, resample.RESAMPLES = resample.RESAMPLES, RESAMPLES
    rows = []
    for _ in range(runs):
        try:
            found = other.sample(rng, index, other.icc)
            low, high = found.bounds(ALPHA)
            promoted = low > other.truth if other.side == "low" else high < other.truth
            rows.append((promoted, found.interval()[0] <= other.truth <= found.interval()[1]))
        except stats.NoSpread:
            pass
    resample.RESAMPLES = resamples
    promoted, covered = np.mean(rows, axis=0) if rows else (np.nan, np.nan)
    # quantiles and labels take few values, so that their bounds are conservative as exact ones of shares are
    exact = float(not other.name.startswith("ratio of means"))
    return {
        "items": len(index),
        "promoted": promoted * len(rows) / runs,
        "covered": covered,
        "refused": 1 - len(rows) / runs,
        "exact": exact,
    }
