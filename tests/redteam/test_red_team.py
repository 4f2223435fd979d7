"""Ten ways to talk the system into serving what is not proven. Each is refused, by the entry points that people and steps use.

Evidence that lies (5 to 7, 9, 10) is an ERROR or a REJECT when it is judged, which no step after the gate lets through; a verdict
that lies about its evidence, its model or its age (1 to 3, 8) is refused by everything that takes one.
"""

import json
import shutil
from pathlib import Path

import fake_run
import keys
import promoted_model
import pyarrow.parquet as pq
import pytest
from command_line import call

from tunegate import approve, deploy, digests, promote, registry
from tunegate.errors import Refused
from tunegate.gate import signing
from tunegate.gate.decide import decide
from tunegate.gate.policy import Policy
from tunegate.gate.verdict import canonical, evidence, write_evidence
from tunegate.register import register
from tunegate.store import open_store

# SQLAlchemy about MLflow's own mappers.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture(autouse=True)
def registry_of_its_own(tmp_path, monkeypatch):
    keys.trust_nobody(monkeypatch)
    promoted_model.use_database(tmp_path, monkeypatch)


@pytest.fixture
def world(tmp_path):
    return promoted_model.make(tmp_path)


@pytest.fixture
def verify(tmp_path, monkeypatch, capsys):
    """Call `tunegate verify` on the model and the verdict of the world; give the exit code and what was said."""

    def called(*options) -> tuple[int, str]:
        code, out, err = call(monkeypatch, capsys, "verify", tmp_path / "model", tmp_path / "verdict", *options)
        return code, out + err

    return called


def everything_refuses(world, verdict_dir: Path, sentence: str) -> None:
    """Try all that takes a verdict."""
    world.refs["verdict"] = world.store.put("gate-verdict", verdict_dir)
    with pytest.raises(Refused, match=sentence):
        promoted_model.registered(world, verdict_dir.parent / "register")
    # Someone who may write to MLflow goes on without `register`.
    tags = {registry.REF: world.refs["model"], registry.STORE: world.store.uri, registry.VERDICT: world.refs["verdict"]}
    tags |= {registry.VERDICT_SHA256: digests.sha256_file(verdict_dir / "verdict.json"), registry.DECISION: "PROMOTE"}
    tags |= {registry.APPROVAL: "approved:Mallory"}
    registry.client().create_registered_model("forged")
    registry.client().create_model_version("forged", source="file:///elsewhere", tags=tags)
    with pytest.raises(Refused, match=sentence):
        deploy.require_approval({"name": "forged", "version": "1"}, verdict_dir, world.refs["model"])
    with pytest.raises(Refused, match=sentence):
        promote.promote("forged", "1")
    with pytest.raises(Refused, match=sentence):
        deploy.serve_champion("forged/1")


def edited(path: Path, change) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_bytes(canonical(document))


def test_the_world_is_sound(world, verify, tmp_path):
    """Without this, a refusal below could have another cause."""
    code, said = verify()
    assert code == 0 and "holds: PROMOTE, unsigned" in said and "3 files as judged" in said
    promoted_model.registered(world, tmp_path / "register")
    approve.approve_at_once("toy", "1")
    assert promote.promote("toy", "1")["champion"] == "1"


def test_1_a_tampered_verdict(tmp_path, verify):
    world = promoted_model.make(tmp_path, candidate_right=4)

    def flatter(verdict):
        verdict["decision"] = verdict["predicate"]["decision"] = "PROMOTE"

    edited(tmp_path / "verdict" / "verdict.json", flatter)
    assert verify()[0] == 3 and "says PROMOTE, but its evidence gives REJECT" in verify()[1]
    everything_refuses(world, tmp_path / "verdict", "says PROMOTE, but its evidence gives REJECT")


def test_1_a_verdict_with_two_decisions_in_one_object(tmp_path, verify):
    promoted_model.make(tmp_path)
    path = tmp_path / "verdict" / "verdict.json"
    path.write_text(path.read_text().replace('{\n "_type"', '{\n "decision": "REJECT",\n "_type"', 1))
    assert verify() == (3, f"tunegate: {path} is not written as the gate writes it: it was changed. Run the gate again.\n")


def test_1_tampered_evidence(world, verify, tmp_path):
    path = tmp_path / "verdict" / "items.parquet"
    items = pq.read_table(path).to_pylist()
    for item in items:
        if item["arm"] == "base_zero_shot":
            item["score"] = 0.0
    write_evidence(evidence(items), path)
    code, said = verify()
    assert code == 3 and "what differs: evidence" in said
    everything_refuses(world, tmp_path / "verdict", "what differs: evidence")
    path.write_bytes(b"no parquet")
    assert "The evidence in" in verify()[1] and "cannot be read" in verify()[1]


