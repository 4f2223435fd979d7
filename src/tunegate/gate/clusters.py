"""Estimate a mean whose items hang together in clusters: its standard error, and how many clusters that rests on.

Letters: n items, C clusters; N_g items, p_g = N_g/n the share and S_g the sum of residuals of cluster g; rho the intraclass correlation.

A mean is a regression on nothing but an intercept, for which the small-sample methods have closed forms:

    CR2       V = sum of S_g^2 / (1 - p_g), over n^2. Unbiased whatever the sizes, where items are independent (Bell and McCaffrey
              2002). For clusters of equal size it is the usual CR1 with the factor C/(C-1).
    degrees   V is a quadratic form; Satterthwaite's degrees of freedom are 2 E(V)^2 / Var(V) under a working model in which two items
              of a cluster correlate by rho, estimated from the data (Imbens and Kolesar 2016, section 3). C - 1 for equal sizes.
    rho       from the analysis of variance for unequal sizes (Donner 1986, section 2.2).

Degrees of freedom + 1 is called the effective number of clusters here: a few large clusters count for more of the variance than
many small ones (Carter, Schnepel and Steigerwald 2017, who assume rho = 1 where it is not known).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

# With fewer, the intervals of the simulations in docs/statistics.md leave 93 to 97 % and 0/1 scores miss the declared power. Below
# 5 the t distribution no longer describes the statistic at all (Tipton 2015: four degrees of freedom).
MIN_EFFECTIVE_CLUSTERS = 8.0


class NoSpread(ValueError):
    """The values show no spread, or rest on too few clusters, so nothing can be said about their uncertainty."""


@dataclass(frozen=True)
class Moments:
    n: int
    clusters: int
    effective_clusters: float
    value: float
    se: float
    kish: float  # how many items of equal weight the clusters are worth when all items of a cluster are the same (Kish 1965)

    @property
    def degrees(self) -> float:
        return self.effective_clusters - 1

    def effective_items(self, variance: float) -> float:
        """Give how many independent items of this variance have the same standard error, fewer where that rests on few clusters.

        Korn and Graubard 1998, at their usual 95 %: the number that a binomial law is given in place of n.
        """
        if self.clusters == self.n:
            return float(self.n)
        if self.se == 0:
            return self.kish  # nothing is known of the spread between clusters, so each may be worth one item
        few = special.stdtrit(self.n - 1, 0.975) / special.stdtrit(self.degrees, 0.975)
        return float(min(self.n, variance / self.se**2) * few**2)


def moments(values: np.ndarray, clusters: np.ndarray) -> Moments:
    """Estimate the mean of clustered values.

    Raises:
        NoSpread: there are too few clusters for any bound to hold.
    """
    n = len(values)
    _, index = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(index).astype(float)
    if n < 2 or len(sizes) < 2:
        raise NoSpread(f"{n} items in {len(sizes)} clusters cannot show a spread")
    value = math.fsum(values) / n
    # float noise around a constant is no spread
    centred = np.zeros(n) if np.ptp(values) <= 1e-12 * max(1.0, abs(value)) else values - value
    sums = np.bincount(index, weights=centred)
    shares = sizes / n
    se = math.sqrt(math.fsum(sums**2 / (1 - shares))) / n
    effective = 1 + _degrees(sizes, _correlation(sizes, sums, math.fsum(centred**2)))
    if effective < MIN_EFFECTIVE_CLUSTERS:
        raise NoSpread(
            f"{n} items in {len(sizes)} clusters, the largest of {int(sizes.max())}, count for {effective:.1f} clusters of equal size, "
            f"too few for any bound to hold; {MIN_EFFECTIVE_CLUSTERS:.0f} are needed, which about "
            f"{math.ceil(len(sizes) * MIN_EFFECTIVE_CLUSTERS / effective)} clusters like these would give"
        )
    return Moments(n, len(sizes), effective, value, se, 1 / math.fsum(shares**2))


def covariance(first: np.ndarray, second: np.ndarray, clusters: np.ndarray) -> float:
    """Give the CR2 covariance of two means over the same items; with itself, the squared standard error."""
    _, index = np.unique(clusters, return_inverse=True)
    a, b = (np.bincount(index, weights=values - math.fsum(values) / len(values)) for values in (first, second))
    return math.fsum(a * b / (1 - np.bincount(index) / len(index))) / len(index) ** 2


def _correlation(sizes: np.ndarray, sums: np.ndarray, squares: float) -> float:
    """Estimate rho, between 0 and 1, from the residuals' sums by cluster and their sum of squares."""
    n, count = sizes.sum(), len(sizes)
    if n == count:
        return 0.0
    between = float((sums**2 / sizes).sum())
    within = max(0.0, squares - between) / (n - count)
    between /= count - 1
    usual_size = (n - float((sizes**2).sum()) / n) / (count - 1)
    total = between + (usual_size - 1) * within
    return min(1.0, max(0.0, (between - within) / total)) if total > 0 else 0.0


def _degrees(sizes: np.ndarray, rho: float) -> float:
    """Give Satterthwaite's degrees of freedom of the CR2 variance: trace(AW)^2 / trace(AWAW).

    W = D - p v' - v p' + (sum of v) p p' is the covariance of the residuals' sums, with v_g the variance of a cluster's total and
    D its diagonal matrix; A holds the weights 1 / (1 - p_g). W is diagonal but for two ranks, so the traces are sums over clusters.
    """
    shares = sizes / sizes.sum()
    variances = sizes * (1 + (sizes - 1) * rho)
    total = variances.sum()
    weights = 1 / (1 - shares)
    low_rank = shares * (total * shares - 2 * variances)  # diagonal of W - D
    trace = (weights * (variances + low_rank)).sum()
    pp, pv, vv = ((weights * a * b).sum() for a, b in ((shares, shares), (shares, variances), (variances, variances)))
    squared = (weights**2 * variances * (variances + 2 * low_rank)).sum()
    squared += 2 * pp * vv + 2 * pv**2 + (total * pp) ** 2 - 4 * total * pp * pv
    return float(trace**2 / squared)
