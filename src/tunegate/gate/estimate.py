"""Hold an estimate that knows its bounds, its p-values, and how small an effect it could have found.

Sources:
    Bloom 1995, "Minimum detectable effects": the sum of two t quantiles, times the standard error.
    Holtzman 1950: a standard error of few degrees of freedom is too small on average, by the factor c4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import special

from tunegate.gate.clusters import NoSpread
from tunegate.gate.exact import smallest_alpha


@dataclass(frozen=True)
class Bounded:
    """An estimate that knows its bounds; what follows from them is the same however they were found."""

    n: int
    clusters: int
    effective_clusters: float  # Satterthwaite's degrees of freedom + 1
    value: float
    se: float
    method: str

    @property
    def degrees(self) -> float:
        return self.effective_clusters - 1

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Give the lower and the upper confidence limit, each one-sided at level 1 - alpha."""
        raise NotImplementedError

    def p_above(self, threshold: float) -> float:
        """Give the one-sided p-value of "the true value is at most `threshold`"."""
        raise NotImplementedError

    def p_below(self, threshold: float) -> float:
        """Give the one-sided p-value of "the true value is at least `threshold`"."""
        raise NotImplementedError

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Give the two-sided interval."""
        return self.bounds((1 - level) / 2)

    def mde(self, alpha: float, power: float) -> float:
        """Give the smallest true distance from the threshold that this sample finds with probability `power`.

        Bloom's multiple of the standard error; where the bounds are wider than t has them, of the standard error that would give
        t bounds as wide.
        """
        low, high = self.bounds(alpha)
        by_alpha, by_power = self._t(1 - alpha), self._t(power)
        return max(self.se / self._c4, (self.value - low) / by_alpha, (high - self.value) / by_alpha) * (by_alpha + by_power)

    def required_n(self, distance: float, alpha: float, power: float) -> int | None:
        """Give how many items, as spread and as clustered as these, find a true `distance` with probability `power`.

        None for a distance of zero or less: no number of items proves what is not so.
        """
        return math.ceil(self.n * (self.mde(alpha, power) / distance) ** 2) if distance > 0 else None

    @property
    def _c4(self) -> float:
        half = self.degrees / 2
        return math.exp(special.gammaln(half + 0.5) - special.gammaln(half)) / math.sqrt(half)

    def _t(self, probability: float) -> float:
        return float(special.stdtrit(self.degrees, probability))


@dataclass(frozen=True)
class Estimate(Bounded):
    """A mean with its clustered standard error, bounded by t, by `exact`, or by the wider of the two."""

    exact: Callable[[float], tuple[float, float]] | None = None
    exact_alone: bool = False
    detectable: Callable[[float, float], float] | None = None  # by alpha and power, of 0/1 scores, whose spread depends on the effect
    span: tuple[float, float] = (-math.inf, math.inf)  # what the true value can be; t knows nothing of it

    def bounds(self, alpha: float) -> tuple[float, float]:
        reach = self._t(1 - alpha) * self.se
        low, high = self.value - reach, self.value + reach
        if self.exact is not None:
            exact_low, exact_high = self.exact(alpha)
            low, high = (exact_low, exact_high) if self.exact_alone else (min(low, exact_low), max(high, exact_high))
        return max(low, self.span[0]), min(high, self.span[1])

    def mde(self, alpha: float, power: float) -> float:
        found = super().mde(alpha, power)
        return max(found, min(1.0, self.detectable(alpha, power) / self._c4)) if self.detectable is not None else found

    def p_above(self, threshold: float) -> float:
        return self._p(self.value - threshold, lambda alpha: self.exact(alpha)[0] - threshold)

    def p_below(self, threshold: float) -> float:
        return self._p(threshold - self.value, lambda alpha: threshold - self.exact(alpha)[1])

    def _p(self, distance: float, exact_slack: Callable[[float], float]) -> float:
        found = []
        if not self.exact_alone and self.se > 0:
            found.append(float(special.stdtr(self.degrees, -distance / self.se)))
        if self.exact is not None:
            found.append(smallest_alpha(exact_slack))
        return max(found)


@dataclass(frozen=True)
class Ratio(Bounded):
    """A ratio of two means, bounded after Fieller 1954: r is held possible where the mean of top - r * bottom may be zero."""

    top: float
    bottom: float
    top_variance: float
    covariance: float
    bottom_variance: float

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Give both limits.

        Raises:
            NoSpread: the denominator may be zero at this level, so that the ratio has no bound.
        """
        t2 = self._t(1 - alpha) ** 2
        a = self.bottom**2 - t2 * self.bottom_variance
        b = self.top * self.bottom - t2 * self.covariance
        c = self.top**2 - t2 * self.top_variance
        if a <= 0:
            raise NoSpread("the mean of the arm compared with is too uncertain to divide by")
        root = math.sqrt(max(0.0, b * b - a * c))
        return (b - root) / a, (b + root) / a

    def p_above(self, threshold: float) -> float:
        return float(special.stdtr(self.degrees, -self._distance(threshold)))

    def p_below(self, threshold: float) -> float:
        return float(special.stdtr(self.degrees, self._distance(threshold)))

    def _distance(self, threshold: float) -> float:
        variance = self.top_variance - 2 * threshold * self.covariance + threshold**2 * self.bottom_variance
        return (self.top - threshold * self.bottom) / math.sqrt(variance)