def test_1_a_verdict_and_its_evidence_rewritten_together_lack_the_gate_s_signature(tmp_path, monkeypatch, verify):
    keys.sign_and_trust(tmp_path / "gate", monkeypatch)
    world = promoted_model.make(tmp_path, candidate_right=4)
    assert verify()[0] == 3 and "is REJECT, not PROMOTE" in verify()[1]
    path = tmp_path / "verdict" / "items.parquet"
    items = [item | {"score": 1.0} if item["arm"] == "candidate" else item for item in pq.read_table(path).to_pylist()]
    facts = json.loads((tmp_path / "verdict" / "verdict.json").read_bytes())["predicate"]["facts"]
    write_evidence(evidence(items), path)
    (tmp_path / "verdict" / "verdict.json").write_bytes(canonical(decide(promoted_model.POLICY, items, facts)))
    code, said = verify()
    assert code == 3 and "signs another verdict: verdict.json beside it was changed after it was signed" in said
    everything_refuses(world, tmp_path / "verdict", "signs another verdict")
    (tmp_path / "verdict" / "verdict.dsse.json").unlink()
    assert "is unsigned, and only signed ones are trusted here" in verify()[1]
    assert "is unsigned" in verify("--keys", tmp_path / "gate" / "public.pem")[1]


def test_2_swapped_weights(world, verify, tmp_path):
    model = tmp_path / "model"
    weights = (model / "answers.json").read_bytes()
    (model / "answers.json").write_bytes(weights.replace(b"answer 7", b"answer 8"))
    assert verify()[0] == 3 and f"{model}/answers.json was changed since the model was judged" in verify()[1]
    (model / "answers.json").unlink()
    assert f"{model}/answers.json is missing since the model was judged" in verify()[1]
    (model / "answers.json").write_bytes(weights)
    (model / "adapter.safetensors").write_bytes(b"more")
    assert f"{model}/adapter.safetensors was added since the model was judged" in verify()[1]
    (model / "adapter.safetensors").unlink()
    assert verify()[0] == 0
    with pytest.raises(Refused, match="not about merge-model/00"):
        register("toy", "r", {**world.refs, "model": "merge-model/" + "00" * 32}, tmp_path / "verdict", world.store)


def test_2_weights_swapped_inside_the_store(world, tmp_path):
    version = promoted_model.registered(world, tmp_path / "register")["version"]
    approve.approve_at_once("toy", "1")
    elsewhere = shutil.copytree(world.store.uri, tmp_path / "copy")  # this process has verified the store's own objects
    store = open_store(str(elsewhere))
    (elsewhere / "objects" / world.refs["model"] / "answers.json").write_text("{}")
    copied = promoted_model.World(store, world.refs)
    refs = {"version": version, "verdict": world.refs["verdict"], "model": world.refs["model"]}
    with pytest.raises(Refused, match="answers.json was changed after it was stored"):
        promoted_model.run(deploy.deploy_step, copied, tmp_path / "deploy", promoted_model.config(), **refs)


def weakened() -> Policy:
    """What rejects 4 right answers of 30 against 3 would let them pass here."""
    document = promoted_model.POLICY.model_dump(mode="json", exclude_none=True)
    return Policy.model_validate(document | {"gates": [document["gates"][0] | {"test": "noninferiority", "margin": 0.3}]})


def test_3_a_weakened_policy(tmp_path, verify, monkeypatch):
    world = promoted_model.make(tmp_path, candidate_right=4, policy=weakened())
    assert verify()[0] == 0, "by the policy it brings, the model passes"
    strict = tmp_path / "strict.yaml"
    strict.write_text(json.dumps(promoted_model.POLICY.model_dump(mode="json", exclude_none=True)))
    code, said = verify("--policy", strict)
    assert code == 3 and "The verdict is stale, the policy changed: it was made under the policy" in said
    with monkeypatch.context() as environment:
        environment.setenv("TUNEGATE_POLICY", str(strict))
        everything_refuses(world, tmp_path / "verdict", "is stale, the policy changed")
    allowed = json.loads((tmp_path / "verdict" / "verdict.json").read_bytes())["predicate"]["policy"]["sha256"]
    monkeypatch.setenv("TUNEGATE_POLICIES", allowed)
    assert verify()[0] == 0
    monkeypatch.setenv("TUNEGATE_POLICIES", "0" * 64)
    assert verify()[0] == 3 and "is not among those that may promote here" in verify()[1]


