"""Estimate means, paired differences and ratios with clustered standard errors, and bound them.

The unit is the item; items of one near-duplicate cluster are not independent. Letters: n items, C clusters.

Sources:
    Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640: paired differences, clustered standard error, power.
    Cameron and Miller 2015, "A Practitioner's Guide to Cluster-Robust Inference": factor C/(C-1), t with C-1 degrees of freedom.
    Clopper and Pearson 1934: exact bound of a proportion.
    Korn and Graubard 1998: Clopper-Pearson on the effective sample size when items are clustered.
    McNemar 1947, exact form: among discordant pairs, gains are Binomial(gains + losses, 1/2).
    Cochran 1977, Sampling Techniques, chapter 6: linearised standard error of a ratio of means.

Not covered: fewer than about 20 clusters, where even the t bound is too narrow (policies say min_clusters); looking twice
at the same sealed items.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import optimize, special, stats

# With fewer discordant pairs the t bound is doubtful and an exact one is used too; the usual rule for a normal approximation.
FEW_DISCORDANT = 10


class NoSpread(ValueError):
    """The values of a continuous measure show no spread, or there are too few, so nothing can be said about their uncertainty."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its clustered standard error, bounded by t, by `exact`, or by the wider of the two."""

    n: int
    clusters: int
    value: float
    se: float
    method: str
    exact: Callable[[float], tuple[float, float]] | None = None
    exact_alone: bool = False
    span: tuple[float, float] = (-math.inf, math.inf)  # what the true value can be; t knows nothing of it

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Give the lower and the upper confidence limit, each one-sided at level 1 - alpha."""
        reach = _t(1 - alpha, self.clusters) * self.se
        low, high = self.value - reach, self.value + reach
        if self.exact is not None:
            exact_low, exact_high = self.exact(alpha)
            low, high = (exact_low, exact_high) if self.exact_alone else (min(low, exact_low), max(high, exact_high))
        return max(low, self.span[0]), min(high, self.span[1])

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Give the two-sided interval."""
        return self.bounds((1 - level) / 2)

    def p_above(self, threshold: float) -> float:
        """Give the one-sided p-value of "the true value is at most `threshold`"."""
        return self._p(self.value - threshold, lambda alpha: self.exact(alpha)[0] - threshold)

    def p_below(self, threshold: float) -> float:
        """Give the one-sided p-value of "the true value is at least `threshold`"."""
        return self._p(threshold - self.value, lambda alpha: threshold - self.exact(alpha)[1])

    def _p(self, distance: float, exact_slack: Callable[[float], float]) -> float:
        found = []
        if not self.exact_alone and self.se > 0:
            found.append(float(stats.t.sf(distance / self.se, self.clusters - 1)))
        if self.exact is not None:
            found.append(_smallest_alpha(exact_slack))
        return max(found)

    def mde(self, alpha: float, power: float) -> float:
        """Give the smallest true distance from the threshold that this sample finds with probability `power` (Miller 2024, section 5).

        Never less than the distance from the value to its own bound: with few discordant pairs the standard error flatters.
        """
        low, high = self.bounds(alpha)
        by_t = (_t(1 - alpha, self.clusters) + _t(power, self.clusters)) * self.se
        return max(by_t, self.value - low, high - self.value)

    def required_n(self, distance: float, alpha: float, power: float) -> int | None:
        """Give how many items, as spread and as clustered as these, find a true `distance` with probability `power`.

        None for a distance of zero or less: no number of items proves what is not so.
        """
        return math.ceil(self.n * (self.mde(alpha, power) / distance) ** 2) if distance > 0 else None


