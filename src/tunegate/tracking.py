"""Tell MLflow what a run does: one MLflow run per pipeline run, one nested run per step, curves while training.

Every process of a run finds the same MLflow runs by tag, so nothing about MLflow travels through the pipeline. Nothing
here may fail a step: a server that does not answer costs one warning line. Loading MLflow takes about two seconds, so with
a local database a step quicker than that leaves a note, and the next process that loads MLflow anyway logs it.
"""

import functools
import json
import logging
import math
import os
import shutil
import sys
import time
from functools import cache
from pathlib import Path

from tunegate import digests

FLUSH_SECONDS = 10.0  # curves reach MLflow this often
FLUSH_POINTS = 500  # in one batch; MLflow takes 1,000
SILENT_SECONDS = 60.0  # after a failure, so long nothing is sent: a dead server must not slow training
QUICK_SECONDS = 5.0  # a step shorter than this is noted and logged later, where the database is local
MAX_PARAM_LENGTH = 6000  # MLflow's limit

RUN_TAG, STEP_TAG = "tunegate.run_id", "tunegate.step"


def runs_directory() -> Path:
    return Path(os.environ.get("TUNEGATE_RUNS", "runs")).resolve()


def tracking_uri() -> str:
    """Name the MLflow server or database: MLFLOW_TRACKING_URI, or mlflow.db in the runs directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs_directory() / 'mlflow.db'}"


def experiment_name() -> str:
    return os.environ.get("TUNEGATE_EXPERIMENT", "tunegate")


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


class RunTracker:
    """The MLflow runs of one pipeline run, found or created by tag."""

    def __init__(self, uri: str, experiment: str, run_id: str):
        self.uri, self.experiment, self.run_id = uri, experiment, run_id
        self.steps: dict[str, str] = {}
        self.points: dict[str, list[tuple]] = {}  # step -> (metric, value, milliseconds since 1970, training step), not yet sent
        self.flushed = time.monotonic()
        self.silent_until = 0.0
        self.warned = False

    @functools.cached_property
    def client(self):
        return connect(self.uri)

    @functools.cached_property
    def experiment_id(self) -> str:
        given = os.environ.get("MLFLOW_RUN_ID")
        return self.client.get_run(given).info.experiment_id if given else experiment_id(self.client, self.uri, self.experiment)

    @functools.cached_property
    def parent(self) -> str:
        """The MLflow run of the pipeline run: the one Kubeflow Pipelines opened, or our own."""
        given = os.environ.get("MLFLOW_RUN_ID")
        if given:
            # Kubeflow Pipelines may hand a task its own nested run.
            return self.client.get_run(given).data.tags.get("mlflow.parentRunId", given)
        return self._find({RUN_TAG: self.run_id}, without=STEP_TAG) or self._create(self.run_id, {RUN_TAG: self.run_id})

    def step(self, name: str, started: float | None = None) -> str:
        """Find or create the nested run of step `name`; `started` is in seconds since 1970."""
        if name not in self.steps:
            tags = {RUN_TAG: self.run_id, STEP_TAG: name}
            parent = self.parent
            self.steps[name] = self._find(tags) or self._create(name, {**tags, "mlflow.parentRunId": parent}, started)
        return self.steps[name]

    def _find(self, tags: dict[str, str], without: str = "") -> str | None:
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs([self.experiment_id], condition, order_by=["attributes.start_time ASC"])
        return next((run.info.run_id for run in found if without not in run.data.tags), None)

    def _create(self, name: str, tags: dict[str, str], started: float | None = None) -> str:
        start = int((started or time.time()) * 1000)
        return self.client.create_run(self.experiment_id, start_time=start, tags=tags, run_name=name).info.run_id

    def add(self, step_name: str, metrics: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self.points.setdefault(step_name, []).extend((key, float(value), now, step) for key, value in metrics.items())

    def flush(self) -> None:
        """Send the curves gathered so far; what cannot be sent stays for the next time."""
        from mlflow.entities import Metric

        self.flushed = time.monotonic()
        for name, points in self.points.items():
            while points:
                batch = points[:FLUSH_POINTS]
                self.client.log_batch(self.step(name), metrics=[Metric(*point) for point in batch])
                del points[: len(batch)]

    def log(self, note: dict) -> None:
        """Log one finished step from its note (see `log_step`)."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        run = self.step(note["name"], note["ended"] - (0 if note["reused"] else note["seconds"]))
        metrics = {**note["metrics"], "seconds": note["seconds"]}
        params = [Param(key, value) for key, value in sorted(flatten(note["config"]).items())]
        tags = {f"ref.{key}": ref for key, ref in note["refs"].items()} | {"tunegate.reused": str(note["reused"]).lower()}
        for start in range(0, len(params), 100):  # MLflow takes 100 parameters a batch
            self.client.log_batch(run, params=params[start : start + 100])
        self.client.log_batch(run, [Metric(k, v, now, 0) for k, v in metrics.items()], tags=[RunTag(*tag) for tag in tags.items()])
        # The pipeline's own run carries them too, so that runs can be compared in one table.
        self.client.log_batch(self.parent, [Metric(f"{note['name']}.{k}", v, now, 0) for k, v in metrics.items()])
        for dataset in note["datasets"]:
            self._log_dataset(run, dataset)
        self.client.set_terminated(run, "FINISHED", end_time=int(note["ended"] * 1000))

    def _log_dataset(self, run: str, dataset: dict) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": dataset["source"]})
        entity = Dataset(dataset["name"], dataset["digest"][:36], "tunegate", source, profile=json.dumps(dataset["profile"]))
        tagged = DatasetInput(entity, [InputTag("mlflow.data.context", dataset["context"])])
        self.client.log_inputs(run, datasets=[tagged])
        self.client.log_inputs(self.parent, datasets=[tagged])

    # Notes of quick steps, kept beside a local database until a process that loads MLflow logs them.

    @property
    def notes(self) -> Path:
        return runs_directory() / self.run_id / "for-mlflow"

    def keep(self, note: dict) -> None:
        digests.write_atomic(self.notes / f"{note['ended']:.3f}-{note['name']}.json", digests.canonical_json(note))

    def log_notes(self) -> None:
        for path in sorted(self.notes.glob("*.json")):
            self.log(json.loads(path.read_bytes()))
            path.unlink(missing_ok=True)

    def finish(self, status: str) -> None:
        self.flush()
        self.log_notes()
        shutil.rmtree(self.notes, ignore_errors=True)
        condition = f"tags.`{RUN_TAG}` = '{self.run_id}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([self.experiment_id], condition):
            if run.info.run_id != self.parent:
                self.client.set_terminated(run.info.run_id, status)
        if not os.environ.get("MLFLOW_RUN_ID"):  # else Kubeflow Pipelines closes it
            self.client.set_terminated(self.parent, status)


