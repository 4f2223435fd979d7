"""The MLflow runs of one pipeline run, and what a finished step logs there."""

import functools
import json
import os
import shutil
import sys
import threading
import time

from tunegate import digests
from tunegate.tracking.curves import Curves
from tunegate.tracking.server import connect, experiment_id, waiting_directory

MAX_PARAM_LENGTH = 6000  # MLflow's limit

RUN_TAG, STEP_TAG = "tunegate.run_id", "tunegate.step"


class RunTracker:
    """The MLflow runs of one pipeline run, found or created by tag."""

    def __init__(self, uri: str, experiment: str, run_id: str):
        self.uri, self.experiment, self.run_id = uri, experiment, run_id
        self.notes = waiting_directory(uri, run_id)  # of finished steps, and the curves, until MLflow has them
        self.curves = Curves(self, self.notes)
        self.steps: dict[str, str] = {}
        self._parent: str | None = None
        self._lock = threading.RLock()  # the thread that sends curves looks for the same runs
        self._warned = False

    def warn(self, error: Exception) -> None:
        """Say once that MLflow does not take what is sent."""
        if not self._warned:
            self._warned = True
            reason = " ".join(str(error).split())[:200]
            print(f"Warning: MLflow at {self.uri} did not take what the run logs ({reason}). The run goes on; what is not sent "
                  f"is kept in {self.notes} and sent when MLflow answers.", file=sys.stderr, flush=True)  # fmt: skip

    def forget(self) -> None:
        """Look the runs up again next time."""
        with self._lock:
            self.steps.clear()
            self._parent = None
            self.__dict__.pop("experiment_id", None)

    @functools.cached_property
    def client(self):
        return connect(self.uri)

    @functools.cached_property
    def experiment_id(self) -> str:
        given = os.environ.get("MLFLOW_RUN_ID")
        return self.client.get_run(given).info.experiment_id if given else experiment_id(self.client, self.uri, self.experiment)

    @property
    def parent(self) -> str:
        """The MLflow run of the pipeline run: the one Kubeflow Pipelines opened, or our own."""
        with self._lock:
            given = os.environ.get("MLFLOW_RUN_ID")
            if self._parent is None and given:
                # Kubeflow Pipelines may hand a task its own nested run.
                self._parent = self.client.get_run(given).data.tags.get("mlflow.parentRunId", given)
            elif self._parent is None:
                self._parent = self._find_or_create(self.run_id, {RUN_TAG: self.run_id}, without=STEP_TAG)
            return self._parent

    def step(self, name: str, started: float | None = None) -> str:
        """Find or create the nested run of step `name`; `started` is in seconds since 1970."""
        with self._lock:
            if name not in self.steps:
                tags = {RUN_TAG: self.run_id, STEP_TAG: name}
                self.steps[name] = self._find_or_create(name, tags, {"mlflow.parentRunId": self.parent}, started)
            return self.steps[name]

    def _find_or_create(self, name: str, tags: dict[str, str], more: dict[str, str] | None = None, started: float | None = None,
                        without: str = "") -> str:  # fmt: skip
        found = self._find(tags, without)
        if found is None:
            start = int((started or time.time()) * 1000)
            made = self.client.create_run(self.experiment_id, start_time=start, tags={**tags, **(more or {})}, run_name=name).info.run_id
            # A server that hung may have made one from each attempt; every process must then take the same.
            found = self._find(tags, without) or made
        return found

    def _find(self, tags: dict[str, str], without: str = "") -> str | None:
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs([self.experiment_id], condition, order_by=["attributes.start_time ASC"])
        return next((run.info.run_id for run in found if without not in run.data.tags), None)

    def log(self, note: dict) -> None:
        """Log one finished step from its note (see `log_step`)."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(note["ended"] * 1000)  # the same whenever it is sent, so that MLflow knows a repetition
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

    def keep(self, note: dict) -> None:
        digests.write_atomic(self.notes / f"{note['ended']:.3f}-{note['name']}.json", digests.canonical_json(note))

    def send_kept(self) -> None:
        """Send what waits: the curves, and the notes of finished steps."""
        self.curves.flush()
        for path in sorted(self.notes.glob("*.json")):
            try:
                self.log(json.loads(path.read_bytes()))
            except Exception as error:
                if getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
                    raise
                self.warn(error)  # MLflow will never take it
            path.unlink(missing_ok=True)

    def finish(self, status: str) -> None:
        self.send_kept()
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
