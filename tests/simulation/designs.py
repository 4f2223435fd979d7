"""Draw results whose truth is known: scores of two arms on items in clusters, many samples at a time.

Letters: r samples, n items, C clusters.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

MEAN_SIZE = 5  # items per cluster; arbitrary, near-duplicate clusters of a test set are of this order
DISCORDANT = 0.2  # share of items on which two arms disagree
BOTH_RIGHT = 0.7 / 0.8  # share of the items on which they agree that both get right


@dataclass(frozen=True)
class Design:
    clusters: int
    icc: float
    sizes: str  # equal, skewed or very skewed
    values: str  # binary or continuous


def sizes_of(design: Design) -> np.ndarray:
    """Give the sizes of the C clusters [C]: the quantiles of a law with mean MEAN_SIZE at (i + 1/2) / C, so without luck.

    equal: all the same. skewed: geometric. very skewed: log-normal with a standard deviation of 1 of the logarithm, rounded.
    """
    middle = (np.arange(design.clusters) + 0.5) / design.clusters
    if design.sizes == "equal":
        return np.full(design.clusters, MEAN_SIZE)
    if design.sizes == "skewed":
        return stats.geom(1 / MEAN_SIZE).ppf(middle).astype(int)
    return np.maximum(1, np.round(stats.lognorm(1, scale=MEAN_SIZE * np.exp(-0.5)).ppf(middle)).astype(int))


def draw(design: Design, index: np.ndarray, effect: float, r: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scores of candidate and comparator, each [r, n], with a mean difference of `effect`.

    continuous: the difference is normal with variance 1, of which the share ICC lies between clusters.
    binary: each cluster draws how likely the four outcomes of a pair are in it from a Dirichlet law with sum (1 - ICC) / ICC,
    under which any two of its items correlate by ICC (the beta-binomial law for four outcomes; Mosimann 1962).

    Args:
        index: the cluster, 0 to C - 1, of each item [n].
    """
    count = index.max() + 1
    if design.values == "continuous":
        between = rng.standard_normal((r, count))[:, index]
        within = rng.standard_normal((r, len(index)))
        return effect + np.sqrt(design.icc) * between + np.sqrt(1 - design.icc) * within, np.zeros((r, len(index)))
    shares = np.array(outcomes(effect))
    if design.icc:
        # no outcome is impossible, or the law would not be defined
        weights = rng.standard_gamma(np.maximum(shares, 1e-9) * (1 - design.icc) / design.icc, (r, count, 4))
        limits = np.cumsum(weights / weights.sum(axis=2, keepdims=True), axis=2)[:, index, :3]
    else:
        limits = np.cumsum(shares)[:3]
    outcome = (rng.random((r, len(index), 1)) > limits).sum(axis=2)  # 0 gain, 1 loss, 2 both right, 3 both wrong
    return np.isin(outcome, (0, 2)).astype(float), np.isin(outcome, (1, 2)).astype(float)


def outcomes(effect: float) -> tuple[float, float, float, float]:
    """Give the shares of gains, losses, both right and both wrong whose difference is `effect`."""
    gains, losses = (DISCORDANT + effect) / 2, (DISCORDANT - effect) / 2
    if losses < 0:  # an effect beyond the discordant share leaves gains alone
        gains, losses = effect, 0.0
    agree = max(0.0, 1 - gains - losses)
    return gains, losses, agree * BOTH_RIGHT, agree * (1 - BOTH_RIGHT)
