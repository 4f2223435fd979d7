"""Tell MLflow what a run does: one MLflow run per pipeline run, one nested run per step, curves while training.

Every process of a run finds the same MLflow runs by tag, so nothing about MLflow travels through the pipeline. Nothing
here may fail a step, and training waits for nothing here: a server that does not answer costs one warning line and some
seconds at the end of a step. What it did not take waits on the local disk, and later processes of the run send it; see
curves.py for what that guarantees. Loading MLflow takes about two seconds, so with a local database a step quicker than
that leaves a note, and the next process that loads MLflow anyway logs it.
"""

import functools
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from tunegate.tracking.run import RUN_TAG, STEP_TAG, RunTracker
from tunegate.tracking.server import connect, experiment_id, experiment_name, is_local, runs_directory, tracking_uri

__all__ = [
    "RUN_TAG", "STEP_TAG", "RunTracker", "connect", "experiment_id", "experiment_name", "finish", "flush", "is_local", "log_file",
    "log_history", "log_metrics", "log_step", "parent_run", "runs_directory", "tracker", "tracking_uri",
]  # fmt: skip

QUICK_SECONDS = 5.0  # a step shorter than this is noted and logged later, where the database is local


@cache
def _tracker_of(uri: str, experiment: str, run_id: str) -> RunTracker:
    return RunTracker(uri, experiment, run_id)


def tracker() -> RunTracker | None:
    """Give the tracker of the pipeline run this process belongs to; None outside of one, and in all but the first of several trainers."""
    run_id = os.environ.get("TUNEGATE_RUN_ID", "")
    first = os.environ.get("RANK", "0") == "0"  # set by torchrun
    return _tracker_of(tracking_uri(), experiment_name(), run_id) if run_id and first else None


def _never_fails(function):
    """Call `function` with the tracker; an error costs one warning."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        current = tracker()
        if current is None:
            return None
        try:
            return function(current, *args, **kwargs)
        except Exception as error:  # whatever MLflow, SQLAlchemy, the network or the disk raise must not cost a trained model
            current.warn(error)
            return None

    return call


@_never_fails
def log_metrics(current: RunTracker, step_name: str, metrics: Mapping[str, float], step: int) -> None:
    """Add one point to the curves of a step; a metric that has a point at this training step already keeps it."""
    current.curves.add(step_name, [(step, {key: float(value) for key, value in metrics.items()})])


@_never_fails
def log_history(current: RunTracker, step_name: str, points: Iterable[Mapping]) -> None:
    """Fill in the points of a curve that neither the spool nor MLflow has, from a log that a checkpoint carried.

    Call it after resuming, before the first log_metrics; a repetition adds nothing. Points that it adds get the present time.

    Args:
        points: {"step": training step, metric: value, …} each, metrics named as in log_metrics; what is no number is left out.
    """
    current.curves.add(step_name, [
        (point["step"], {key: float(value) for key, value in point.items() if key != "step" and isinstance(value, int | float)})
        for point in points
    ])  # fmt: skip


@_never_fails
def flush(current: RunTracker) -> None:
    """Send the curves gathered so far; wait seconds at most, and leave the rest for later."""
    current.curves.flush()


@_never_fails
def log_step(current: RunTracker, name: str, config: dict, result) -> None:
    """Log a finished step: parameters from its configuration, metrics, seconds, references as tags, datasets."""
    metrics = {key: float(value) for key, value in result.metrics.items() if math.isfinite(value)}
    current.keep({
        "name": name, "config": config, "metrics": metrics, "refs": result.refs, "seconds": round(result.seconds, 3),
        "reused": result.reused, "ended": time.time(), "datasets": _datasets(name, result),
    })  # fmt: skip
    quick = result.reused or result.seconds < QUICK_SECONDS
    if not (quick and is_local(current.uri) and "mlflow" not in sys.modules):
        current.send_kept()


@_never_fails
def log_file(current: RunTracker, path: Path | str, artifact_path: str | None = None) -> None:
    """Keep a file with the pipeline's MLflow run, in the folder `artifact_path`."""
    current.client.log_artifact(current.parent, str(path), artifact_path)


@_never_fails
def parent_run(current: RunTracker) -> str | None:
    """Give the id of the pipeline's MLflow run; None outside of a run or without MLflow."""
    return current.parent


@_never_fails
def finish(current: RunTracker, status: str) -> None:
    """Close the pipeline's MLflow run as FINISHED, FAILED or KILLED, after logging what quick steps left."""
    current.finish(status)


def _datasets(name: str, result) -> list[dict]:
    """Describe the splits that curate made; their digest is that of the data directory, which holds them all."""
    if name != "curate" or "data" not in result.refs:
        return []
    ref = result.refs["data"]
    contexts = {"train": "training", "dev": "validation", "test": "testing"}
    return [
        {"name": split, "digest": ref.rpartition("/")[2], "source": f"{ref}/{split}.jsonl", "context": context,
         "profile": {"rows": result.metrics.get(f"{split}_rows")}}
        for split, context in contexts.items()
    ]  # fmt: skip
