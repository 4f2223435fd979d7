"""The committed pipeline is what the source compiles to, and its edges, caching and resources are those of the design."""

import pytest
import yaml

from pipelines.pipeline import COMPILED, compile_to
from tunegate.steps import STEPS

TRAINING = {"sft", "prefer"}
CACHED = {"ingest", "curate", "sft", "prefer", "merge", "evaluate"}


@pytest.fixture(scope="module")
def documents() -> tuple[dict, dict]:
    pipeline, platform = yaml.safe_load_all(COMPILED.read_text(encoding="utf-8"))
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.fixture(scope="module")
def tasks(documents) -> dict[str, dict]:
    """All tasks that run a container, whatever sub-DAG they are in."""
    pipeline, _ = documents
    dags = [pipeline["root"], *pipeline["components"].values()]
    return {
        name: task
        for dag in dags
        for name, task in dag.get("dag", {}).get("tasks", {}).items()
        if "executorLabel" in pipeline["components"][task["componentRef"]["name"]]
    }


def test_committed_file_equals_a_fresh_compile(tmp_path):
    compile_to(tmp_path / "fresh.yaml")
    assert COMPILED.read_bytes() == (tmp_path / "fresh.yaml").read_bytes(), "run `make compile` and commit src/tunegate/pipeline.yaml"


def test_every_step_runs_and_only_gate_and_report_beside_them(tasks):
    assert set(tasks) == set(STEPS) | {"gate-2", "report"}


def test_kfp_may_skip_only_what_has_no_effect_outside(tasks):
    assert {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")} == CACHED


def test_only_strings_travel_between_steps(tasks):
    assert all("artifacts" not in task.get("inputs", {}) for task in tasks.values())


def test_training_is_retried_once(tasks):
    assert {name for name, task in tasks.items() if task.get("retryPolicy", {}).get("maxRetryCount")} == TRAINING


def test_every_parameter_that_a_setter_uses_reaches_its_dag(documents):
    """kfp compiles a setter's parameter without declaring it as an input of the sub-DAG; the run then fails late."""
    pipeline, _ = documents
    names = {"gpu_type", "gpus", "cpu", "memory", "image_serve", "image_train", "secret"}
    for name, component in pipeline["components"].items():
        if any("exec-sft" == pipeline["components"][t["componentRef"]["name"]].get("executorLabel") for t in _tasks(component)):
            inputs = set(component["inputDefinitions"]["parameters"])
            assert {f"pipelinechannel--{n}" for n in names} <= inputs, name
            return
    pytest.fail("no sub-DAG holds sft")


def test_every_pod_gets_its_run_id_and_its_credentials(documents):
    pipeline, executors = documents
    assert set(executors) == set(pipeline["deploymentSpec"]["executors"])
    for executor in executors.values():
        assert executor["fieldPathAsEnv"] == [{"fieldPath": "metadata.labels['pipeline/runid']", "name": "TUNEGATE_RUN_ID"}]
        (secret,) = executor["secretAsEnv"]
        assert secret["optional"] and secret["secretNameParameter"]


def test_the_key_that_signs_reaches_the_gate_alone(documents):
    _, executors = documents
    given = {name: {key["envVar"] for key in executor["secretAsEnv"][0]["keyToEnv"]} for name, executor in executors.items()}
    assert {name for name, keys in given.items() if "TUNEGATE_SIGNING_KEY" in keys} == {"exec-gate", "exec-gate-2"}
    checkers = {"exec-gate", "exec-gate-2", "exec-register", "exec-deploy", "exec-promote"}
    assert {name for name, keys in given.items() if {"TUNEGATE_TRUSTED_KEYS", "TUNEGATE_WAIVER_KEYS"} <= keys} == checkers


def _tasks(component: dict) -> list[dict]:
    return list(component.get("dag", {}).get("tasks", {}).values())
