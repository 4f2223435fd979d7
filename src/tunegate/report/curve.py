"""Draw a curve as inline SVG: for a page that has the style sheet, or as a drawing of its own that brings its colours along."""

from html import escape

from markupsafe import Markup

from tunegate.report.axes import axis, scale

WIDTH, HEIGHT = 450, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 22, 40  # room for the labels
OWN_STYLE = """<style>
svg { background: #fff; font: 13px system-ui, sans-serif; } text { fill: #171b26; } .tick, .axis { fill: #5c6577; font-size: 12px; }
.end { text-anchor: end; } .mid { text-anchor: middle; } .grid { stroke: #e9ecf2; } .value { font-weight: 600; }
.line { fill: none; stroke: #5546d6; stroke-width: 2; stroke-linejoin: round; } .dot { fill: #5546d6; }
@media (prefers-color-scheme: dark) {
  svg { background: #181c27; } text { fill: #e8ebf2; } .tick, .axis { fill: #a4adbe; } .grid { stroke: #262c3a; }
  .line { stroke: #8f83ff; } .dot { fill: #8f83ff; }
}
</style>"""


def line(points: list[tuple[float, float]], x_label: str, y_label: str) -> Markup:
    """Draw one curve through `points`; nothing is smoothed, and the vertical axis begins at zero."""
    return Markup(f"<svg {_frame(x_label, y_label)}>{_curve(points, x_label, y_label)}</svg>")


def loss_svg(log: list[dict]) -> str:
    """Draw the loss of a training as one SVG document that needs no style sheet, in light and in dark.

    Args:
        log: {"step", "loss", …} a logged step, as the summary of sft and prefer holds it.
    """
    points = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    if len(points) > 1:
        drawn = _curve(points, "optimizer step", "loss")
    else:
        drawn = _text(WIDTH / 2, HEIGHT / 2, "Fewer than two logged steps, so there is no curve.", "axis mid")
    return f'<svg xmlns="http://www.w3.org/2000/svg" {_frame("optimizer step", "loss")}>{OWN_STYLE}{drawn}</svg>'


def _frame(x_label: str, y_label: str) -> str:
    title = escape(f"{y_label} by {x_label}")
    return f'viewBox="0 0 {WIDTH} {HEIGHT}" style="max-width:{WIDTH}px" role="img" aria-label="{title}"'


def _curve(points: list[tuple[float, float]], x_label: str, y_label: str) -> str:
    x_low, x_high, x_ticks = axis(points[0][0], points[-1][0], exact=True)
    y_low, y_high, y_ticks = axis(0, max(y for _, y in points))
    x, y = scale(x_low, x_high, LEFT, WIDTH - RIGHT), scale(y_low, y_high, HEIGHT - BOTTOM, TOP)
    parts = []
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(_text(LEFT - 8, y(tick) + 4, f"{tick:g}", "tick end"))
    parts += [_text(x(tick), HEIGHT - BOTTOM + 17, f"{tick:g}", "tick mid") for tick in x_ticks]
    path = " ".join(f"{'L' if i else 'M'}{x(px):.1f} {y(py):.1f}" for i, (px, py) in enumerate(points))
    parts.append(f'<path class="line" d="{path}"/>')
    last_x, last_y = points[-1]
    parts.append(f'<circle class="dot" cx="{x(last_x):.1f}" cy="{y(last_y):.1f}" r="3.5"/>')
    parts.append(_text(x(last_x), y(last_y) - 10, f"{last_y:.3f}", "value end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x_label, "axis mid"))
    parts.append(_text(LEFT - 40, TOP - 9, y_label, "axis"))
    return "".join(parts)


def _text(x: float, y: float, text: str, css: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}">{escape(text)}</text>'
