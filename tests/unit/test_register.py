"""register, approve, promote and roll back on a real MLflow registry in SQLite."""

import json
import threading
from pathlib import Path

import keys
import promoted_model
import pytest

from tunegate import approve, promote, registry, tracking
from tunegate.approve import approve_step
from tunegate.errors import BadInput, Refused, Unavailable
from tunegate.promote import promote_step
from tunegate.register import register

# SQLAlchemy about MLflow's own mappers.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def world(tmp_path, monkeypatch):
    keys.trust_nobody(monkeypatch)
    promoted_model.use_database(tmp_path, monkeypatch)
    return promoted_model.make(tmp_path)


def registered(world, tmp_path, name="first"):
    return promoted_model.registered(world, tmp_path / name)


def another_version(tmp_path, number):
    """Register a further model, approved, as version `number`."""
    (place := tmp_path / f"world{number}").mkdir()
    world = promoted_model.make(place, answer=f"answer{number}", champion=registry.champion_ref("toy"))
    found, _ = register("toy", "toy-recipe", world.refs, place / "verdict", world.store)
    assert found["version"] == str(number)
    approve.approve_at_once("toy", found["version"])


def test_a_promoted_model_becomes_a_version_with_lineage_and_a_card(world, tmp_path):
    result = registered(world, tmp_path)
    version = registry.resolve("toy@candidate")
    assert result.summary["version"] == str(version.version) == "1"
    assert version.tags[registry.REF] == world.refs["model"]
    assert version.tags[registry.DECISION] == "PROMOTE"
    assert version.tags["tunegate.data"] == world.refs["data"]
    assert version.tags["tunegate.adapter"] == world.refs["adapter"]
    assert version.tags["tunegate.base"] == "base_zero_shot"
    assert version.run_id == tracking.parent_run()
    assert version.source.startswith("file://") and version.source.endswith(world.refs["model"])
    assert "| candidate | 90.0 % |" in version.description and "beats_zero_shot" in version.description
    written = json.loads((world.store.get(result["version"]) / "version.json").read_text())
    assert written["verdict_sha256"] == version.tags[registry.VERDICT_SHA256]


def test_registering_again_finds_the_version(world, tmp_path):
    assert registered(world, tmp_path)["version"] == registered(world, tmp_path, "second")["version"]
    another_version(tmp_path, 2)


def test_a_server_gets_a_pointer_in_place_of_a_path_it_cannot_read(world, tmp_path, monkeypatch):
    registered(world, tmp_path)
    monkeypatch.setattr(tracking, "is_local", lambda uri: False)
    place = tmp_path / "remote"
    place.mkdir()
    other = promoted_model.make(place, answer="remote")
    found, _ = register("toy", "toy-recipe", other.refs, place / "verdict", other.store)
    run = tracking.parent_run()
    assert found["source"].startswith(f"runs:/{run}/model-")
    folder = found["source"].rpartition("/")[2]
    pointer = json.loads(Path(registry.client().download_artifacts(run, f"{folder}/MODEL.json", str(tmp_path))).read_text())
    assert (pointer["ref"], pointer["store"]) == (other.refs["model"], other.store.uri)


def test_a_rejected_model_is_not_registered(tmp_path, monkeypatch):
    promoted_model.use_database(tmp_path, monkeypatch)
    world = promoted_model.make(tmp_path, candidate_right=4)
    with pytest.raises(Refused, match="is REJECT, not PROMOTE"):
        registered(world, tmp_path)
    assert registry.aliases("toy") == {}


def test_a_verdict_does_not_hold_for_another_model(world, tmp_path):
    with pytest.raises(Refused, match="not about merge-model/00"):
        register("toy", "r", {**world.refs, "model": "merge-model/" + "00" * 32}, tmp_path / "verdict", world.store)


def test_an_edited_verdict_is_refused(world, tmp_path):
    path = tmp_path / "verdict" / "verdict.json"
    path.write_text(path.read_text().replace('"leaked_pairs": 0', '"leaked_pairs": 1'))
    with pytest.raises(Refused, match="was changed"):
        register("toy", "r", world.refs, tmp_path / "verdict", world.store)


def test_no_approval_needed_is_recorded_as_such(world, tmp_path):
    version = registered(world, tmp_path)["version"]
    passed = promoted_model.run(approve_step, world, tmp_path / "approve", promoted_model.config(), version=version)
    assert passed["version"] == version
    assert registry.version("toy", 1).tags[registry.APPROVAL] == "not-required"


def test_a_person_approves_while_the_step_waits(world, tmp_path, capsys):
    registered(world, tmp_path)
    person = threading.Timer(0.2, approve.approve, ("toy", "1", "Ada"))
    person.start()
    assert approve.wait_for_approval("toy", "1", timeout_seconds=20, poll_seconds=0.05) == "approved:Ada"
    person.join()
    assert "tunegate approve toy 1 --who NAME" in capsys.readouterr().out
    assert approve.approve_at_once("toy", "1") == "approved:Ada", "a person's approval stays"


