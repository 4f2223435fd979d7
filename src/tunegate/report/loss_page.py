"""Show the loss of one training on a page of its own: what Kubeflow's UI opens beside the step."""

from pathlib import Path

from tunegate.digests import write_atomic
from tunegate.report import charts
from tunegate.report.page import fill
from tunegate.steps import Result


def write_loss_page(path: Path | str, title: str, result: Result) -> None:
    """Write the page of a result whose summary has a log, [{"step", "loss", …}]; one without says that there is no curve."""
    points = [(entry["step"], entry["loss"]) for entry in result.summary.get("log", []) if "loss" in entry]
    chart = charts.line(points, "optimizer step", "loss") if len(points) > 1 else None
    write_atomic(Path(path), fill("loss_page.html.j2", title=title, line=result.line, chart=chart))
