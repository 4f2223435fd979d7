"""Draw charts as inline SVG. Colours and fonts come from the page's style sheet, so charts follow light, dark and print."""

import math
from html import escape

from markupsafe import Markup

from tunegate.gate.wording import number, shown, signed

WIDTH = 1000
AXES = {
    "difference": "difference from the arm compared with; right is better", "ratio": "ratio to the arm compared with",
    "value": "the value itself",
}  # fmt: skip


def bars(rows: list[dict], kind: str, target: float | None = None) -> Markup:
    """Draw one horizontal bar per row with its interval.

    Args:
        rows: {label, value, ci (low, high) or None, css} each.
        target: a value to mark with a line.
    """
    left, right, step = 230, 90, 46
    tops = [row["ci"][1] if row["ci"] else row["value"] for row in rows]
    low, high, ticks = _axis(0, 1 if kind == "share" else max([*tops, target or 0]))
    x = _scale(low, high, left, WIDTH - right)
    height = step * len(rows) + 30
    parts = [_grid(ticks, x, 4, height - 24, lambda tick: f"{100 * tick:.0f} %" if kind == "share" else number(tick))]
    for i, row in enumerate(rows):
        y = step * i + 8
        parts.append(_text(left - 14, y + 19, row["label"], "label end"))
        parts.append(f'<rect class="{row["css"]}" x="{left}" y="{y}" width="{max(x(row["value"]) - left, 1.5):.1f}" height="28" rx="4"/>')
        end = x(row["value"])
        if row["ci"]:
            parts.append(_whisker(x(row["ci"][0]), x(row["ci"][1]), y + 14))
            end = max(end, x(row["ci"][1]))
        parts.append(_text(end + 10, y + 19, shown(row["value"], kind), "value"))
    if target is not None:
        parts.append(f'<line class="threshold" x1="{x(target):.1f}" x2="{x(target):.1f}" y1="2" y2="{height - 24}"/>')
    return _svg(height, parts, "Bars with 95 % intervals")


def forest(gates: list[dict]) -> Markup:
    """Draw each gate's difference (or value) with its interval, the limit it must clear, and the side that passes.

    Gates of one unit share an axis. The filled tick is the one-sided bound: a gate passes when it lies on the shaded side.
    """
    left, right, step = 264, 212, 58
    panels: dict[tuple, list[dict]] = {}
    for gate in gates:
        if "difference" in gate or "bound" in gate:
            panels.setdefault((gate["kind"], _quantity(gate)), []).append(gate)
    parts, top = [], 6
    for (kind, quantity), members in panels.items():
        ends = [end for gate in members for end in (*gate.get("ci", ()), _point(gate), _limit(gate))]
        ends += [0.0] if quantity == "difference" else [1.0] if quantity == "ratio" or kind == "share" else []
        low, high, ticks = _axis(min(ends), max(ends), pad=0.06)
        if quantity == "value" and kind == "share":
            high, ticks = min(high, 1.0), [tick for tick in ticks if tick <= 1.0]
        x = _scale(low, high, left, WIDTH - right)
        bottom = top + step * len(members)
        parts.append(_grid(ticks, x, top, bottom, lambda tick, kind=kind, quantity=quantity: _tick(tick, kind, quantity)))
        for i, gate in enumerate(members):
            parts.append(_forest_row(gate, x, top + step * i, step, left, WIDTH - right))
        if quantity == "difference":
            parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{top}" y2="{bottom}"/>')
        unit = {"difference": " (points)", "value": " (%)"}.get(quantity, "") if kind == "share" else ""
        parts.append(_text((left + WIDTH - right) / 2, bottom + 32, AXES[quantity] + unit, "axis mid"))
        top = bottom + 52
    return _svg(top, parts, "Gates: differences, intervals and limits") if parts else Markup("")


def line(points: list[tuple[float, float]], x_label: str, y_label: str, width: int = 450, height: int = 230) -> Markup:
    """Draw one curve through `points`; nothing is smoothed, and the vertical axis begins at zero."""
    left, right, top, bottom = 52, 14, 22, 40
    x_low, x_high, x_ticks = _axis(points[0][0], points[-1][0], exact=True)
    y_low, y_high, y_ticks = _axis(0, max(y for _, y in points))
    x, y = _scale(x_low, x_high, left, width - right), _scale(y_low, y_high, height - bottom, top)
    parts = []
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(_text(left - 8, y(tick) + 4, f"{tick:g}", "tick end"))
    parts += [_text(x(tick), height - bottom + 17, f"{tick:g}", "tick mid") for tick in x_ticks]
    path = " ".join(f"{'L' if i else 'M'}{x(px):.1f} {y(py):.1f}" for i, (px, py) in enumerate(points))
    parts.append(f'<path class="line" d="{path}"/>')
    last_x, last_y = points[-1]
    parts.append(f'<circle class="dot" cx="{x(last_x):.1f}" cy="{y(last_y):.1f}" r="3.5"/>')
    parts.append(_text(x(last_x), y(last_y) - 10, f"{last_y:.3f}", "value end"))
    parts.append(_text((left + width - right) / 2, height - 5, x_label, "axis mid"))
    parts.append(_text(left - 40, top - 9, y_label, "axis"))
    return _svg(height, parts, f"{y_label} by {x_label}", width)


