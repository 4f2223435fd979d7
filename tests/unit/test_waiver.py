"""Waive a rejected model: signed apart from the gate, for a while, shown everywhere, and never what was not measured."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import keys
import promoted_model
import pytest
from command_line import call

from tunegate import approve, deploy, digests, promote, registry
from tunegate.errors import BadInput, Refused
from tunegate.gate import gate_step, signing, waiver

# SQLAlchemy about MLflow's own mappers.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A rejected model, and a key that may waive (TUNEGATE_WAIVER_KEYS)."""
    keys.trust_nobody(monkeypatch)
    promoted_model.use_database(tmp_path, monkeypatch)
    _, public = keys.pair(tmp_path / "waiving")
    monkeypatch.setenv(signing.WAIVER_KEYS, public)
    return promoted_model.make(tmp_path, candidate_right=4)


def waived(world, tmp_path, **changed):
    given = {"key": str(tmp_path / "waiving" / "private.pem"), "who": "Ada", "reason": "the old one\nis down", "days": 7} | changed
    return waiver.waive(tmp_path / "verdict", world.store, **given)


def verdict_bytes(tmp_path) -> bytes:
    return (tmp_path / "verdict" / "verdict.json").read_bytes()


def test_a_waived_model_is_registered_promoted_and_says_so_everywhere(world, tmp_path):
    waived(world, tmp_path)
    result = promoted_model.registered(world, tmp_path / "register")
    told = registry.version("toy", 1)
    line = told.tags[registry.WAIVER]
    assert line.startswith("Ada until ") and line.endswith(": the old one is down")
    assert told.tags[registry.DECISION] == "REJECT", "a waiver does not change the verdict"
    assert result.summary["waiver"] == line and f"WAIVED by {line}" in result.line
    assert f"**WAIVED, not proven: by {line}**" in told.description
    approve.approve_at_once("toy", "1")
    assert promote.promote("toy", "1")["waiver"] == line
    version = {"name": "toy", "version": "1"}
    assert deploy.require_approval(version, tmp_path / "verdict", world.refs["model"]).waived == line


def test_without_a_waiver_or_without_keys_that_may_waive_it_is_refused(world, tmp_path, monkeypatch):
    with pytest.raises(Refused, match="is REJECT, not PROMOTE: .* There is no waiver of it"):
        promoted_model.registered(world, tmp_path / "register")
    waived(world, tmp_path)
    assert waiver.valid_for(world.store, verdict_bytes(tmp_path), world.refs["model"])["who"] == "Ada"
    monkeypatch.delenv(signing.WAIVER_KEYS)
    with pytest.raises(Refused, match="No waiver is accepted here: TUNEGATE_WAIVER_KEYS is not set"):
        promoted_model.registered(world, tmp_path / "again")
    assert waiver.valid_for(world.store, verdict_bytes(tmp_path), world.refs["model"]) is None


def test_an_expired_waiver_stops_what_it_let_through(world, tmp_path, monkeypatch):
    waived(world, tmp_path)
    promoted_model.registered(world, tmp_path / "register")
    approve.approve_at_once("toy", "1")
    registry.set_alias("toy", "champion", "1")
    waived(world, tmp_path, days=1e-9)
    with pytest.raises(Refused, match="The waiver by Ada expired on"):
        promote.promote("toy", "1")
    with pytest.raises(Refused, match="The waiver by Ada expired on"):
        deploy.require_approval({"name": "toy", "version": "1"}, tmp_path / "verdict", world.refs["model"])
    with pytest.raises(Refused, match="The waiver by Ada expired on"):
        deploy.serve_champion("toy@champion")


def test_a_waiver_is_of_one_verdict_and_one_model(world, tmp_path):
    waived(world, tmp_path)
    ref = world.refs["model"]
    path = f"waivers/{ref.rpartition('/')[2]}.json"
    with pytest.raises(Refused, match="is of another verdict"):
        waiver.find(world.store, b"another verdict", ref)
    other = "merge-model/" + "0" * 64
    world.store.write_json(f"waivers/{'0' * 64}.json", world.store.read_json(path))
    with pytest.raises(Refused, match="is of another verdict"):
        waiver.find(world.store, verdict_bytes(tmp_path), other)


def forged(world, tmp_path, key: str, **changed) -> None:
    """Leave a waiver that `tunegate waive` would not make."""
    waived(world, tmp_path)
    path = f"waivers/{world.refs['model'].rpartition('/')[2]}.json"
    payload, _ = signing.unseal(world.store.read_json(path), None, "it")
    statement = json.loads(payload)
    statement["predicate"] |= changed
    world.store.write_json(path, signing.seal(digests.canonical_json(statement), signing.signer_of(key, "key")))


