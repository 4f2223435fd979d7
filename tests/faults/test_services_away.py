"""The store or MLflow goes away while a model is trained, and comes back: training goes on, and nothing is missing afterwards."""

import functools
import os
import signal
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from flaky_s3 import FlakyS3, become
from mlflow_server import MlflowServer
from training import Work, again, ask, at_each_step, die, together

AWAY, BACK, DEAD = 3, 8, 9  # steps
SLOW_SECONDS = 20.0  # for AWAY to BACK, which take half a second; a request to a store that hangs takes 60


@pytest.fixture
def proxy(s3_server):
    proxy = FlakyS3(s3_server)
    yield proxy
    proxy.close()


@pytest.fixture
def asked(uninterrupted, tiny_base, s3) -> Work:
    work = ask(s3.uri, "sft", tiny_base)
    assert work.store.read_json("training/one/request.json")["refs"] == uninterrupted.store.read_json("training/one/request.json")["refs"]
    return work


@pytest.mark.parametrize("how", ["error", "reset", "hang"])
def test_a_store_that_goes_away_does_not_stop_training_and_gets_its_checkpoints_later(how, proxy, asked, uninterrupted, tmp_path):
    """And what it gets is whole: the training is killed then, and goes on from there."""
    through = functools.partial(use, settings(proxy, tmp_path))
    took = tmp_path / "took"
    leave = functools.partial(at_each_step, functools.partial(away_for_a_while, proxy.uri, how, took))
    assert asked.finish(functools.partial(together, through, leave)) == -signal.SIGKILL
    assert proxy.failed and float(took.read_text()) < SLOW_SECONDS
    assert asked.checkpoints[-1]["step"] == BACK
    assert asked.finish(through) == 0
    assert asked.result["summary"]["resumed_from_step"] == BACK
    assert asked.weights == uninterrupted.weights


def away_for_a_while(uri: str, how: str, took: Path, saving, step: int) -> None:
    if step == AWAY:
        assert saving.pusher.wait(60)
        become(uri, how)
        saving.went = time.monotonic()
    elif step == BACK:
        took.write_text(str(time.monotonic() - saving.went))
        become(uri, "well")
    elif step == DEAD:
        assert saving.pusher.wait(60)
        die()


def test_a_store_that_fails_now_and_then_costs_nothing(proxy, asked, uninterrupted, tmp_path):
    proxy.become("flaky")
    assert asked.finish(functools.partial(use, settings(proxy, tmp_path))) == 0
    assert proxy.failed > 10
    assert asked.weights == uninterrupted.weights
    shown = {path.rpartition("/")[0].removeprefix("objects/") for path in asked.store.list("objects") if path.endswith("/MANIFEST.json")}
    assert len(shown) >= 4 and all(asked.store.get(ref) for ref in shown), "what is visible is whole"


def settings(proxy: FlakyS3, tmp_path: Path) -> dict[str, str]:
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return aws | {"AWS_ENDPOINT_URL": proxy.uri, "TUNEGATE_CACHE": str(tmp_path / "cache of the training")}


def use(environment: dict[str, str]) -> None:
    from tunegate.train import checkpoints

    os.environ.update(environment)
    checkpoints.RETRY_SECONDS = 0.2


@pytest.fixture
def server(tmp_path):
    (tmp_path / "mlflow").mkdir()
    server = MlflowServer(tmp_path / "mlflow")
    server.start()
    yield server
    server.kill()


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_mlflow_that_dies_and_comes_back_has_each_point_once_even_of_a_training_that_was_killed(server, uninterrupted, tmp_path):
    from tunegate.tracking import RunTracker

    environment = {
        "MLFLOW_TRACKING_URI": server.uri, "TUNEGATE_RUNS": str(tmp_path / "runs"), "TUNEGATE_RUN_ID": "run-1",
        "TUNEGATE_EXPERIMENT": "away", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }  # fmt: skip
    work, through = again(uninterrupted), functools.partial(track, environment)
    leave = functools.partial(at_each_step, functools.partial(mlflow_away, server.process.pid, server.uri))
    attempt = work.start(functools.partial(together, through, leave))
    server.process.wait(120)
    server.start()
    attempt.join(120)
    assert attempt.exitcode == -signal.SIGKILL
    assert work.finish(through) == 0 and work.weights == uninterrupted.weights
    summary = work.result["summary"]
    assert 0 < summary["resumed_from_step"] < DEAD
    tracker = RunTracker(server.uri, "away", "run-1")
    points = Counter(point.step for point in tracker.client.get_metric_history(tracker.step("sft"), "loss_nats_per_token"))
    assert points == {step: 1 for step in range(1, summary["steps"] + 1)}


def track(environment: dict[str, str]) -> None:
    from tunegate.tracking import curves

    os.environ.update(environment)
    curves.SEND_SECONDS, curves.MAX_PAUSE_SECONDS = 0.1, 0.5


def mlflow_away(group: int, uri: str, saving, step: int) -> None:
    if step == AWAY:
        os.killpg(group, signal.SIGKILL)
    elif step == BACK:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and not answers(uri):
            time.sleep(0.1)
    elif step == DEAD:
        die()


def answers(uri: str) -> bool:
    try:
        return httpx.get(f"{uri}/health", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False