def mean(values: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Estimate a mean; for 0/1 values with the Clopper-Pearson bound.

    With singleton clusters that bound stands alone; otherwise the wider of it, on the effective sample size, and clustered t.
    """
    n, count, value, se = _moments(values, clusters)
    if _is_binary(values):
        return _proportion(n, count, value, se)
    _refuse_no_spread(se, values)
    return Estimate(n, count, value, se, "clustered t")


def difference(candidate: np.ndarray, versus: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Estimate the mean of candidate - versus over pairs (same item, same position).

    For 0/1 scores with few discordant pairs, the zero among them, the bounds also cover an exact one on the shares of gains
    and losses, so that a difference without variance never gets an interval without width.

    Raises:
        NoSpread: the scores are continuous and all differences are equal; two arms then share their results.
    """
    gaps = candidate - versus
    n, count, value, se = _moments(gaps, clusters)
    if not (_is_binary(candidate) and _is_binary(versus)):
        _refuse_no_spread(se, gaps)
        return Estimate(n, count, value, se, "paired clustered t")
    gains, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
    # all gains, or all losses, leave the t interval without width although every pair is discordant
    if min(gains + losses, n - gains, n - losses) >= FEW_DISCORDANT and se > 0:
        return Estimate(n, count, value, se, "paired clustered t", span=(-1.0, 1.0))
    # Clusters, not items, are the independent trials; the shares of items are carried over to them.
    up, down = gains / n * count, losses / n * count

    def exact(alpha: float) -> tuple[float, float]:
        # Bonferroni over the two shares; conservative, and exact when all clusters hold one item.
        up_low, up_high = clopper_pearson(up, count, alpha / 2)
        down_low, down_high = clopper_pearson(down, count, alpha / 2)
        return up_low - down_high, up_high - down_low

    return Estimate(n, count, value, se, "paired clustered t, exact on discordant pairs", exact, span=(-1.0, 1.0))


def ratio(candidate: np.ndarray, versus: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Estimate mean(candidate) / mean(versus) over pairs.

    Raises:
        NoSpread: all pairs have the same ratio, or the mean of `versus` is not above zero.
    """
    base = float(versus.mean())
    if base <= 0:
        raise NoSpread("the mean of the arm compared with is not above zero, so there is no ratio")
    value = float(candidate.mean()) / base
    residuals = (candidate - value * versus) / base
    n, count, _, se = _moments(residuals, clusters)
    _refuse_no_spread(se, residuals)
    return Estimate(n, count, value, se, "paired clustered t of the linearised ratio")


def mcnemar_p(candidate: np.ndarray, versus: np.ndarray) -> float | None:
    """Give the exact two-sided McNemar p-value for 0/1 scores, None for others. It ignores clusters, so it only cross-checks."""
    if not (_is_binary(candidate) and _is_binary(versus)):
        return None
    gains, losses = int((candidate > versus).sum()), int((candidate < versus).sum())
    return float(stats.binomtest(gains, gains + losses, 0.5).pvalue) if gains + losses else 1.0


def clopper_pearson(successes: float, trials: float, alpha: float) -> tuple[float, float]:
    """Give the lower and the upper limit of a proportion, each one-sided at 1 - alpha; counts may be effective (fractional) ones."""
    low = float(stats.beta.ppf(alpha, successes, trials - successes + 1)) if successes > 0 else 0.0
    high = float(stats.beta.ppf(1 - alpha, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def required_items(distance: float, spread: float, alpha: float, power: float) -> int:
    """Plan a sample: how many unclustered items find a true `distance` from the threshold, given the standard deviation of one item.

    For 0/1 scores the spread of a paired difference is sqrt(share of discordant pairs - difference squared).
    """
    return math.ceil(((stats.norm.ppf(1 - alpha) + stats.norm.ppf(power)) * spread / distance) ** 2)


def planned_mde(n: int, spread: float, alpha: float, power: float, clusters: int | None = None, icc: float = 0.0) -> float:
    """Plan a sample: the smallest true distance from the threshold that n items find with probability `power`.

    Exact for normal values (noncentral t). Items in clusters count for less, by the design effect 1 + (n/clusters - 1) icc (Kish
    1965); clusters of unequal size are worth less still.

    Args:
        spread: standard deviation of one item, or of its paired difference.
        clusters: None where every item is its own cluster.
        icc: the share of the variance that lies between clusters.
    """
    clusters = clusters or n
    se = spread * math.sqrt((1 + (n / clusters - 1) * icc) / n)
    degrees = clusters - 1
    return se * float(special.nctdtrinc(degrees, 1 - power, special.stdtrit(degrees, 1 - alpha)))


def holm(p_values: list[float]) -> list[float]:
    """Adjust p-values of several claims so that the chance of any false one stays below alpha (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests  # a second of imports

    return multipletests(p_values, method="holm")[1].tolist() if p_values else []


def clustered_se(values: np.ndarray, clusters: np.ndarray) -> float:
    """Give the standard error of a mean when items of a cluster hang together (Miller 2024, equation 4, with the factor C/(C-1))."""
    return _moments(values, clusters)[3]


def _moments(values: np.ndarray, clusters: np.ndarray) -> tuple[int, int, float, float]:
    n = len(values)
    _, index = np.unique(clusters, return_inverse=True)
    count = int(index.max()) + 1
    if n < 2 or count < 2:
        raise NoSpread(f"{n} items in {count} clusters cannot show a spread")
    value = math.fsum(values) / n
    # float noise around a constant is no spread
    centred = np.zeros(n) if np.ptp(values) <= 1e-12 * max(1.0, abs(value)) else values - value
    sums = np.bincount(index, weights=centred)
    return n, count, value, math.sqrt(count / (count - 1) * math.fsum(sums**2)) / n


def _proportion(n: int, count: int, value: float, se: float) -> Estimate:
    alone = count == n
    if alone:
        effective, method = n, "Clopper-Pearson"
    else:
        # a cluster without spread inside and between is worth one item
        effective = min(n, value * (1 - value) / se**2) if se > 0 else count
        method = "clustered t and Clopper-Pearson on the effective sample size"
    return Estimate(n, count, value, se, method, partial(clopper_pearson, value * effective, effective), alone, (0.0, 1.0))


def _is_binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _refuse_no_spread(se: float, values: np.ndarray) -> None:
    if se == 0:
        raise NoSpread(f"{len(values)} values show no spread between clusters, so their uncertainty is unknown")


def _t(probability: float, clusters: int) -> float:
    return float(stats.t.ppf(probability, clusters - 1))


def _smallest_alpha(slack: Callable[[float], float]) -> float:
    """Find the smallest alpha at which a bound reaches the threshold; `slack` grows with alpha."""
    smallest, largest = 1e-12, 1 - 1e-12
    if slack(smallest) >= 0:
        return smallest
    if slack(largest) <= 0:
        return 1.0
    return float(optimize.brentq(slack, smallest, largest, xtol=1e-12))
