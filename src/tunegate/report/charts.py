"""Draw charts as inline SVG in rows of a grid. Colours and fonts come from the page's style sheet: they follow light, dark and print.

Places across are per cent of the row, so that a narrow page narrows the plot and not the text.
"""

from html import escape

from markupsafe import Markup

from tunegate.gate.wording import number, shown
from tunegate.report.axes import axis, scale
from tunegate.report.curve import line, loss_svg

__all__ = ["bars", "forest", "funnel", "line", "loss_svg"]

BAR, GATE, STAGE = 42, 46, 32  # height of a row
AXES = {
    "difference": "difference from the arm compared with; right is better", "ratio": "ratio to the arm compared with",
    "value": "the value itself",
}  # fmt: skip
OUTCOMES = {"passed": "good", "held": "hold", "inconclusive": "unsure"}  # the rest is bad


def bars(rows: list[dict], kind: str) -> Markup:
    """Draw one horizontal bar per row with its interval; `rows` holds {label, value, ci (low, high) or None, css} each."""
    tops = [row["ci"][1] if row["ci"] else row["value"] for row in rows]
    low, high, ticks = axis(0, 1 if kind == "share" else max(tops))
    x, drawn = scale(low, high), []
    for row in rows:
        end = max(row["value"], row["ci"][1] if row["ci"] else 0)
        parts = [_grid(ticks, x, BAR), _bar(x(row["value"]), row["css"], BAR)]
        parts += [_whisker(x(row["ci"][0]), x(row["ci"][1]), BAR / 2)] if row["ci"] else []
        parts.append(_text(x(end), BAR / 2 + 5, shown(row["value"], kind), "value", 10))
        drawn.append(_row(row["label"], "", parts, BAR))
    drawn.append(_axis_row(ticks, x, lambda tick: f"{100 * tick:.0f} %" if kind == "share" else number(tick)))
    return _chart("bars", drawn, "Bars with 95 % intervals")


def forest(gates: list[dict]) -> Markup:
    """Draw each gate's difference (or value) with its interval, the limit it must clear, and the side that passes.

    Gates of one unit share an axis. The filled tick is the one-sided bound: a gate passes when it lies on the shaded side.

    Args:
        gates: findings of the gate, each with `label`, `subtitle` (what was asked), `value` (what was found) and `text` (more of it).
    """
    panels: dict[tuple, list[dict]] = {}
    for gate in gates:
        if "difference" in gate or "bound" in gate:
            # shares are all of one unit; numbers of two metrics are not
            panels.setdefault((gate["kind"], _quantity(gate), gate["metric"] if gate["kind"] == "number" else ""), []).append(gate)
    drawn = []
    for (kind, quantity, _), members in panels.items():
        ends = [end for gate in members for end in (*gate.get("ci", ()), _point(gate), _limit(gate))]
        ends += [0.0] if quantity == "difference" else [1.0] if quantity == "ratio" or kind == "share" else []
        low, high, ticks = axis(min(ends), max(ends), pad=0.06)
        if quantity == "value" and kind == "share":
            high, ticks = min(high, 1.0), [tick for tick in ticks if tick <= 1.0]
        x = scale(low, high)
        drawn += [_forest_row(gate, x, ticks, quantity) for gate in members]
        unit = {"difference": " (points)", "value": " (%)"}.get(quantity, "") if kind == "share" else ""
        drawn.append(_axis_row(ticks, x, lambda tick, kind=kind, quantity=quantity: _tick(tick, kind, quantity), AXES[quantity] + unit))
    return _chart("forest", drawn, "Gates: differences, intervals and limits") if drawn else Markup("")


