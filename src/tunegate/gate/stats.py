"""Estimate means, paired differences and ratios of means, with bounds that know of clusters; plan samples; correct for many tests.

The unit is the item; items of one near-duplicate cluster are not independent (tunegate.gate.clusters). Statistics other than the
mean are in tunegate.gate.resample; docs/statistics.md tells how often all these bounds hold in simulations.

Sources:
    Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640: paired differences, clustered standard errors, power.
    Korn and Graubard 1998: Clopper-Pearson on the effective sample size when items are clustered.

Not covered: looking twice at the same sealed items.
"""

import math
from functools import partial

import numpy as np
from scipy import special, stats

from tunegate.gate.clusters import Moments, NoSpread, covariance, moments
from tunegate.gate.estimate import Bounded, Estimate, Ratio
from tunegate.gate.exact import clopper_pearson, detectable_distance, detectable_gain, discordant_bounds, is_binary, mcnemar_p

__all__ = [
    "Bounded", "Estimate", "NoSpread", "Ratio", "clopper_pearson", "clustered_se", "difference", "holm", "mcnemar_p", "mean", "planned_mde",
    "ratio", "required_items",
]  # fmt: skip

# With fewer discordant pairs the t bound is doubtful and an exact one is used too; the usual rule for a normal approximation.
FEW_DISCORDANT = 10


def mean(values: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Estimate a mean; for 0/1 values with the Clopper-Pearson bound.

    With singleton clusters that bound stands alone; otherwise the wider of it, on the effective sample size, and clustered t.
    """
    found = moments(values, clusters)
    if is_binary(values):
        return _proportion(found)
    _refuse_no_spread(found, "values")
    return _estimate(found, "clustered t")


def difference(candidate: np.ndarray, versus: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Estimate the mean of candidate - versus over pairs (same item, same position).

    For 0/1 scores with few discordant pairs, the zero among them, the bounds also cover an exact one on the shares of gains
    and losses, so that a difference without variance never gets an interval without width.

    Raises:
        NoSpread: the scores are continuous and all differences are equal; two arms then share their results. Or there are too
            few clusters.
    """
    gaps = candidate - versus
    found = moments(gaps, clusters)
    if not (is_binary(candidate) and is_binary(versus)):
        _refuse_no_spread(found, "differences")
        return _estimate(found, "paired clustered t")
    gains, losses = float((gaps > 0).mean()), float((gaps < 0).mean())
    trials = found.effective_items(gains + losses - found.value**2)
    # all gains, or all losses, leave the t interval without width although every pair is discordant
    if min(gains + losses, 1 - gains, 1 - losses) * trials >= FEW_DISCORDANT and found.se > 0:
        return _estimate(found, "paired clustered t", span=(-1.0, 1.0))
    return _estimate(
        found, "paired clustered t, exact on discordant pairs", exact=partial(discordant_bounds, gains, losses, trials),
        detectable=partial(detectable_gain, gains + losses, trials, found.degrees), span=(-1.0, 1.0),
    )  # fmt: skip


def ratio(candidate: np.ndarray, versus: np.ndarray, clusters: np.ndarray) -> Ratio:
    """Estimate mean(candidate) / mean(versus) over pairs. Its standard error is the linearised one (Cochran 1977, chapter 6).

    Raises:
        NoSpread: all pairs have the same ratio, or the mean of `versus` is not above zero. Or there are too few clusters.
    """
    top, bottom = float(candidate.mean()), float(versus.mean())
    if bottom <= 0:
        raise NoSpread("the mean of the arm compared with is not above zero, so there is no ratio")
    found = moments((candidate - top / bottom * versus) / bottom, clusters)
    _refuse_no_spread(found, "ratios")
    pairs = (candidate, candidate), (candidate, versus), (versus, versus)
    return Ratio(
        found.n, found.clusters, found.effective_clusters, top / bottom, found.se, "paired clustered t after Fieller",
        top, bottom, *(covariance(*pair, clusters) for pair in pairs),
    )  # fmt: skip


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
    """Give the standard error of a mean when items of a cluster hang together (CR2)."""
    return moments(values, clusters).se


def _estimate(found: Moments, method: str, **more) -> Estimate:
    return Estimate(found.n, found.clusters, found.effective_clusters, found.value, found.se, method, **more)


def _proportion(found: Moments) -> Estimate:
    alone = found.clusters == found.n
    trials = found.effective_items(found.value * (1 - found.value))
    method = "Clopper-Pearson" if alone else "clustered t and Clopper-Pearson on the effective sample size"
    exact = partial(clopper_pearson, found.value * trials, trials)
    detectable = partial(detectable_distance, found.value, trials, found.degrees)
    return _estimate(found, method, exact=exact, exact_alone=alone, detectable=detectable, span=(0.0, 1.0))


def _refuse_no_spread(found: Moments, what: str) -> None:
    if found.se == 0:
        raise NoSpread(f"{found.n} {what} show no spread between clusters, so their uncertainty is unknown")
