"""Bound and compare shares exactly, by the binomial law rather than an approximation of it."""

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, special, stats


def clopper_pearson(successes: float, trials: float, alpha: float) -> tuple[float, float]:
    """Give the lower and the upper limit of a proportion, each one-sided at 1 - alpha (Clopper and Pearson 1934).

    Counts may be effective (fractional) ones, as Korn and Graubard 1998 have it.
    """
    low = float(special.betaincinv(successes, trials - successes + 1, alpha)) if successes > 0 else 0.0
    high = float(special.betaincinv(successes + 1, trials - successes, 1 - alpha)) if successes < trials else 1.0
    return low, high


def discordant_bounds(gains: float, losses: float, trials: float, alpha: float) -> tuple[float, float]:
    """Bound gains - losses, two shares of `trials` pairs, each limit one-sided at 1 - alpha: by Bonferroni, so conservative."""
    up_low, up_high = clopper_pearson(gains * trials, trials, alpha / 2)
    down_low, down_high = clopper_pearson(losses * trials, trials, alpha / 2)
    return up_low - down_high, up_high - down_low


def detectable_gain(discordant: float, trials: float, degrees: float, alpha: float, power: float) -> float:
    """Give the smallest gain of which a sample as discordant as this shows, with probability `power`, that it is above zero.

    It is the gain at which a sample that turns out t(power) standard errors too low still has its lower bound, exact and t, above
    zero. A gain beyond the discordant share makes more pairs discordant, and so has more spread than the sample at hand.
    1.0 where no gain is found so often.
    """
    by_alpha, by_power = special.stdtrit(degrees, 1 - alpha), special.stdtrit(degrees, power)

    def slack(gain: float) -> float:
        ups, downs = max((discordant + gain) / 2, gain), max((discordant - gain) / 2, 0.0)
        unlucky = by_power * math.sqrt((ups + downs - gain**2) / trials) / 2
        ups, downs = ups - unlucky, downs + unlucky
        reach = by_alpha * math.sqrt(max(0.0, ups + downs - (ups - downs) ** 2) / trials)
        return float(min(discordant_bounds(ups, downs, trials, alpha)[0], ups - downs - reach)) if ups > 0 else -1.0

    return float(optimize.brentq(slack, 0.0, 1.0, xtol=1e-9)) if slack(1.0) > 0 else 1.0


def detectable_distance(share: float, trials: float, degrees: float, alpha: float, power: float) -> float:
    """Give the distance from a true `share` to the threshold that its bound clears with probability `power`, on the worse side.

    The bound is that of a sample that turns out t(power) standard errors too low, or too high.
    """
    by_alpha, by_power = special.stdtrit(degrees, 1 - alpha), special.stdtrit(degrees, power)
    low = high = share
    for _ in range(2):  # the second time with the spread that the unlucky share itself has
        low = max(0.0, share - by_power * math.sqrt(low * (1 - low) / trials))
        high = min(1.0, share + by_power * math.sqrt(high * (1 - high) / trials))
    reach_low, reach_high = (by_alpha * math.sqrt(edge * (1 - edge) / trials) for edge in (low, high))
    low = min(clopper_pearson(low * trials, trials, alpha)[0], low - reach_low)
    high = max(clopper_pearson(high * trials, trials, alpha)[1], high + reach_high)
    return float(max(share - max(0.0, low), min(1.0, high) - share))


def mcnemar_p(candidate: np.ndarray, versus: np.ndarray) -> float | None:
    """Give the exact two-sided McNemar p-value for 0/1 scores, None for others. It ignores clusters, so it only cross-checks.

    McNemar 1947, exact form: among discordant pairs, gains are Binomial(gains + losses, 1/2).
    """
    if not (is_binary(candidate) and is_binary(versus)):
        return None
    gains, losses = int((candidate > versus).sum()), int((candidate < versus).sum())
    return float(stats.binomtest(gains, gains + losses, 0.5).pvalue) if gains + losses else 1.0


def is_binary(values: np.ndarray) -> bool:
    return bool(((values == 0.0) | (values == 1.0)).all())


def smallest_alpha(slack: Callable[[float], float]) -> float:
    """Find the smallest alpha at which a bound reaches the threshold; `slack` grows with alpha."""
    smallest, largest = 1e-12, 1 - 1e-12
    if slack(smallest) >= 0:
        return smallest
    if slack(largest) <= 0:
        return 1.0
    return float(optimize.brentq(slack, smallest, largest, xtol=1e-12))
