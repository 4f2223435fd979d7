"""Curves reach a real MLflow server once each, whatever dies or hangs on the way, and training does not wait."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from mlflow_server import MlflowServer

from tunegate import steps, tracking
from tunegate.errors import Refused
from tunegate.steps import Result
from tunegate.tracking import curves, run
from tunegate.tracking.spool import Spool

# SQLAlchemy about MLflow's own mappers.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

LOG_AND_DIE = """
import os, signal, sys, time
from tunegate import tracking
from tunegate.tracking import curves, spool
curves.SEND_SECONDS, curves.SEND_POINTS = 0.1, 10
sent = spool.Spool.acknowledge
def acknowledge(self, end):
    if self.sent:  # MLflow has acknowledged the second batch, and nothing on the disk says so
        os.kill(os.getpid(), signal.SIGKILL)
    sent(self, end)
spool.Spool.acknowledge = acknowledge
for step in range(1, 31):
    tracking.log_metrics("sft", {"loss": 1 / step}, step)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def tracker(server, tmp_path, monkeypatch):
    """Give the tracker of a new run, whose curves are sent without waiting for more."""
    settings = {
        "MLFLOW_TRACKING_URI": server.uri, "TUNEGATE_RUNS": str(tmp_path / "runs"), "TUNEGATE_RUN_ID": tmp_path.name,
        "TUNEGATE_EXPERIMENT": "spool", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setattr(curves, "SEND_SECONDS", 0.1)
    monkeypatch.setattr(curves, "MAX_PAUSE_SECONDS", 0.5)
    if server.process is None:
        server.start()
    return tracking.tracker()


def _restarted():
    """Let this process's thread find nothing more to send, as if it had died, and give the tracker that a new process would have."""
    tracking.tracker().curves.directory /= "dead"
    tracking._tracker_of.cache_clear()
    return tracking.tracker()


def _log(numbers, step_name="sft"):
    for step in numbers:
        tracking.log_metrics(step_name, {"loss": 1 / step, "learning_rate": 1e-4}, step)


def _log_without_waiting(numbers, step_name="sft"):
    """Log two points a step: 50 ms for 500 steps, the ten slowest calls apart (a busy machine's), none as long as a request's timeout."""
    taken = []
    for step in numbers:
        started = time.perf_counter()
        _log([step], step_name)
        taken.append(time.perf_counter() - started)
    assert sum(sorted(taken)[:-10]) < 1e-4 * len(taken)
    assert max(taken) < 0.5


def _steps(tracker, step_name="sft", key="loss"):
    """Give how many points MLflow has at each training step."""
    return Counter(point.step for point in tracker.client.get_metric_history(tracker.step(step_name), key))


def _wait_until_sent(tracker):
    deadline = time.monotonic() + 10
    while not all(spool.is_sent() for spool in tracker.curves._all()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _once(numbers):
    return {step: 1 for step in numbers}


def test_mlflow_ignores_the_repetition_of_a_point(tracker):
    """What exactly once rests on, with a batch of which MLflow has a part."""
    from mlflow.entities import Metric

    rows = [Metric("loss", 1 / step, 1_700_000_000_000 + step, step) for step in range(1, 11)]
    step = tracker.step("sft")
    tracker.client.log_batch(step, metrics=rows[:6])
    tracker.client.log_batch(step, metrics=rows)
    assert _steps(tracker) == _once(range(1, 11))


def test_points_are_sent_while_training_goes_on(tracker):
    _log(range(1, 6))
    _wait_until_sent(tracker)
    assert _steps(tracker) == _steps(tracker, key="learning_rate") == _once(range(1, 6))


def test_an_acknowledgement_that_is_lost_is_asked_for_again(tracker, monkeypatch, capsys):
    sent, calls = tracker.client.log_batch, []

    def log_batch(*args, **kwargs):
        sent(*args, **kwargs)
        calls.append(args)
        if len(calls) <= 2:
            raise ConnectionResetError("after MLflow took the batch")

    monkeypatch.setattr(tracker.client, "log_batch", log_batch)
    _log(range(1, 6))
    _wait_until_sent(tracker)
    assert len(calls) >= 3
    assert _steps(tracker) == _once(range(1, 6))
    assert "after MLflow took the batch" in capsys.readouterr().err


def test_a_process_killed_between_acknowledgement_and_note_repeats_nothing(tracker):
    child = subprocess.run([sys.executable, "-c", LOG_AND_DIE], env=os.environ, timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert _steps(tracker) == _once(range(1, 21)), "two batches of ten"
    spool = tracker.notes / "sft.jsonl"
    with open(spool, "ab") as file:
        file.write(b'{"step": 31, "ti')  # it might have died here too
    assert len(Spool(spool).unsent(1000)[0]) == 20, "ten that MLflow has, ten that it has not"
    # Resumed from the checkpoint at step 25, on another device: the same steps have other values.
    tracking.log_history("sft", [{"step": step, "loss": 1 / step, "epoch_name": "one"} for step in range(1, 26)])
    for step in range(26, 41):
        tracking.log_metrics("sft", {"loss": 1.001 / step}, step)
    tracking.flush()
    assert _steps(tracker) == _once(range(1, 41))
    values = {point.step: point.value for point in tracker.client.get_metric_history(tracker.step("sft"), "loss")}
    assert values[30] == 1 / 30 and values[31] == 1.001 / 31


def test_a_spool_lost_with_its_pod_is_filled_from_the_log_of_the_checkpoint(tracker):
    _log(range(1, 11))
    tracking.flush()
    shutil.rmtree(tracker.notes)
    replacement = _restarted()
    history = [{"step": step, "loss": 1 / step, "learning_rate": 1e-4} for step in range(1, 16)]  # 11 to 15 never arrived
    tracking.log_history("sft", history)
    tracking.log_history("sft", history)
    _log(range(8, 21))
    tracking.flush()
    assert _steps(replacement) == _steps(replacement, key="learning_rate") == _once(range(1, 21))


def test_a_server_killed_during_one_step_and_down_from_the_start_of_the_next(tracker, server, monkeypatch, capsys):
    _log(range(1, 11))
    tracking.flush()
    server.kill()
    _log(range(11, 21))
    _log_without_waiting(range(1, 501), "prefer")
    monkeypatch.setattr(curves, "FLUSH_SECONDS", 1.5)
    started = time.monotonic()
    tracking.log_step("sft", {}, Result(metrics={"loss": 0.5}, seconds=60))
    assert time.monotonic() - started < 4
    server.start()
    _wait_until_sent(tracker)
    assert _steps(tracker) == _once(range(1, 21))
    assert _steps(tracker, "prefer") == _once(range(1, 501))
    assert capsys.readouterr().err.count("Warning: MLflow") == 1
    later = _restarted()  # the process that writes the report
    tracking.finish("FINISHED")
    step = later.client.get_run(later.step("sft"))
    assert step.data.metrics["seconds"] == 60 and step.info.status == "FINISHED"
    assert not later.notes.exists()


def test_a_server_that_hangs_does_not_block_and_a_later_process_sends_the_rest(tracker, server, monkeypatch):
    monkeypatch.setattr(curves, "FLUSH_SECONDS", 1.5)
    _log(range(1, 11))
    tracking.flush()
    server.stop()
    try:
        _log_without_waiting(range(11, 511))
        time.sleep(1.5)  # a request times out while the kernel holds it for the server
        started = time.monotonic()
        tracking.flush()
        assert time.monotonic() - started < 3
        later = _restarted()
        _log(range(501, 521))
    finally:
        server.go_on()
    tracking.finish("FINISHED")
    assert _steps(later) == _once(range(1, 521))


def test_a_server_that_hangs_from_the_start_leaves_one_curve(tracker, server):
    server.stop()
    try:
        _log(range(1, 11))
        time.sleep(2.5)
    finally:
        server.go_on()
    _wait_until_sent(tracker)
    assert _steps(tracker) == _steps(_restarted()) == _once(range(1, 11))


def test_a_step_that_fails_sends_its_curve_first(tracker, tmp_path, monkeypatch):
    def diverge(config, inputs, output):
        _log(range(1, 6))
        raise Refused("Training diverged.")

    monkeypatch.setattr(curves, "SEND_SECONDS", 1000)
    monkeypatch.setitem(sys.modules, "diverging", SimpleNamespace(step=diverge))
    monkeypatch.setitem(steps.STEPS, "sft", "diverging:step")
    with pytest.raises(SystemExit):
        steps.run("sft", json.dumps({"store": str(tmp_path / "store"), "config": {}, "code": ""}))
    assert _steps(tracker) == _once(range(1, 6))


def test_what_mlflow_never_takes_holds_up_nothing(tracker, capsys):
    tracking.log_metrics("sft", {"loss": 1.0, "no*name": 1.0, "gradient_norm": float("nan")}, 1)
    _log(range(2, 5))
    tracking.flush()
    assert _steps(tracker) == _once(range(1, 5))
    assert _steps(tracker, key="gradient_norm") == _once([1])
    assert "no*name" in capsys.readouterr().err


def test_a_disk_that_cannot_be_written_costs_one_warning(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").write_text("no directory")
    tracker = run.RunTracker("http://127.0.0.1:9", "demo", "run-1")
    tracker.curves.directory = tmp_path / "runs" / "run-1"
    monkeypatch.setattr(tracking, "tracker", lambda: tracker)
    _log(range(1, 4))
    assert capsys.readouterr().err.count("Warning: MLflow") == 1


def test_of_several_trainers_the_first_logs(tracker, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    _log(range(1, 4))
    assert not tracker.notes.exists()


@pytest.mark.parametrize(("given", "expected"), [
    ({"TUNEGATE_RUNS": "/home/runs", "TUNEGATE_SCRATCH": "/scratch"}, "/home/runs/run-1/for-mlflow"),
    ({"TUNEGATE_SCRATCH": "/scratch"}, "/scratch/tunegate-runs/run-1/for-mlflow"),
])  # fmt: skip
def test_a_spool_lies_with_the_run_or_on_the_scratch_of_a_pod(given, expected, monkeypatch):
    for name in ("TUNEGATE_RUNS", "TUNEGATE_SCRATCH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert str(run.waiting_directory("http://mlflow", "run-1")) == expected