def test_3_a_policy_weakened_in_the_verdict_alone(tmp_path, verify):
    world = promoted_model.make(tmp_path, candidate_right=4)

    def weaken(verdict):
        verdict["predicate"]["policy"]["document"] = weakened().model_dump(mode="json", exclude_none=True)

    edited(tmp_path / "verdict" / "verdict.json", weaken)
    assert verify()[0] == 3 and "made under the policy" in verify()[1]
    everything_refuses(world, tmp_path / "verdict", "made under the policy")


# What follows spoils the evidence of a good run, lets the gate judge it, and writes a verdict that claims PROMOTE nevertheless.

POLICY = Policy.model_validate({
    "apiVersion": "tunegate/v1", "kind": "PromotionPolicy", "name": "red team",
    "gates": [
        {"id": "beats_zero_shot", "metric": "task/exact", "versus": "base_zero_shot", "test": "superiority", "margin": 0.05,
         "min_n": 200, "min_clusters": 50},
        {"id": "beats_few_shot", "metric": "task/exact", "versus": "base_few_shot", "test": "superiority", "margin": 0.02},
        {"id": "keeps_general_ability", "metric": "general/nats_per_token", "versus": "base_zero_shot", "test": "noninferiority",
         "margin": 0.10, "direction": "lower_is_better"},
    ],
})  # fmt: skip


def judged(items: list[dict], **facts) -> tuple[str, str]:
    verdict = decide(POLICY, items, sound_facts(items) | facts)
    return verdict["decision"], " ".join(verdict["reasons"])


def sound_facts(items: list[dict]) -> dict:
    return fake_run.make_facts(items)


@pytest.fixture
def items() -> list[dict]:
    sound = fake_run.make_items(fake_run.make_rows(240))
    assert judged(sound)[0] == "PROMOTE"
    return sound


@pytest.fixture
def claimed(tmp_path):
    """Write the verdict that the sound evidence gives beside spoilt evidence, and see it refused."""

    def refused(sound: list[dict], spoilt: list[dict], **facts) -> None:
        verdict_dir = tmp_path / "claimed"
        verdict_dir.mkdir()
        told = sound_facts(sound)
        promise = json.loads(canonical(decide(POLICY, sound, told)))
        promise["predicate"]["facts"] |= facts
        (verdict_dir / "verdict.json").write_bytes(canonical(promise))
        write_evidence(evidence(spoilt), verdict_dir / "items.parquet")
        world = promoted_model.World(open_store(str(tmp_path / "store")), {"model": told["subject"][0]})
        everything_refuses(world, verdict_dir, "says PROMOTE, but its evidence gives (ERROR|REJECT)")

    return refused


def test_4_a_missing_metric(items, claimed):
    spoilt = [item for item in items if item["metric"] != "general/nats_per_token"]
    decision, said = judged(spoilt)
    assert decision == "ERROR" and "there is no 'general/nats_per_token' of the arm candidate" in said
    claimed(items, spoilt)


def test_5_not_a_number(items, claimed):
    spoilt = [dict(item) for item in items]
    next(item for item in spoilt if item["arm"] == "candidate" and item["score"] == 0.0)["score"] = float("nan")
    decision, said = judged(spoilt)
    assert decision == "ERROR" and "1 of 1560 scores are missing or not numbers" in said
    claimed(items, spoilt)


def test_6_truncated_n(items, claimed):
    """The candidate's wrong answers are left out; then those items are left out of every arm."""
    wrong = {item["item_id"] for item in items if (item["arm"], item["metric"], item["score"]) == ("candidate", "task/exact", 0.0)}
    one_arm = [item for item in items if not (item["arm"] == "candidate" and item["item_id"] in wrong)]
    decision, said = judged(one_arm)
    assert decision == "ERROR" and f"the arm candidate lacks {len(wrong)} of 240 items" in said
    every_arm = [item for item in items if item["item_id"] not in wrong]
    decision, said = judged(every_arm)
    assert decision == "ERROR" and f"{240 - len(wrong)} items are fewer than the 200 that the policy asks for" in said
    claimed(items, every_arm)


def test_6_truncated_n_above_the_policy_s_minimum(items, claimed):
    """Even where enough items are left, the sealed test has more."""
    wrong = [item["item_id"] for item in items if (item["arm"], item["metric"], item["score"]) == ("candidate", "task/exact", 0.0)][:30]
    every_arm = [item for item in items if item["item_id"] not in wrong]
    sealed = {"sealed_test": {"sha256": "5" * 64, "items": 240, "use": 1}}
    assert judged(items, **sealed)[0] == "PROMOTE"
    decision, said = judged(every_arm, **sealed)
    assert decision == "ERROR" and "The arm candidate was asked 210 items of the sealed test, which has 240" in said


