"""Choose the ends of an axis and round ticks, and place values along it."""

import math


def axis(low: float, high: float, pad: float = 0.0, exact: bool = False) -> tuple[float, float, list[float]]:
    """Give the ends of an axis and round ticks between them; `exact` keeps the ends as given."""
    span = (high - low) or abs(high) or 1.0
    low, high = (low - pad * span if low else low), high + pad * span
    raw = (high - low or span) / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * 0.999)
    if not exact:
        low, high = (low if pad else math.floor(low / step) * step), (high if pad else math.ceil(high / step - 1e-9) * step)
    first = math.ceil(low / step - 1e-9)
    ticks = [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return low, high if high > low else low + span, ticks


def scale(low: float, high: float, start: float = 0, end: float = 100):
    """Give the function from values between `low` and `high` to places between `start` and `end`; what lies outside stays at the end."""
    return lambda value: start + (min(max(value, low), high) - low) / (high - low) * (end - start)