def test_nobody_approves_in_time(world, tmp_path):
    registered(world, tmp_path)
    approve.approve_at_once("toy", "1")
    with pytest.raises(Refused, match="Nobody approved toy version 1"):
        approve.wait_for_approval("toy", "1", timeout_seconds=0, poll_seconds=0.01)
    with pytest.raises(BadInput, match="who approves"):
        approve.approve("toy", "1", " ")


def test_promoting_keeps_the_champion_before_and_rolling_back_brings_it_back(world, tmp_path):
    registered(world, tmp_path)
    approve.approve_at_once("toy", "1")
    assert promote.promote("toy", "1") == {"name": "toy", "champion": "1", "previous": None, "signed": "unsigned", "waiver": ""}
    with pytest.raises(Refused, match="first champion"):
        promote.rollback("toy")
    another_version(tmp_path, 2)
    assert promote.promote("toy", "2").items() >= {"name": "toy", "champion": "2", "previous": "1"}.items()
    assert promote.promote("toy", "2")["previous"] == "1", "promoting the champion changes nothing"
    assert promote.rollback("toy").items() >= {"name": "toy", "champion": "1", "previous": "2"}.items()
    assert registry.resolve("toy").version == registry.resolve("toy@champion").version == registry.version("toy", 1).version
    assert registry.version("toy", 2).tags[registry.PROMOTED]


def test_only_what_was_judged_and_approved_is_promoted(world, tmp_path):
    registered(world, tmp_path)
    with pytest.raises(Refused, match="no recorded approval"):
        promote.promote("toy", "1")
    registry.set_tag("toy", "1", registry.DECISION, "REJECT")
    with pytest.raises(Refused, match="is tagged tunegate.decision REJECT, and its verdict says PROMOTE"):
        promote.promote("toy", "1")
    with pytest.raises(Refused, match="has no champion"):
        promote.rollback("toy")


def test_promote_step_wants_the_smoke_test_of_this_model(world, tmp_path):
    version = registered(world, tmp_path)["version"]
    approve.approve_at_once("toy", "1")
    good = {"model": world.refs["model"], "smoke": {"passed": True}}
    bad = [good | {"smoke": {"passed": False}}, good | {"model": "merge-model/other"}]
    for number, (endpoint, sentence) in enumerate(zip(bad, ["did not pass", "The endpoint serves"], strict=True)):
        refs = dict(version=version, verdict=world.refs["verdict"], endpoint=_endpoint(world, tmp_path, number, endpoint))
        with pytest.raises(Refused, match=sentence):
            promoted_model.run(promote_step, world, tmp_path / f"promote{number}", promoted_model.config(), **refs)
    assert "champion" not in registry.aliases("toy")
    refs = dict(version=version, verdict=world.refs["verdict"], endpoint=_endpoint(world, tmp_path, 2, good))
    result = promoted_model.run(promote_step, world, tmp_path / "promote2", promoted_model.config(), **refs)
    assert result.summary["champion"] == registry.aliases("toy")["champion"] == "1"


def _endpoint(world, tmp_path, number, document):
    (directory := tmp_path / f"endpoint{number}").mkdir()
    (directory / "endpoint.json").write_text(json.dumps(document))
    return world.put("endpoint", directory)


def test_unknown_names_are_told_with_what_exists(world, tmp_path):
    registered(world, tmp_path)
    with pytest.raises(BadInput, match="no alias 'champion'.*It has: candidate"):
        registry.resolve("toy@champion")
    with pytest.raises(BadInput, match="no version 7 of a model 'toy'"):
        registry.resolve("toy/7")
    with pytest.raises(BadInput, match="No version of it has an alias"):
        registry.resolve("nothing")


def test_a_dead_registry_is_unavailable(world, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Unavailable, match="MLflow at http://127.0.0.1:9 did not answer"):
        registered(world, tmp_path)


def test_an_unsigned_verdict_is_said_to_be_unsigned_wherever_it_is_shown(world, tmp_path):
    result = registered(world, tmp_path)
    version = registry.version("toy", 1)
    assert version.tags[registry.SIGNED] == result.summary["signed"] == "unsigned"
    assert "verdict unsigned" in version.description and "verdict unsigned" in result.line


def test_a_signed_verdict_is_registered_and_a_stranger_s_is_not(tmp_path, monkeypatch):
    keys.trust_nobody(monkeypatch)
    promoted_model.use_database(tmp_path, monkeypatch)
    keys.sign_and_trust(tmp_path / "gate", monkeypatch)
    world = promoted_model.make(tmp_path)
    registered(world, tmp_path)
    assert registry.version("toy", 1).tags[registry.SIGNED].startswith("signed by ")
    approve.approve_at_once("toy", "1")
    keys.sign_and_trust(tmp_path / "another", monkeypatch)
    with pytest.raises(Refused, match="not valid under any key that is trusted"):
        registered(world, tmp_path, "again")
    with pytest.raises(Refused, match="not valid under any key that is trusted"):
        promote.promote("toy", "1")