def test_7_mismatched_prompt_hashes(items, claimed):
    """The general texts of the base are harder ones."""
    spoilt = [dict(item) for item in items]
    for item in spoilt:
        if item["arm"] == "base_zero_shot" and item["split"] == "general":
            item["prompt_hash"] = fake_run.sha(f"harder {item['item_id']}")
    decision, said = judged(spoilt)
    assert decision == "ERROR" and "60 of 60 prompts of base_zero_shot on general are not those of candidate" in said
    claimed(items, spoilt)


def test_8_a_verdict_made_beside_another_champion(world, tmp_path):
    promoted_model.registered(world, tmp_path / "register")
    approve.approve_at_once("toy", "1")
    (place := tmp_path / "better").mkdir()
    better = promoted_model.make(place, answer="better")  # judged while there was no champion
    version, _ = register("toy", "toy-recipe", better.refs, place / "verdict", better.store)
    approve.approve_at_once("toy", version["version"])
    promote.promote("toy", "1")
    stale = f"is stale, the champion changed: {better.refs['model']} was compared with no champion, and now {world.refs['model']} serves"
    with pytest.raises(Refused, match=stale):
        register("toy", "toy-recipe", better.refs, place / "verdict", better.store)
    with pytest.raises(Refused, match=stale):
        deploy.require_approval(version, place / "verdict", better.refs["model"])
    with pytest.raises(Refused, match=stale):
        promote.promote("toy", version["version"])
    with pytest.raises(Refused, match=stale):
        deploy.serve_champion("toy@candidate")


def test_8_a_verdict_on_another_sealed_test(world, tmp_path, verify):
    version = promoted_model.registered(world, tmp_path / "register").summary
    approve.approve_at_once("toy", "1")
    assert verify("--data", tmp_path / "data")[0] == 0
    with open(tmp_path / "data" / "test.jsonl", "a") as file:
        file.write("\n")
    code, said = verify("--data", tmp_path / "data")
    assert code == 3 and "The verdict is stale, the sealed test set changed" in said
    refs = {"version": world.put("version", _directory(tmp_path / "v", "version.json", json.dumps(version)))}
    refs |= {name: world.refs[name] for name in ("verdict", "model")} | {"data": world.put("curate-data", tmp_path / "data")}
    with pytest.raises(Refused, match="the sealed test set changed"):
        promoted_model.run(deploy.deploy_step, world, tmp_path / "deploy", promoted_model.config(), **refs)


def _directory(path: Path, name: str, text: str) -> Path:
    path.mkdir()
    (path / name).write_text(text)
    return path


def test_9_an_injected_leak(items, claimed):
    """Curation counted pairs across the split; the verdict says that it counted none."""
    decision, said = judged(items, leaked_pairs=3)
    assert decision == "REJECT" and "3 near-duplicate pairs straddle the split, and the policy allows 0" in said
    assert judged(items, leaked_pairs=None)[0] == "ERROR", "not counting is no way out"
    claimed(items, items, leaked_pairs=3)


def test_9_a_leak_hidden_after_the_verdict(tmp_path, monkeypatch, verify):
    keys.sign_and_trust(tmp_path / "gate", monkeypatch)
    world = promoted_model.make(tmp_path, leaked_pairs=3)
    assert verify()[0] == 3 and "3 near-duplicate pairs straddle the split" in verify()[1]
    path = tmp_path / "verdict" / "verdict.json"
    facts = json.loads(path.read_bytes())["predicate"]["facts"] | {"leaked_pairs": 0}
    items = pq.read_table(tmp_path / "verdict" / "items.parquet").to_pylist()
    path.write_bytes(canonical(decide(promoted_model.POLICY, items, facts)))  # it now follows from its evidence and its facts
    assert verify()[0] == 3 and "signs another verdict" in verify()[1]
    everything_refuses(world, tmp_path / "verdict", "signs another verdict")
    monkeypatch.delenv(signing.TRUSTED_KEYS)
    assert verify()[0] == 3, "the envelope beside it betrays it even where no key is trusted"


def test_10_a_few_shot_arm_that_is_really_zero_shot(items, claimed):
    spoilt = [dict(item) for item in items]
    for item in spoilt:
        if item["arm"] == "base_few_shot":
            item["prompt_hash"] = fake_run.sha(f"base_zero_shot {item['item_id']}")
    decision, said = judged(spoilt)
    assert decision == "ERROR" and "240 of 240 few-shot prompts are the zero-shot prompts: that arm got no examples" in said
    claimed(items, spoilt)
