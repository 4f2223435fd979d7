"""Verify a verdict: what it is about, what is in force, and what is no verdict at all."""

import json
import math

import keys
import promoted_model
import pytest

from tunegate.errors import BadInput, Refused
from tunegate.gate.decide import decide
from tunegate.gate.verdict import canonical
from tunegate.gate.verify import verify_model, verify_verdict
from tunegate.results import read_items
from tunegate.store.base import digest_of, read_directory


@pytest.fixture
def world(tmp_path, monkeypatch):
    keys.trust_nobody(monkeypatch)
    return promoted_model.make(tmp_path)


def verdict_of(tmp_path) -> dict:
    return json.loads((tmp_path / "verdict" / "verdict.json").read_bytes())


def test_the_subjects_are_the_model_and_then_each_of_its_files(world, tmp_path):
    subjects = [(subject["name"], subject["digest"]["sha256"]) for subject in verdict_of(tmp_path)["subject"]]
    assert subjects[0] == tuple(world.refs["model"].split("/"))
    files = read_directory(tmp_path / "model")["files"]
    assert [name for name, _ in subjects[2:]] == sorted(files) == ["answers.json", "chat_template.jinja", "config.json"]
    assert all(digest == files[name]["sha256"] for name, digest in subjects[2:])


def test_the_order_in_which_files_are_told_does_not_matter(world, tmp_path):
    facts, items = verdict_of(tmp_path)["predicate"]["facts"], read_items(tmp_path / "verdict")
    turned = facts | {"files": dict(reversed(facts["files"].items()))}
    assert canonical(decide(promoted_model.POLICY, items, turned)) == (tmp_path / "verdict" / "verdict.json").read_bytes()


def test_a_model_in_the_store_is_the_same_as_the_directory_it_came_from(world, tmp_path):
    stored = world.store.get(world.refs["model"])
    assert (stored / "MANIFEST.json").is_file()
    assert verify_model(stored, tmp_path / "verdict").verdict["decision"] == "PROMOTE"


def test_a_verdict_that_names_no_files_still_knows_its_model_by_digest(world, tmp_path):
    path = tmp_path / "verdict" / "verdict.json"
    facts = verdict_of(tmp_path)["predicate"]["facts"]
    del facts["files"]
    path.write_bytes(canonical(decide(promoted_model.POLICY, read_items(tmp_path / "verdict"), facts)))
    assert verify_model(tmp_path / "model", tmp_path / "verdict").verdict["decision"] == "PROMOTE"
    (tmp_path / "model" / "answers.json").write_text("{}")
    found = digest_of(read_directory(tmp_path / "model"))[:12]
    with pytest.raises(Refused, match=rf"the files in .* are another model's \({found}\)"):
        verify_model(tmp_path / "model", tmp_path / "verdict")


def test_the_adapter_beside_the_judged_model_is_not_the_judged_model(world, tmp_path):
    with pytest.raises(Refused, match="not about sft-adapter/"):
        verify_verdict(tmp_path / "verdict", world.refs["adapter"])


def test_the_champion_of_now_is_the_one_compared_with_or_the_model_itself(tmp_path, monkeypatch):
    keys.trust_nobody(monkeypatch)
    compared = "merge-model/" + "c" * 64
    world = promoted_model.make(tmp_path, champion=compared)
    for now in (compared, world.refs["model"]):
        assert verify_verdict(tmp_path / "verdict", world.refs["model"], champion=now).verdict["decision"] == "PROMOTE"
    for now, said in (("merge-model/" + "d" * 64, "now merge-model/dddd"), (None, "now none serves")):
        with pytest.raises(Refused, match=f"champion changed: .* was compared with {compared}, and {said}"):
            verify_verdict(tmp_path / "verdict", world.refs["model"], champion=now)


def test_the_sealed_test_of_now_is_the_one_judged_on(world, tmp_path):
    judged_on = verdict_of(tmp_path)["predicate"]["facts"]["sealed_test"]["sha256"]
    assert verify_verdict(tmp_path / "verdict", world.refs["model"], sealed_sha256=judged_on)
    with pytest.raises(Refused, match="the sealed test set changed"):
        verify_verdict(tmp_path / "verdict", world.refs["model"], sealed_sha256="0" * 64)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"predicate": 1}', '{"predicate": {"policy": {"document": {}, "sha256": "0"}}}'])
def test_what_is_no_verdict_proves_nothing(world, tmp_path, text):
    (tmp_path / "verdict" / "verdict.json").write_text(text)
    with pytest.raises(Refused, match="holds no verdict with a policy that can be read"):
        verify_verdict(tmp_path / "verdict", world.refs["model"])


@pytest.mark.parametrize("change", [{"arms": 3}, {"subject": None}, {"files": []}, {"train_rows": "many"}, {"trained": None}])
def test_facts_that_the_gate_does_not_write_are_refused(world, tmp_path, change):
    verdict = verdict_of(tmp_path)
    verdict["predicate"]["facts"] |= change
    (tmp_path / "verdict" / "verdict.json").write_bytes(canonical(verdict))
    with pytest.raises(Refused, match="was changed"):
        verify_verdict(tmp_path / "verdict", world.refs["model"])


def test_a_verdict_holds_no_nan(world, tmp_path):
    verdict = verdict_of(tmp_path)
    verdict["predicate"]["gates"][0]["bound"] = math.nan
    (tmp_path / "verdict" / "verdict.json").write_text(json.dumps(verdict))
    with pytest.raises(Refused, match="holds no verdict"):
        verify_verdict(tmp_path / "verdict", world.refs["model"])


def test_a_policy_in_force_that_is_not_there_is_said(world, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEGATE_POLICY", str(tmp_path / "nowhere.yaml"))
    with pytest.raises(BadInput, match="No policy at"):
        verify_verdict(tmp_path / "verdict", world.refs["model"])
