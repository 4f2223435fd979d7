"""The committed pipeline, run by kfp.local with fake steps: what runs, what is skipped, what a failure leaves behind."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from tunegate import report, runner, steps
from tunegate.recipe import load_recipe
from tunegate.store import open_store

FAKES = Path(__file__).parent / "fakes"
TRAINED = ["sft", "prefer", "merge", "evaluate"]
RELEASED = ["register", "approve", "deploy", "promote"]


@pytest.fixture
def recipe(tmp_path, tiny_recipe):
    return load_recipe(tiny_recipe(), [f"store={tmp_path / 'store'}"])


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    source = Path(steps.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{FAKES}:{source}")
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setattr(steps, "STEPS", dict(steps.STEPS))
    import fake_steps

    fake_steps.install(steps.STEPS)
    monkeypatch.setattr(report, "terminal_summary", lambda store, run_id: "the verdict")
    for name in ("MLFLOW_TRACKING_URI", "HF_HUB_OFFLINE", "TUNEGATE_RUN_ID", "TUNEGATE_RUNS", "TUNEGATE_EXPERIMENT"):
        monkeypatch.setenv(name, "")  # so that what run_local sets is taken back
        monkeypatch.delenv(name)
    yield
    sys.modules.pop("fake_steps")


def run(recipe, tmp_path, run_id="r1") -> tuple[int, list[str]]:
    code = runner.run_local(recipe, tmp_path / "runs", run_id)
    store = open_store(recipe.store)
    return code, [name for name in steps.STEPS if store.read_json(f"runs/{run_id}/{name}.json")]


def test_a_promoted_model_goes_all_the_way(recipe, tmp_path, capfd):
    code, ran = run(recipe, tmp_path)
    said = capfd.readouterr().out
    assert (code, ran) == (0, list(steps.STEPS))
    here = tmp_path / "runs" / "r1"
    assert json.loads((here / "verdict.json").read_text()) == {"decision": "PROMOTE"}
    assert (here / "report.html").read_text() == "<html>r1</html>"
    assert yaml.safe_load((here / "recipe.yaml").read_text())["base_model"].startswith("store:")
    assert "[ 9/13] gate: " in said and "given adapter baseline data model report results" in said
    assert "KFP Executor" not in said and "executor_input" not in said
    assert "talk     tunegate serve tunegate@champion" in said
    curves = [path.read_text() for path in sorted(here.glob("kfp/**/curve"))]
    assert len(curves) == 2 and all("given base" in page or "given adapter base" in page for page in curves), "of sft and of prefer"


def test_a_rejected_model_goes_no_further_and_the_run_ends_well(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_DECISION", "REJECT")
    code, ran = run(recipe, tmp_path)
    assert (code, ran) == (0, [name for name in steps.STEPS if name not in RELEASED])


def test_a_rejected_model_that_is_waived_goes_on(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_DECISION", "REJECT")
    monkeypatch.setenv("FAKE_WAIVER", "Ada")
    assert run(recipe, tmp_path) == (0, list(steps.STEPS))


def test_nothing_is_trained_when_prompting_is_enough(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_WORTH_TRAINING", "0")
    code, ran = run(recipe, tmp_path)
    assert (code, ran) == (0, [name for name in steps.STEPS if name not in TRAINED + RELEASED])
    assert json.loads((tmp_path / "runs" / "r1" / "verdict.json").read_text()) == {"decision": "DO_NOT_FINE_TUNE"}


def test_an_error_verdict_is_no_success(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_DECISION", "ERROR")
    assert run(recipe, tmp_path)[0] == 1


def test_a_failed_step_gives_its_sentence_its_code_and_a_report(recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_FAILURE", "sft")
    code, ran = run(recipe, tmp_path)
    assert (code, ran) == (3, ["plan", "ingest", "curate", "baseline"])
    errors = capfd.readouterr().err
    assert errors.strip().endswith("The run stopped at sft: The fake sft was told to fail. Unset FAKE_FAILURE.")
    assert "Traceback" not in errors
    assert (tmp_path / "runs" / "r1" / "report.html").is_file()


def test_a_second_run_finds_what_the_first_one_made(recipe, tmp_path):
    run(recipe, tmp_path, "r1")
    run(recipe, tmp_path, "r2")
    store = open_store(recipe.store)
    reused = [name for name in steps.STEPS if store.read_json(f"runs/r2/{name}.json")["reused"]]
    assert reused == ["ingest", "curate", "baseline", *TRAINED]