def funnel(stages: list[dict]) -> Markup:
    """Draw how many rows are left after each stage; `stages` holds {label, rows} in order."""
    x = scale(0, max((stage["rows"] for stage in stages), default=0) or 1)
    drawn, before = [], None
    for stage in stages:
        left, told = x(stage["rows"]), f"{stage['rows']:,}"
        parts = [_bar(left, "stage", STAGE), _text(left, 21, told, "value", 10)]
        if before is not None and stage["rows"] < before:
            parts.append(_text(left, 21, f"−{before - stage['rows']:,}", "drop", 22 + 8 * len(told)))
        drawn.append(_row(stage["label"], "", parts, STAGE))
        before = stage["rows"]
    return _chart("bars", drawn, "Rows left after each stage")


def _forest_row(gate: dict, x, ticks: list[float], quantity: str) -> str:
    limit, css = x(_limit(gate)), OUTCOMES.get(gate["outcome"], "bad")
    from_, to = (0, limit) if gate["test"] in ("max_improvement", "ratio_ucb") or "at_most" in gate else (limit, 100)
    parts = [_grid(ticks, x, GATE), f'<rect class="zone" x="{from_:.2f}%" y="5" width="{max(to - from_, 0):.2f}%" height="{GATE - 10}"/>']
    parts.append(_upright(limit, 5, GATE - 5, "threshold"))
    if quantity == "difference":
        parts.append(_upright(x(0), 0, GATE, "zero"))
    if "ci" in gate:
        parts.append(_whisker(x(gate["ci"][0]), x(gate["ci"][1]), GATE / 2, css))
        parts.append(_upright(x(gate["bound"]), GATE / 2 - 9, GATE / 2 + 9, f"bound {css}"))
    parts.append(f'<circle class="point {css}" cx="{x(_point(gate)):.2f}%" cy="{GATE / 2}" r="6"/>')
    return _row(gate["label"], gate["subtitle"], parts, GATE, gate["value"], gate["text"], css)


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


def _grid(ticks: list[float], x, height: float) -> str:
    return "".join(_upright(x(tick), 0, height, "grid") for tick in ticks)


def _bar(end: float, css: str, height: float) -> str:
    return f'<rect class="{css}" x="0" y="{height / 2 - 13:g}" width="{max(end, 0.2):.2f}%" height="26" rx="4"/>'


def _upright(across: float, top: float, bottom: float, css: str) -> str:
    return f'<line class="{css}" x1="{across:.2f}%" x2="{across:.2f}%" y1="{top:g}" y2="{bottom:g}"/>'


def _whisker(low: float, high: float, y: float, css: str = "") -> str:
    caps = "".join(_upright(end, y - 5, y + 5, "cap") for end in (low, high))
    return f'<g class="whisker {css}"><line x1="{low:.2f}%" x2="{high:.2f}%" y1="{y:g}" y2="{y:g}"/>{caps}</g>'


def _text(across: float, y: float, text: str, css: str, aside: float = 0) -> str:
    return f'<text x="{across:.2f}%" dx="{aside:g}" y="{y:g}" class="{css}">{escape(text)}</text>'


def _row(label: str, subtitle: str, parts: list[str], height: float, value: str = "", text: str = "", css: str = "") -> str:
    name = f"<b>{escape(label)}</b>" + (f"<small>{escape(subtitle)}</small>" if subtitle else "")
    told = f'<b class="{css}">{escape(value)}</b><small>{escape(text)}</small>' if value else ""
    plot = f'<svg style="height:{height:g}px">{"".join(parts)}</svg>'
    return f'<div class="row"><span class="name">{name}</span>{plot}<span class="told">{told}</span></div>'


def _axis_row(ticks: list[float], x, label, title: str = "") -> str:
    parts = [_text(x(tick), 14, label(tick), "tick mid") for tick in ticks]
    parts += [_text(50, 31, title, "axis mid")] if title else []
    return f'<div class="row axis"><span class="name"></span><svg style="height:{38 if title else 20}px">{"".join(parts)}</svg></div>'


def _chart(css: str, rows: list[str], title: str) -> Markup:
    return Markup(f'<div class="chart {css}" role="img" aria-label="{escape(title)}">{"".join(rows)}</div>')
