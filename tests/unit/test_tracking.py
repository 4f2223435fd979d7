"""A run's steps, curves, datasets and files arrive in MLflow; without a run, or without a server, nothing happens."""

import sys
import time

import promoted_model
import pytest

from tunegate import tracking
from tunegate.steps import Result

# SQLAlchemy about MLflow's own mappers.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def run(tmp_path, monkeypatch):
    promoted_model.use_database(tmp_path, monkeypatch)
    import mlflow  # noqa: F401  # so that quick steps are logged at once, as in a process that has it loaded

    return tracking.tracker()


def _runs(tracker):
    found = tracker.client.search_runs([tracker.experiment_id])
    return {run.data.tags.get(tracking.STEP_TAG, "parent"): run for run in found}


def test_a_step_becomes_a_nested_run_with_parameters_metrics_and_references(run):
    result = Result(refs={"adapter": "sft-adapter/aa"}, metrics={"loss_nats_per_token": 0.5, "bad": float("nan")}, seconds=60)
    tracking.log_step("sft", {"sft": {"seed": 0, "lora": {"r": 16}}, "task": {"system": ""}}, result)
    step, parent = _runs(run)["sft"], _runs(run)["parent"]
    assert step.data.params == {"sft.seed": "0", "sft.lora.r": "16", "task.system": ""}
    assert step.data.metrics == {"loss_nats_per_token": 0.5, "seconds": 60}
    assert step.data.tags["ref.adapter"] == "sft-adapter/aa"
    assert step.data.tags["mlflow.parentRunId"] == parent.info.run_id == tracking.parent_run()
    assert step.info.status == "FINISHED"
    assert step.info.end_time - step.info.start_time == pytest.approx(60_000, abs=5)
    assert parent.data.metrics["sft.loss_nats_per_token"] == 0.5


def test_curves_are_sent_in_batches_and_survive_a_database_that_fails(run, monkeypatch, capsys):
    tracking.log_metrics("sft", {"loss": 2.0}, 1)
    assert not run.steps, "the first point waits for its batch"
    monkeypatch.setattr(tracking.curves, "FLUSH_SECONDS", 0.5)
    with monkeypatch.context() as broken:
        broken.setattr(run.client, "log_batch", lambda *a, **k: 1 / 0)
        tracking.log_metrics("sft", {"loss": 1.5}, 2)
        tracking.flush()
    assert capsys.readouterr().err.count("Warning: MLflow") == 1
    tracking.flush()
    history = run.client.get_metric_history(run.steps["sft"], "loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.5)]


def test_curate_logs_its_splits_as_datasets(run):
    refs = {"data": "curate-data/" + "ab" * 32}
    tracking.log_step("curate", {"curate": {}}, Result(refs=refs, metrics={"train_rows": 960, "dev_rows": 100, "test_rows": 200}))
    inputs = {used.dataset.name: used for used in _runs(run)["parent"].inputs.dataset_inputs}
    assert set(inputs) == {"train", "dev", "test"}
    assert inputs["train"].dataset.digest == ("ab" * 32)[:36]
    assert inputs["train"].dataset.profile == '{"rows": 960}'
    assert [tag.value for tag in inputs["test"].tags] == ["testing"]


def test_every_process_of_a_run_finds_the_same_parent(run):
    other = tracking.RunTracker(run.uri, run.experiment, run.run_id)
    assert other.parent == run.parent
    assert other.step("sft") == run.step("sft")
    assert tracking.RunTracker(run.uri, run.experiment, "run-2").parent != run.parent


def test_it_joins_the_run_that_kubeflow_pipelines_opened(run, monkeypatch):
    elsewhere = run.client.create_experiment("of-kubeflow")
    given = run.client.create_run(elsewhere).info.run_id
    nested = run.client.create_run(elsewhere, tags={"mlflow.parentRunId": given}).info.run_id
    for injected in (given, nested):
        monkeypatch.setenv("MLFLOW_RUN_ID", injected)
        joined = tracking.RunTracker(run.uri, run.experiment, f"kfp-{injected}")
        assert joined.parent == given
        assert run.client.get_run(joined.step("sft")).info.experiment_id == elsewhere
        joined.finish("FINISHED")
        assert run.client.get_run(given).info.status == "RUNNING", "Kubeflow Pipelines closes its own run"


def test_a_file_is_kept_and_the_run_is_closed(run, tmp_path):
    (tmp_path / "report.html").write_text("<p>")
    tracking.log_file(tmp_path / "report.html")
    tracking.log_metrics("prefer", {"loss": 1.0}, 1)
    tracking.finish("FAILED")
    assert [file.path for file in run.client.list_artifacts(run.parent)] == ["report.html"]
    assert (tmp_path / "runs" / "mlartifacts").is_dir()
    assert {name: found.info.status for name, found in _runs(run).items()} == {"parent": "FAILED", "prefer": "FAILED"}


def test_quick_steps_leave_notes_that_are_logged_when_mlflow_is_loaded(run, monkeypatch):
    with monkeypatch.context() as unloaded:
        unloaded.delitem(sys.modules, "mlflow")
        tracking.log_step("ingest", {"data": {}}, Result(metrics={"rows_read": 5}, reused=True, seconds=600))
        tracking.log_metrics("sft", {"loss": 1.0}, 1)
    assert sorted(path.suffix for path in run.notes.iterdir()) == [".json", ".jsonl"]
    tracking.log_step("gate", {}, Result(seconds=1))
    ingest = _runs(run)["ingest"]
    assert ingest.data.metrics["rows_read"] == 5
    assert ingest.data.tags["tunegate.reused"] == "true"
    assert ingest.info.end_time - ingest.info.start_time < 5000, "what was reused took no time in this run"
    assert run.client.get_run(run.steps["sft"]).data.metrics["loss"] == 1.0
    assert [path.name for path in run.notes.glob("*.json")] == []


def test_outside_of_a_run_nothing_happens(tmp_path, monkeypatch):
    monkeypatch.delenv("TUNEGATE_RUN_ID", raising=False)
    monkeypatch.setenv("TUNEGATE_RUNS", str(tmp_path / "runs"))
    tracking.log_step("sft", {}, Result())
    tracking.log_metrics("sft", {"loss": 1.0}, 1)
    tracking.log_file(tmp_path / "report.html")
    tracking.finish("FINISHED")
    assert tracking.parent_run() is None
    assert not (tmp_path / "runs").exists()


def test_a_dead_server_costs_one_warning_and_little_time(run, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking.curves, "FLUSH_SECONDS", 2.0)
    started = time.monotonic()
    for name in ("ingest", "curate", "sft"):
        tracking.log_step(name, {}, Result())
    tracking.log_metrics("sft", {"loss": 1.0}, 1)
    tracking.finish("FINISHED")
    assert time.monotonic() - started < 5
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 1 and warned[0].startswith("Warning: MLflow at http://127.0.0.1:9 did not take")
    assert "is kept in" in warned[0]
    assert len(list(tracking.tracker().notes.glob("*.json"))) == 3