def test_a_waiver_by_one_who_may_not_or_for_too_long_is_refused(world, tmp_path):
    stranger, _ = keys.pair(tmp_path / "stranger")
    forged(world, tmp_path, stranger)
    with pytest.raises(Refused, match="not valid under any key that is trusted for it"):
        waiver.find(world.store, verdict_bytes(tmp_path), world.refs["model"])
    for_years = (datetime.now(UTC) + timedelta(days=999)).isoformat()
    for wrong, sentence in (({"expires": for_years}, "30 days are the most"), ({"expires": "never"}, "nothing that can be read")):
        forged(world, tmp_path, str(tmp_path / "waiving" / "private.pem"), **wrong)
        with pytest.raises(Refused, match=sentence):
            waiver.find(world.store, verdict_bytes(tmp_path), world.refs["model"])
    (Path(world.store.uri) / f"waivers/{world.refs['model'].rpartition('/')[2]}.json").write_text("{")
    with pytest.raises(Refused, match="is not JSON"):
        waiver.find(world.store, verdict_bytes(tmp_path), world.refs["model"])


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [({"who": " "}, "needs the name"), ({"reason": ""}, "needs the name"), ({"days": 31}, "at most 30 days"), ({"days": 0}, "more than 0"),
     ({"reason": "x" * 1000}, "Say it shorter"), ({"days": float("nan")}, "at most 30 days")],
)  # fmt: skip
def test_a_waiver_is_somebody_s_with_a_reason_and_an_end(world, tmp_path, changed, sentence):
    with pytest.raises(BadInput, match=sentence):
        waived(world, tmp_path, **changed)


def test_what_was_not_measured_or_needs_none_is_not_waived(tmp_path, monkeypatch):
    keys.trust_nobody(monkeypatch)
    keys.pair(tmp_path / "waiving")
    short = promoted_model.POLICY.model_dump(mode="json")
    short["gates"][0]["min_n"] = 31
    for name, changed, sentence in (
        ("error", {"policy": promoted_model.Policy.model_validate(short)}, "is ERROR .unsigned., which cannot be waived"),
        ("good", {}, "is PROMOTE .unsigned., which needs no waiver"),
    ):
        (place := tmp_path / name).mkdir()
        world = promoted_model.make(place, **changed)
        with pytest.raises(Refused, match=sentence):
            waiver.waive(place / "verdict", world.store, str(tmp_path / "waiving" / "private.pem"), "Ada", "why", 1)
    with pytest.raises(BadInput, match="No verdict at"):
        waiver.waive(tmp_path, world.store, str(tmp_path / "waiving" / "private.pem"), "Ada", "why", 1)


def test_the_gate_s_key_waives_nothing(world, tmp_path, monkeypatch):
    stranger, public = keys.pair(tmp_path / "stranger")
    with pytest.raises(Refused, match="not among TUNEGATE_WAIVER_KEYS"):
        waived(world, tmp_path, key=stranger)
    monkeypatch.setenv(signing.SIGNING_KEY, stranger)
    monkeypatch.setenv(signing.TRUSTED_KEYS, public)
    signing.sign_where_asked(tmp_path / "verdict")
    monkeypatch.setenv(signing.WAIVER_KEYS, public)
    with pytest.raises(BadInput, match="Who judges must not be who waives"):
        waived(world, tmp_path, key=stranger)


def test_the_command_waives_and_verify_shows_it(world, tmp_path, monkeypatch, capsys):
    place = ["--store", world.store.uri]
    key = ["--key", tmp_path / "waiving" / "private.pem"]
    code, out, err = call(monkeypatch, capsys, "waive", tmp_path / "verdict", *place, *key, "--who", "Ada", "--reason", "why", "--days", 2)
    assert code == 0 and out.startswith("Waived: Ada until "), err
    code, out, _ = call(monkeypatch, capsys, "verify", tmp_path / "model", tmp_path / "verdict", *place)
    assert code == 0 and "holds: REJECT, unsigned" in out and "WAIVED, not proven: by Ada until " in out
    code, _, err = call(monkeypatch, capsys, "verify", tmp_path / "model", tmp_path / "verdict")
    assert code == 3 and "is REJECT, not PROMOTE" in err


def test_the_gate_gives_the_same_verdict_finds_the_waiver_and_lets_the_run_go_on(world, tmp_path, monkeypatch):
    private, public = keys.pair(tmp_path / "gate")
    monkeypatch.setenv(signing.SIGNING_KEY, private)
    monkeypatch.setenv(signing.TRUSTED_KEYS, public)
    policy = {"policy": promoted_model.POLICY.model_dump(mode="json"), "recipe_name": "toy"}
    refs = {name: world.refs[name] for name in ("data", "report", "baseline", "results", "model", "adapter")}
    first = promoted_model.run(gate_step, world, tmp_path / "first", promoted_model.config(**policy), **refs)
    assert first.summary["waiver"] is None and first.summary["signed"].startswith("signed by ")
    verdict_dir = tmp_path / "first" / "verdict"
    waiver.waive(verdict_dir, world.store, str(tmp_path / "waiving" / "private.pem"), "Ada", "why", 1)
    second = promoted_model.run(gate_step, world, tmp_path / "second", promoted_model.config(**policy), **refs)
    assert second.summary["decision"] == "REJECT" and second.summary["waiver"]["who"] == "Ada"
    assert "WAIVED by Ada until " in second.line
    for name in ("verdict.json", "verdict.dsse.json"):
        assert (tmp_path / "second" / "verdict" / name).read_bytes() == (verdict_dir / name).read_bytes()
    shown = json.dumps([first.summary, second.summary, first.line]) + (verdict_dir / "verdict.dsse.json").read_text()
    assert Path(private).read_text().splitlines()[1] not in shown