def flatten(config: dict, prefix: str = "") -> dict[str, str]:
    """Make MLflow parameters of nested configuration: {"sft": {"seed": 0}} becomes {"sft.seed": "0"}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[prefix + key] = text[:MAX_PARAM_LENGTH]
    return flat


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


@cache
def _tracker_of(uri: str, experiment: str, run_id: str) -> RunTracker:
    return RunTracker(uri, experiment, run_id)


def tracker() -> RunTracker | None:
    """Give the tracker of the pipeline run this process belongs to, or None outside of one."""
    run_id = os.environ.get("TUNEGATE_RUN_ID", "")
    return _tracker_of(tracking_uri(), experiment_name(), run_id) if run_id else None


def _never_fails(function):
    """Call `function` with the tracker; on any error warn once and stay silent for a while."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        current = tracker()
        if current is None or time.monotonic() < current.silent_until:
            return None
        try:
            return function(current, *args, **kwargs)
        except Exception as error:  # whatever MLflow, SQLAlchemy or the network raise must not cost a trained model
            current.silent_until = time.monotonic() + SILENT_SECONDS
            if not current.warned:
                current.warned = True
                reason = " ".join(str(error).split())[:200]
                print(f"Warning: MLflow at {current.uri} did not take what the run logs ({reason}). The run goes on without.",
                      file=sys.stderr, flush=True)  # fmt: skip
            return None

    return call


def log_metrics(step_name: str, metrics: dict[str, float], step: int) -> None:
    """Add one point to the curves of a step; they are sent in batches, and again when MLflow did not take them."""
    current = tracker()
    if current is not None:
        current.add(step_name, metrics, step)
        if time.monotonic() - current.flushed >= FLUSH_SECONDS:
            flush()


@_never_fails
def flush(current: RunTracker) -> None:
    """Send the curves gathered so far."""
    current.flush()


@_never_fails
def log_step(current: RunTracker, name: str, config: dict, result) -> None:
    """Log a finished step: parameters from its configuration, metrics, seconds, references as tags, datasets."""
    metrics = {key: float(value) for key, value in result.metrics.items() if math.isfinite(value)}
    note = {
        "name": name, "config": config, "metrics": metrics, "refs": result.refs, "seconds": round(result.seconds, 3),
        "reused": result.reused, "ended": time.time(), "datasets": _datasets(name, result),
    }  # fmt: skip
    quick = result.reused or result.seconds < QUICK_SECONDS
    if quick and is_local(current.uri) and "mlflow" not in sys.modules:
        current.keep(note)
        return
    current.flush()
    current.log_notes()
    current.log(note)


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
