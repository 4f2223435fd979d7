"""Tell people what a run did: one self-contained HTML page, and one screen of text."""

import tempfile
from pathlib import Path

from tunegate.report.screen import terminal_summary

__all__ = ["publish", "terminal_summary", "write_report"]


def write_report(store, run_id: str, path: Path) -> Path:
    """Write the page of a run to `path`. It needs no network and no JavaScript, and says so where the run stopped early."""
    from tunegate.digests import write_atomic
    from tunegate.report.build import render
    from tunegate.report.collect import gather

    write_atomic(Path(path), render(gather(store, run_id)))
    return Path(path)


def publish(store_uri: str, page: str) -> None:
    """Write this run's page to `page`, into the store, beside the run's other files, and into MLflow; close the MLflow run."""
    from tunegate import steps, tracking
    from tunegate.store import open_store

    run_id, store = steps.run_id(), open_store(store_uri)
    path = write_report(store, run_id, Path(page))
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "report.html"
        copy.write_bytes(path.read_bytes())
        store.write_json(f"runs/{run_id}/report.json", {"refs": {"report": store.put("report", Path(scratch))}})
        tracking.log_file(copy)
    here = tracking.runs_directory() / run_id
    if here.is_dir():
        (here / "report.html").write_bytes(path.read_bytes())
    failed = any(store.read_json(f"runs/{run_id}/error-{step}.json") for step in steps.STEPS)
    tracking.finish("FAILED" if failed else "FINISHED")
