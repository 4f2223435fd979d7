"""`tunegate gate` on plain files: the same inputs give the same bytes, in any process, order or place."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_run import POLICY, answer_items, make_arms, make_items, make_rows, write_rows
from test_cli import call

from tunegate import digests, ledger, results
from tunegate.gate.policy import load_policy
from tunegate.store import base, open_store

TEST = make_rows(240)


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Leave what a run leaves, in plain directories: results of baseline and evaluate, curated data, adapter and model."""
    directory = tmp_path / "files"
    (directory / "model").mkdir(parents=True)
    (directory / "model" / "model.safetensors").write_bytes(b"weights")
    (directory / "adapter").mkdir()
    (directory / "adapter" / "training.json").write_text(json.dumps({"stop_token_in_loss": 1.0}))
    write_rows(directory / "curation" / "train.jsonl", make_rows(1400, seed=7))
    write_rows(directory / "curation" / "test.jsonl", TEST)
    (directory / "curation" / "report.json").write_text(json.dumps({"leaked_pairs": 0}))
    items = make_items(TEST) + answer_items("champion", TEST, 0.5, tokens=40)
    write_results(directory, items, random.Random(0))
    return {path.name: path for path in directory.iterdir()}


def write_results(directory: Path, items: list[dict], order: random.Random) -> None:
    items = order.sample(items, len(items))
    arms = make_arms(items, base.digest_of(base.read_directory(directory / "model")))
    arms["champion"]["model_digest"] = "a" * 64
    for name, mine in (("baseline", lambda arm: arm.startswith("base")), ("evaluate", lambda arm: not arm.startswith("base"))):
        names = order.sample(sorted(filter(mine, arms)), sum(map(mine, arms)))
        results.write_results(directory / name, [item for item in items if mine(item["arm"])], {arm: arms[arm] for arm in names})


def options(files: dict[str, Path], output: Path, **changed) -> list:
    given = {"policy": POLICY, "results": [files["baseline"], files["evaluate"]], "output": output}
    given |= {name: files[name] for name in ("curation", "model", "adapter")} | changed
    listed = [(name, one) for name, value in given.items() if value for one in (value if isinstance(value, list) else [value])]
    return ["gate", *(part for name, value in listed for part in (f"--{name}", value))]


def test_a_promotion_is_said_and_written(monkeypatch, capsys, tmp_path, files):
    code, out, err = call(monkeypatch, capsys, *options(files, tmp_path / "out" / "verdict.json"))
    assert (code, err) == (0, "") and out.startswith("PROMOTE ") and "✓ passed" in out
    assert re.search(r"Warning +How many candidates this sealed test has judged is unknown", out)
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    model = f"merge-model/{base.digest_of(base.read_directory(files['model']))}"
    facts = verdict["predicate"]["facts"]
    assert (facts["model"], facts["subject"], facts["champion"]) == (model, [model], "merge-model/" + "a" * 64)
    assert facts["sealed_test"]["sha256"] == digests.sha256_file(files["curation"] / "test.jsonl")
    assert facts["files"] == {"model.safetensors": digests.sha256_file(files["model"] / "model.safetensors")}
    assert str(tmp_path) not in json.dumps(verdict)
    assert len(results.read_items(tmp_path / "out")) == verdict["predicate"]["evidence"]["rows"]


def test_the_same_inputs_give_the_same_bytes_in_another_process_order_and_place(tmp_path, files):
    written = []
    for seed in ("0", "4711"):
        place = tmp_path / f"place {seed}"
        shutil.copytree(files["model"].parent, place)
        items = [item for name in ("baseline", "evaluate") for item in results.read_items(place / name)]
        write_results(place, items, random.Random(seed))
        own = {path.name: path for path in place.iterdir()}
        both = [own["baseline"], own["evaluate"]] if seed == "0" else [own["evaluate"], own["baseline"]]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(results.__file__).parents[1])}
        arguments = options(own, place / "out" / "verdict.json", results=both)
        subprocess.run(
            [sys.executable, "-m", "tunegate.cli", *map(str, arguments)], check=True, capture_output=True, env=environment, cwd=place
        )
        written.append([(place / "out" / name).read_bytes() for name in ("verdict.json", "items.parquet")])
    assert written[0] == written[1]


def test_a_rejection_is_a_verdict_and_an_error_is_not_one(monkeypatch, capsys, tmp_path, files):
    (files["curation"] / "report.json").write_text(json.dumps({"leaked_pairs": 2}))
    code, out, _ = call(monkeypatch, capsys, *options(files, tmp_path / "a" / "verdict.json"))
    assert code == 0 and out.startswith("REJECT ") and re.search(r"Because +2 near-duplicate pairs", out)
    for number, missing in enumerate(("curation", "adapter")):
        code, out, _ = call(monkeypatch, capsys, *options(files, tmp_path / f"b{number}" / "verdict.json", **{missing: None}))
        assert code == 1 and out.startswith("ERROR ")
        assert json.loads((tmp_path / f"b{number}" / "verdict.json").read_text())["decision"] == "ERROR"


def test_a_model_that_was_not_evaluated_is_an_error(monkeypatch, capsys, tmp_path, files):
    (files["model"] / "model.safetensors").write_bytes(b"other weights")
    code, out, _ = call(monkeypatch, capsys, *options(files, tmp_path / "out" / "verdict.json"))
    assert code == 1 and "what was measured is not what would be served" in " ".join(out.split())
    code, out, _ = call(monkeypatch, capsys, *options(files, tmp_path / "none" / "verdict.json", results=[files["baseline"]]))
    assert code == 1 and "does not say which engine served candidate" in " ".join(out.split())


def test_the_ledger_is_asked_where_a_store_is_named(monkeypatch, capsys, tmp_path, files):
    store = open_store(str(tmp_path / "store"))
    sealed, digest = digests.sha256_file(files["curation"] / "test.jsonl"), base.digest_of(base.read_directory(files["model"]))
    for model in ("earlier", digest):
        ledger.record(store, sealed, model)
    code, out, _ = call(monkeypatch, capsys, *options(files, tmp_path / "out" / "verdict.json", store=store.uri))
    assert code == 0 and re.search(r"Warning +This is the 2nd candidate that this sealed test judges", out)
    code, _, err = call(monkeypatch, capsys, *options(files, tmp_path / "no" / "verdict.json", store=store.uri, model=None))
    assert code == 2 and "Give --model, and --curation" in err


def test_nothing_is_written_over(monkeypatch, capsys, tmp_path, files):
    code, _, err = call(monkeypatch, capsys, *options(files, files["evaluate"] / "verdict.json"))
    assert code == 2 and "items.parquet is there already" in err
    code, _, err = call(monkeypatch, capsys, *options(files, tmp_path / "out"))
    assert code == 2 and "a verdict is read from a file verdict.json" in err
    assert not (tmp_path / "out").exists()


def test_a_policy_is_checked_and_named(monkeypatch, capsys, tmp_path):
    code, out, _ = call(monkeypatch, capsys, "policy", POLICY)
    assert code == 0 and out.startswith(
        f"home-assistant-demo ({load_policy(POLICY).digest()})\n  beats_zero_shot: superiority of task/exact"
    )
    (tmp_path / "p.yaml").write_text(POLICY.read_text().replace("margin", "margn"))
    code, _, err = call(monkeypatch, capsys, "policy", tmp_path / "p.yaml")
    assert code == 2 and "Did you mean 'margin'?" in err
    code, out, _ = call(monkeypatch, capsys, "policy", "--schema")
    assert code == 0 and json.loads(out)["title"] == "Policy"
    assert call(monkeypatch, capsys, "policy")[0] == 2
