"""Write numbers for people: shares in per cent, differences of shares in percentage points, other numbers in three digits."""


def shown(value: float, kind: str) -> str:
    # adding 0.0 turns -0.0 into 0.0
    return f"{round(100 * value, 1) + 0.0:.1f} %" if kind == "share" else number(value)


def signed(value: float, kind: str, unit: bool = True) -> str:
    if kind != "share":
        return f"{round(value, 3) + 0.0:+.3f}"
    return f"{round(100 * value, 1) + 0.0:+.1f}{' points' if unit else ''}"


def apart(value: float, kind: str) -> str:
    return f"{100 * value:.1f} points" if kind == "share" else number(value)


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 20 else f"{value:.3f}"


def ordinal(count: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th") if count % 100 not in (11, 12, 13) else "th"
    return f"{count}{ending}"