def funnel(stages: list[dict]) -> Markup:
    """Draw how many rows are left after each stage; `stages` holds {label, rows} in order."""
    left, right, step = 250, 170, 34
    most = max((stage["rows"] for stage in stages), default=0) or 1
    x = _scale(0, most, left, WIDTH - right)
    parts, before = [], None
    for i, stage in enumerate(stages):
        y = step * i + 4
        parts.append(_text(left - 14, y + 17, stage["label"], "label end"))
        parts.append(f'<rect class="stage" x="{left}" y="{y}" width="{max(x(stage["rows"]) - left, 1.5):.1f}" height="24" rx="3"/>')
        parts.append(_text(x(stage["rows"]) + 10, y + 17, f"{stage['rows']:,}", "value"))
        if before is not None and stage["rows"] < before:
            offset = x(stage["rows"]) + 22 + 8 * len(f"{stage['rows']:,}")
            parts.append(_text(offset, y + 17, f"−{before - stage['rows']:,}", "drop"))
        before = stage["rows"]
    return _svg(step * len(stages) + 6, parts, "Rows left after each stage")


def _forest_row(gate: dict, x, y: float, step: float, left: float, right: float) -> str:
    limit, middle = x(_limit(gate)), y + step / 2
    css = {"passed": "good", "held": "hold", "inconclusive": "unsure"}.get(gate["outcome"], "bad")
    from_, to = (left, limit) if gate["test"] in ("max_improvement", "ratio_ucb") or "at_most" in gate else (limit, right)
    parts = [f'<rect class="zone" x="{from_:.1f}" y="{y + 6:.1f}" width="{max(to - from_, 0):.1f}" height="{step - 12}"/>']
    parts.append(f'<line class="threshold" x1="{limit:.1f}" x2="{limit:.1f}" y1="{y + 6:.1f}" y2="{y + step - 6:.1f}"/>')
    if "ci" in gate:
        parts.append(_whisker(x(gate["ci"][0]), x(gate["ci"][1]), middle, css))
        bound = x(gate["bound"])
        parts.append(f'<line class="bound {css}" x1="{bound:.1f}" x2="{bound:.1f}" y1="{middle - 9:.1f}" y2="{middle + 9:.1f}"/>')
    parts.append(f'<circle class="point {css}" cx="{x(_point(gate)):.1f}" cy="{middle:.1f}" r="6"/>')
    parts.append(_text(left - 14, middle - 3, gate["id"].replace("_", " "), "label end"))
    parts.append(_text(left - 14, middle + 13, gate["subtitle"], "axis end"))
    value = _point(gate)
    text = signed(value, gate["kind"]) if _quantity(gate) == "difference" else shown(value, gate["kind"])
    parts.append(_text(right + 16, middle - 3, text, f"value {css}"))
    parts.append(_text(right + 16, middle + 13, gate["needed"], "axis"))
    return "".join(parts)


def _quantity(gate: dict) -> str:
    return {"absolute_lcb": "value", "ratio_ucb": "ratio"}.get(gate["test"], "difference")


def _point(gate: dict) -> float:
    return gate[{"value": "candidate", "ratio": "ratio", "difference": "difference"}[_quantity(gate)]]


def _limit(gate: dict) -> float:
    return gate["threshold"] if "threshold" in gate else gate["margin"]


def _tick(tick: float, kind: str, quantity: str) -> str:
    sign = "+" if quantity == "difference" else ""
    value = 100 * tick if kind == "share" else tick
    return f"{round(value, 6) + 0.0:{sign}g}" if value else "0"


def _axis(low: float, high: float, pad: float = 0.0, exact: bool = False) -> tuple[float, float, list[float]]:
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


def _scale(low: float, high: float, start: float, end: float):
    return lambda value: start + (min(max(value, low), high) - low) / (high - low) * (end - start)


def _grid(ticks, x, top: float, bottom: float, label) -> str:
    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(_text(x(tick), bottom + 16, label(tick), "tick mid"))
    return "".join(parts)


def _whisker(low: float, high: float, y: float, css: str = "") -> str:
    cap = "".join(f'<line x1="{end:.1f}" x2="{end:.1f}" y1="{y - 5:.1f}" y2="{y + 5:.1f}"/>' for end in (low, high))
    return f'<g class="whisker {css}"><line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>{cap}</g>'


def _text(x: float, y: float, text: str, css: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}">{escape(text)}</text>'


def _svg(height: float, parts: list[str], title: str, width: int = WIDTH) -> Markup:
    head = f'<svg viewBox="0 0 {width} {height:g}" style="max-width:{width}px" role="img" aria-label="{escape(title)}">'
    return Markup(head + "".join(parts) + "</svg>")
