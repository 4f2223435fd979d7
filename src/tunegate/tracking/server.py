"""Where MLflow is, and how to speak to it without waiting long."""

import logging
import os
import tempfile
from functools import cache
from pathlib import Path


def runs_directory() -> Path:
    return Path(os.environ.get("TUNEGATE_RUNS", "runs")).resolve()


def tracking_uri() -> str:
    """Name the MLflow server or database: MLFLOW_TRACKING_URI, or mlflow.db in the runs directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs_directory() / 'mlflow.db'}"


def experiment_name() -> str:
    return os.environ.get("TUNEGATE_EXPERIMENT", "tunegate")


def waiting_directory(uri: str, run_id: str) -> Path:
    """Name the directory of what MLflow does not have yet: beside the run's files, on a cluster on the pod's scratch."""
    if is_local(uri) or "TUNEGATE_RUNS" in os.environ:
        return runs_directory() / run_id / "for-mlflow"
    return Path(os.environ.get("TUNEGATE_SCRATCH") or tempfile.gettempdir()) / "tunegate-runs" / run_id / "for-mlflow"


@cache
def connect(uri: str):
    """Open a quiet MlflowClient that gives up on a dead server within seconds."""
    quiet = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # MLflow's own: 7 retries of 120 s
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if is_local(uri):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)


def is_local(uri: str) -> bool:
    return uri.startswith("sqlite:///")


def experiment_id(client, uri: str, name: str) -> str:
    """Find or create the experiment; beside a local database its artifacts go to mlartifacts."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    return client.create_experiment(name, artifact_location=str(runs_directory() / "mlartifacts") if is_local(uri) else None)
