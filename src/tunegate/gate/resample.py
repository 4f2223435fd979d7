"""Estimate statistics other than the mean by the cluster bootstrap; among them macro-F1.

Whole clusters are drawn with replacement, the same ones for both arms (Davison and Hinkley 1997, section 3.8), and the interval
is the expanded percentile one (Hesterberg 2015, section 5.3): percentiles as far out as t with the degrees of freedom at hand has
them, because plain ones are too narrow for few clusters. In simulations BCa and studentised intervals held no better.

The draws are those of MT19937 with a fixed seed, the one stream that numpy promises not to change (NEP 19), and what is sorted is
counted in whole numbers: the same evidence gives the same bounds on every machine.

Letters: n items, C clusters, B resamples (b at a time), K labels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from tunegate.gate.clusters import Moments, NoSpread, moments
from tunegate.gate.estimate import Bounded

RESAMPLES = 4999  # B + 1 times alpha is a whole number for the usual alphas (Davison and Hinkley 1997, section 4.2)
CHUNK = 500  # resamples held in memory at a time
Statistic = Callable[[np.ndarray], np.ndarray]  # how often each cluster was drawn [b, C] -> values [b]


@dataclass(frozen=True)
class Resampled(Bounded):
    """A statistic with its sorted values over B resamples [B]."""

    values: np.ndarray

    def bounds(self, alpha: float) -> tuple[float, float]:
        at = float(special.ndtr(self._t(alpha) * self._expansion))
        place = max(1, math.floor(at * (len(self.values) + 1) + 1e-9))
        return float(self.values[place - 1]), float(self.values[-place])

    def p_above(self, threshold: float) -> float:
        return self._p(int(np.searchsorted(self.values, threshold, side="right")))

    def p_below(self, threshold: float) -> float:
        return self._p(len(self.values) - int(np.searchsorted(self.values, threshold, side="left")))

    def _p(self, beyond: int) -> float:
        share = min((beyond + 1) / (len(self.values) + 1), 1 - 1e-12)
        return float(special.stdtr(self.degrees, special.ndtri(share) / self._expansion))

    @property
    def _expansion(self) -> float:
        return math.sqrt(self.effective_clusters / self.degrees)


def macro_f1_of(predicted: np.ndarray, expected: np.ndarray) -> float:
    """Give the mean of the F1 scores of every expected label."""
    return float(_macro_f1(predicted, expected, np.arange(len(expected)))(np.ones((1, len(expected))))[0])


def macro_f1(predicted: np.ndarray, expected: np.ndarray, clusters: np.ndarray) -> Resampled:
    """Estimate the mean of the F1 scores of every expected label.

    A prediction that is no expected label is a miss of the right one, and no label of its own. A label that a resample does not
    hold is left out of that resample's mean.

    Raises:
        NoSpread: a label is expected in one cluster only, or there are too few clusters, or all answers are right.
    """
    found = moments((predicted == expected).astype(float), clusters)
    return resampled(found, _macro_f1(predicted, expected, clusters), "cluster bootstrap of macro-F1")


def compare_macro_f1(candidate: np.ndarray, versus: np.ndarray, expected: np.ndarray, clusters: np.ndarray) -> Resampled:
    """Estimate the difference of macro-F1 of two arms over the same items. Raises as `macro_f1`."""
    found = moments((candidate == expected).astype(float) - (versus == expected), clusters)
    arms = [_macro_f1(predicted, expected, clusters) for predicted in (candidate, versus)]
    return resampled(found, compared(*arms, as_ratio=False), "paired cluster bootstrap of macro-F1")


def resampled(found: Moments, statistic: Statistic, method: str) -> Resampled:
    """Estimate a statistic by drawing clusters; `found` says how many of them count.

    Raises:
        NoSpread: all resamples give the same.
    """
    value = float(statistic(np.ones((1, found.clusters), dtype=np.int64))[0])
    random = np.random.RandomState(0)
    parts = []
    for start in range(0, RESAMPLES, CHUNK):
        b = min(CHUNK, RESAMPLES - start)
        drawn = random.randint(0, found.clusters, size=(b, found.clusters), dtype=np.int64)
        drawn += np.arange(b)[:, None] * found.clusters
        parts.append(statistic(np.bincount(drawn.ravel(), minlength=b * found.clusters).reshape(b, found.clusters)))
    values = np.sort(np.concatenate(parts))
    if values[0] == values[-1]:
        raise NoSpread(f"all resamples of {found.clusters} clusters give the same, so its uncertainty is unknown")
    return Resampled(found.n, found.clusters, found.effective_clusters, value, float(values.std(ddof=1)), method, values)


def compared(candidate: Statistic, versus: Statistic, as_ratio: bool) -> Statistic:
    """Make the difference, or the ratio, of two statistics of the same clusters."""

    def compare(drawn: np.ndarray) -> np.ndarray:
        ours, theirs = candidate(drawn), versus(drawn)
        if not as_ratio:
            return ours - theirs
        if (theirs <= 0).any():
            raise NoSpread("the arm compared with is not above zero in every resample, so there is no ratio")
        return ours / theirs

    return compare


def _macro_f1(predicted: np.ndarray, expected: np.ndarray, clusters: np.ndarray) -> Statistic:
    index, labels = np.unique(clusters, return_inverse=True)[1], np.unique(expected)
    right, told, wanted = (np.zeros((index.max() + 1, len(labels))) for _ in range(3))  # counts [C, K]
    places = np.searchsorted(labels, expected)
    np.add.at(wanted, (index, places), 1)
    np.add.at(right, (index, places), predicted == expected)
    known = np.isin(predicted, labels)
    np.add.at(told, (index[known], np.searchsorted(labels, predicted[known])), 1)
    if (lonely := np.flatnonzero((wanted > 0).sum(axis=0) < 2)).size:
        raise NoSpread(
            f"the label '{labels[lonely[0]]}' is expected in one cluster only, so how well it is told apart is not known"
            + (f" (as for {len(lonely) - 1} others)" if len(lonely) > 1 else "")
        )

    def statistic(drawn: np.ndarray) -> np.ndarray:
        hits, sums, present = drawn @ right, drawn @ (told + wanted), drawn @ wanted > 0
        return (2 * hits / np.maximum(sums, 1)).sum(axis=1) / present.sum(axis=1)

    return statistic