def test_a_policy_that_is_not_on_the_list_promotes_nothing(world, tmp_path, monkeypatch):
    version = registered(world, tmp_path)["version"]
    policy = registry.version("toy", 1).tags["tunegate.policy_sha256"]
    approve.approve_at_once("toy", "1")
    monkeypatch.setenv("TUNEGATE_POLICIES", f"{'0' * 64}, {policy}")
    assert registered(world, tmp_path, "again")["version"] == version
    for listed in ("0" * 64, ""):
        monkeypatch.setenv("TUNEGATE_POLICIES", listed)
        with pytest.raises(Refused, match=r"is not among those that may promote here \(TUNEGATE_POLICIES\)"):
            promote.promote("toy", "1")


def test_the_tags_are_not_the_proof(world, tmp_path):
    """Someone who may write to MLflow, and not to the store, marks a rejected model as promoted and approved."""
    registered(world, tmp_path)
    approve.approve_at_once("toy", "1")
    (place := tmp_path / "bad").mkdir()
    bad = promoted_model.make(place, candidate_right=4)
    tags = dict(registry.version("toy", 1).tags) | {registry.REF: bad.refs["model"]}
    registry.client().create_model_version("toy", source="file:///elsewhere", tags=tags)
    with pytest.raises(Refused, match="about merge-model/.*, not about merge-model/"):
        promote.promote("toy", "2")
    tags |= {registry.STORE: bad.store.uri, registry.VERDICT: bad.refs["verdict"]}
    registry.client().create_model_version("toy", source="file:///elsewhere", tags=tags)
    with pytest.raises(Refused, match="is REJECT, not PROMOTE"):
        promote.promote("toy", "3")
    registry.set_alias("toy", "champion", "1")
    registry.set_alias("toy", "previous", "3")
    with pytest.raises(Refused, match="is REJECT, not PROMOTE"):
        promote.rollback("toy")
    assert registry.aliases("toy")["champion"] == "1"


def test_rolling_back_needs_no_proof_beside_the_champion_of_now(world, tmp_path):
    registered(world, tmp_path)
    approve.approve_at_once("toy", "1")
    promote.promote("toy", "1")
    another_version(tmp_path, 2)
    promote.promote("toy", "2")
    with pytest.raises(Refused, match="is stale, the champion changed"):
        promote.promote("toy", "1")
    assert promote.rollback("toy")["champion"] == "1"


def test_the_same_model_under_a_newer_verdict_is_not_its_own_way_back(world, tmp_path):
    registered(world, tmp_path)
    approve.approve_at_once("toy", "1")
    promote.promote("toy", "1")
    another_version(tmp_path, 2)
    promote.promote("toy", "2")
    (place := tmp_path / "again").mkdir()
    again = promoted_model.make(place, answer="answer2")  # the pipeline once more: its model is the champion by now
    found, was_there = register("toy", "toy-recipe", again.refs, place / "verdict", again.store)
    assert found["version"] == "3" and not was_there
    approve.approve_at_once("toy", "3")
    assert promote.promote("toy", "3").items() >= {"champion": "3", "previous": "1"}.items()


def test_an_approval_says_who_and_when(world, tmp_path):
    registered(world, tmp_path)
    approve.approve("toy", "1", " Ada ")
    tags = registry.version("toy", 1).tags
    assert tags[registry.APPROVAL] == "approved:Ada" and tags[registry.APPROVED_AT].endswith("+00:00")
    registry.set_tag("toy", "1", registry.APPROVAL, "approved: ")
    with pytest.raises(Refused, match="no recorded approval"):
        promote.promote("toy", "1")


def test_where_the_policy_asks_for_a_person_not_required_is_no_approval(tmp_path, monkeypatch):
    keys.trust_nobody(monkeypatch)
    promoted_model.use_database(tmp_path, monkeypatch)
    asking = promoted_model.POLICY.model_copy(update={"human_approval": True})
    world = promoted_model.make(tmp_path, policy=asking)
    version = registered(world, tmp_path)["version"]
    assert json.loads((world.store.get(version) / "version.json").read_text())["human_approval"] is True
    with pytest.raises(Refused, match="Nobody approved toy version 1"):
        promoted_model.run(approve_step, world, tmp_path / "approve", promoted_model.config(approve=HURRIED), version=version)
    approve.approve_at_once("toy", "1")
    with pytest.raises(Refused, match="policy asks for a person's approval"):
        promote.promote("toy", "1")
    approve.approve("toy", "1", "Ada")
    assert promote.promote("toy", "1")["champion"] == "1"


HURRIED = {"required": False, "timeout_hours": 0}  # the policy asks, the recipe does not
