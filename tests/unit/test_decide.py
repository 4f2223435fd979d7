import json
import random

import pandas as pd
import pyarrow as pa
import pytest
from fake_run import POLICY, answer_items, digest_of, make_arms, make_facts, make_items, make_rows, results_object, sha

from tunegate import digests, ledger
from tunegate import gate as gate_module
from tunegate.errors import BadInput, Refused
from tunegate.gate.decide import decide
from tunegate.gate.policy import Policy, load_policy
from tunegate.gate.verdict import canonical, evidence, reverify, write_evidence
from tunegate.gate.verify import verify_verdict
from tunegate.gate.worth import worth_training
from tunegate.results import read_items, write_results
from tunegate.steps import Inputs
from tunegate.store import open_store

TEST = make_rows(240)


@pytest.fixture(scope="module")
def policy():
    return load_policy(POLICY)


@pytest.fixture
def items():
    return make_items(TEST)


def judged(policy, items, **facts):
    verdict = decide(policy, items, make_facts(items, **facts))
    json.loads(canonical(verdict))
    return verdict["decision"], " ".join(verdict["reasons"]), verdict


def only(policy, **gate):
    """Make a policy of one gate, with the demo's other settings."""
    document = policy.model_dump(mode="json") | {"gates": [{"id": "one", "metric": "task/exact", **gate}]}
    return Policy.model_validate(document)


def test_a_better_candidate_is_promoted(policy, items):
    decision, reasons, verdict = judged(policy, items)
    assert decision == "PROMOTE"
    gates = {found["id"]: found for found in verdict["predicate"]["gates"]}
    assert all(found["passed"] for found in gates.values())
    few = gates["beats_few_shot"]
    assert few["n"] == 240 and few["clusters"] == 120
    assert few["candidate"] - few["versus_value"] == pytest.approx(few["difference"])
    assert few["bound"] > few["margin"] == 0.02
    assert few["ci"][0] < few["bound"] < few["difference"] < few["ci"][1]
    assert few["p"] < 0.05 and few["mcnemar_p"] < 0.05
    assert gates["keeps_general_ability"]["difference"] == pytest.approx(-0.02, abs=0.02)
    assert "beats_few_shot: task/exact 75.8 % against" in reasons


def test_the_verdict_is_an_in_toto_statement(policy, items):
    _, _, verdict = judged(policy, items)
    assert verdict["_type"] == "https://in-toto.io/Statement/v1"
    assert verdict["subject"] == [{"name": "merge-model", "digest": {"sha256": "m" * 64}}]
    assert verdict["predicate"]["decision"] == verdict["decision"]
    assert verdict["predicate"]["evidence"]["rows"] == len(items)
    assert verdict["predicate"]["facts"]["arms"]["base_few_shot"]["few_shot"] == {"strategy": "nearest", "k": 5}


def test_the_order_of_rows_does_not_matter(policy, items):
    shuffled = random.Random(1).sample(items, len(items))
    facts = make_facts(items)
    first = canonical(decide(policy, items, facts))
    assert canonical(decide(policy, shuffled, facts)) == first
    assert canonical(decide(policy, pa.Table.from_pylist(shuffled), facts)) == first
    assert canonical(decide(policy, pd.DataFrame(items[::-1]), facts)) == first


def test_the_inputs_stay_as_they_are(policy, items):
    frame, facts = pd.DataFrame(items), make_facts(items)
    before, told = frame.copy(), json.dumps(facts)
    decide(policy, frame, facts)
    pd.testing.assert_frame_equal(frame, before)
    assert json.dumps(facts) == told


def test_a_candidate_no_better_than_prompting_is_rejected(policy):
    decision, reasons, _ = judged(policy, make_items(TEST, few=0.74, candidate=0.75))
    assert decision == "REJECT"
    assert "beats_few_shot" in reasons and "does not exceed the 2.0 points asked for" in reasons
    assert "beats_zero_shot" not in reasons


def test_forgetting_is_rejected_in_the_right_direction(policy):
    decision, reasons, verdict = judged(policy, make_items(TEST, forgetting=0.39))
    assert decision == "REJECT" and "keeps_general_ability" in reasons
    assert "a change of +0.3" in reasons and "where lower is better" in reasons and "goes beyond the 0.100 allowed" in reasons
    found = verdict["predicate"]["gates"][2]
    assert found["difference"] < -0.3 and found["bound"] < found["difference"]
    assert judged(policy, make_items(TEST, forgetting=-0.39))[0] == "PROMOTE"


def test_not_stopping_is_rejected(policy, items):
    for item in [i for i in items if i["arm"] == "candidate" and i["metric"] == "task/finish_stop"][:8]:
        item["score"] = 0.0
    decision, reasons, _ = judged(policy, items)
    assert decision == "REJECT" and "stops_by_itself" in reasons and "does not reach the 97.0 % asked for" in reasons


def test_too_few_items_to_see_the_effect_is_inconclusive(policy):
    wanted = dict(test="superiority", versus="base_few_shot", margin=0.02)
    small = make_items(make_rows(40, per_cluster=1), few=0.60, candidate=0.75)
    decision, reasons, verdict = judged(only(policy, **wanted, mde_max=0.05), small)
    assert decision == "INCONCLUSIVE"
    assert "items would settle it" in reasons
    assert verdict["predicate"]["gates"][0]["required_n"] > 40
    assert judged(only(policy, **wanted), small)[0] == "REJECT"
    # however few, a clear loss is a loss
    lost = make_items(make_rows(40, per_cluster=1), few=0.9, candidate=0.2)
    assert judged(only(policy, **wanted, mde_max=0.05), lost)[0] == "REJECT"


def test_a_gain_too_good_to_be_true_is_held(policy, items):
    document = policy.model_dump(mode="json")
    alarm = {"id": "far_too_good", "metric": "task/exact", "test": "max_improvement", "versus": "base_zero_shot", "margin": 0.6}
    document["gates"].append(alarm)
    decision, reasons, verdict = judged(Policy.model_validate(document), items)
    assert decision == "HOLD" and "suspiciously above 60.0 points" in reasons
    alarm["margin"] = 0.9
    assert judged(Policy.model_validate(document), items)[0] == "PROMOTE"


def test_a_ratio_gate(policy, items):
    tokens = dict(metric="serve/prompt_tokens", test="ratio_ucb", versus="base_few_shot")
    assert judged(only(policy, **tokens, at_most=0.5), items)[0] == "PROMOTE"
    decision, reasons, _ = judged(only(policy, **tokens, at_most=0.01), items)
    assert decision == "REJECT" and "exceeds the 0.010 allowed" in reasons


def test_an_upper_limit(policy, items):
    for item in items:
        item.update(metric="safety/harmful", score=0.0) if item["metric"] == "task/finish_stop" else None
    keys = dict(metric="safety/harmful", test="absolute_lcb", direction="lower_is_better")
    assert judged(only(policy, **keys, at_most=0.03), items)[0] == "PROMOTE"
    decision, reasons, _ = judged(only(policy, **keys, at_most=0.001), items)  # rule of three: 3/120 clusters
    assert decision == "REJECT" and "upper bound, 2.5 %, exceeds the 0.1 % allowed" in reasons


def test_what_is_not_required_does_not_decide(policy):
    document = policy.model_dump(mode="json")
    document["gates"][1]["required"] = False
    decision, _, verdict = judged(Policy.model_validate(document), make_items(TEST, few=0.74, candidate=0.75))
    assert decision == "PROMOTE" and not verdict["predicate"]["gates"][1]["passed"]


def test_preconditions(policy, items):
    assert judged(policy, items, train_rows=499)[:2] == ("REJECT", "499 training rows are fewer than the 500 that the policy asks for.")
    decision, reasons, _ = judged(policy, items, leaked_pairs=3)
    assert decision == "REJECT" and "3 near-duplicate pairs straddle the split" in reasons


def of(items, arm, metric="task/exact"):
    return [item for item in items if item["arm"] == arm and item["metric"] == metric]


def drop(items, some):
    gone = {id(item) for item in some}
    items[:] = [item for item in items if id(item) not in gone]


def rescore(items, arm, value):
    of(items, arm)[0]["score"] = value


def set_hashes(items, arm, like):
    for item in items:
        if item["arm"] == arm and item["split"] == "test":
            item["prompt_hash"] = sha(f"{like} {item['item_id']}")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda items: items.clear(), "lack the columns"),
        (lambda items: drop(items, [i for i in items if i["arm"] == "candidate"]), "no 'task/exact' of the arm candidate"),
        (lambda items: drop(items, of(items, "base_few_shot")), "no 'task/exact' of the arm base_few_shot"),
        (lambda items: drop(items, of(items, "candidate")[:1]), "the arm candidate lacks 1 of 240 items"),
        (lambda items: drop(items, of(items, "base_few_shot")[:60]), "the arm base_few_shot lacks 60 of 240 items"),
        (lambda items: drop(items, [i for i in items if i["split"] == "general"]), "no 'general/nats_per_token'"),
        (lambda items: drop(items, of(items, "candidate", "task/finish_stop")[:5]), "lacks 5 of 240 items"),
        (lambda items: rescore(items, "candidate", float("nan")), "1 of 1560 scores are missing or not numbers"),
        (lambda items: rescore(items, "base_zero_shot", float("inf")), "not numbers"),
        (lambda items: rescore(items, "candidate", None), "not numbers"),
        (lambda items: items.append(dict(of(items, "candidate")[0])), "1 results appear twice"),
        (lambda items: of(items, "candidate")[0].update(cluster_id="other"), "other clusters"),
        (lambda items: [i.update(cluster_id="") for i in items], "have no cluster"),
        (lambda items: [i.update(cluster_id=i["cluster_id"][0]) for i in items], "clusters are fewer than the 50"),
        (lambda items: set_hashes(items, "base_few_shot", "base_zero_shot"), "240 of 240 few-shot prompts are the zero-shot prompts"),
        (lambda items: [i.update(prompt_hash="") for i in items if i["arm"] == "candidate"], "have no prompt hash"),
        (
            lambda items: [i.update(prompt_hash=f"x{i['item_id']}") for i in of(items, "candidate", "general/nats_per_token")],
            "60 of 60 prompts of base_zero_shot on general are not those",
        ),
    ],
)
def test_spoilt_evidence_is_an_error_never_a_pass(policy, items, spoil, sentence):
    facts = make_facts(items)
    spoil(items)
    verdict = decide(policy, items, facts)
    assert verdict["decision"] == "ERROR"
    assert sentence in " ".join(verdict["reasons"])
    canonical(verdict)


def test_a_short_test_is_an_error(policy):
    decision, reasons, _ = judged(policy, make_items(make_rows(199, per_cluster=1)))
    assert decision == "ERROR" and "199 items are fewer than the 200" in reasons


def test_equal_losses_are_an_error(policy, items):
    base = {i["item_id"]: i["score"] for i in of(items, "base_zero_shot", "general/nats_per_token")}
    for item in of(items, "candidate", "general/nats_per_token"):
        item["score"] = base[item["item_id"]]
    decision, reasons, _ = judged(policy, items)
    assert decision == "ERROR" and "show no spread" in reasons


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: f["arms"]["candidate"].update(engine={"name": "transformers", "version": "5"}), "different engines"),
        (lambda f: f["arms"]["candidate"].update(sampling={"max_tokens": 512}), "different sampling settings"),
        (lambda f: f["arms"].pop("base_few_shot"), "does not say which engine served base_few_shot"),
        (lambda f: f["arms"].pop("candidate"), "does not say which engine served candidate"),
        (lambda f: f.update(model="merge-model/" + "z" * 64), "what was measured is not what would be served"),
        (lambda f: f.update(train_rows=None), "does not say train_rows"),
        (lambda f: f.update(leaked_pairs=None), "does not say leaked_pairs"),
    ],
)
def test_facts_that_do_not_fit_are_an_error(policy, items, spoil, sentence):
    facts = make_facts(items)
    spoil(facts)
    verdict = decide(policy, items, facts)
    assert verdict["decision"] == "ERROR" and sentence in " ".join(verdict["reasons"])


def dev_items(right, count=100):
    dev = make_rows(count, seed=9, per_cluster=1)
    return answer_items("base_zero_shot", dev, 0.02, "dev") + answer_items("base_few_shot:nearest", dev, right, "dev")


def test_prompting_that_suffices(policy):
    worth, found = worth_training(policy, dev_items(1.0))
    assert not worth and found["arm"] == "base_few_shot:nearest" and found["bound"] >= 0.95
    worth, found = worth_training(policy.model_dump(mode="json"), dev_items(0.96))
    assert worth and "is below the target of 95.0 %" in found["reason"]
    with pytest.raises(BadInput, match="no usable 'task/exact'"):
        worth_training(policy, make_items(TEST))


def test_do_not_fine_tune(policy):
    items = dev_items(1.0)
    decision, reasons, verdict = judged(policy, items, trained=False)
    assert decision == "DO_NOT_FINE_TUNE" and "Prompting alone (base_few_shot:nearest) reaches 100.0 %" in reasons
    assert verdict["predicate"]["measures"]
    reverify(verdict, policy, items)


def test_no_candidate_for_another_reason_is_an_error(policy):
    assert judged(policy, dev_items(0.5), trained=False)[0] == "ERROR"
    assert judged(policy, make_items(TEST), trained=False)[0] == "ERROR"


def test_a_verdict_is_made_again(policy, items, tmp_path):
    verdict = json.loads(canonical(decide(policy, items, make_facts(items))))
    write_evidence(evidence(items), tmp_path / "items.parquet")
    reverify(verdict, policy, read_items(tmp_path))


def test_a_changed_verdict_is_refused(policy):
    items = make_items(TEST, few=0.74, candidate=0.75)
    verdict = decide(policy, items, make_facts(items))
    forged = json.loads(canonical(verdict).replace(b'"REJECT"', b'"PROMOTE"'))
    with pytest.raises(Refused, match="says PROMOTE, but its evidence gives REJECT"):
        reverify(forged, policy, items)
    with pytest.raises(Refused, match="no verdict of the gate"):
        reverify({"decision": "PROMOTE"}, policy, items)


def test_changed_evidence_and_another_policy_are_refused(policy, items):
    verdict = decide(policy, items, make_facts(items))
    easier = policy.model_copy(update={"alpha": 0.2})
    with pytest.raises(Refused, match="made under the policy"):
        reverify(verdict, easier, items)
    rescore(items, "base_few_shot", 1.0 - of(items, "base_few_shot")[0]["score"])
    with pytest.raises(Refused, match="what differs: evidence"):
        reverify(verdict, policy, items)


@pytest.fixture
def upstream(tmp_path, items):
    """Leave in a store what the steps before the gate left; gives their references and the store."""
    store = open_store(str(tmp_path / "store"))
    for name in ("data", "report", "model", "adapter"):
        (tmp_path / name).mkdir()
    (tmp_path / "data/train.jsonl").write_text("{}\n" * 1400)
    (tmp_path / "data/test.jsonl").write_text("{}\n" * len(TEST))
    (tmp_path / "report/report.json").write_text(json.dumps({"leaked_pairs": 0}))
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    (tmp_path / "adapter/training.json").write_text(json.dumps({"stop_token_in_loss": 1.0}))
    refs = {name: store.put(name, tmp_path / name) for name in ("data", "report", "model", "adapter")}
    base = dev_items(0.5) + [i for i in items if i["arm"] != "candidate"]
    candidate = [i for i in items if i["arm"] == "candidate"]
    refs |= {"baseline": results_object(store, tmp_path, "baseline", base, "")}
    refs |= {"results": results_object(store, tmp_path, "results", candidate, digest_of(refs["model"]))}
    ledger.record(store, digests.sha256_file(tmp_path / "data/test.jsonl"), digest_of(refs["model"]))
    return store, refs


def with_data(upstream, tmp_path, **files):
    """Put other curated data into the store, beside what is there."""
    store, refs = upstream
    for name, text in files.items():
        (tmp_path / f"data/{name}.jsonl").write_text(text)
    return store, refs | {"data": store.put("data", tmp_path / "data")}


def step(upstream, output, **config):
    store, refs = upstream
    return gate_module.gate_step(CONFIG | config, Inputs(refs, store), output)


CONFIG = {"policy": load_policy(POLICY).model_dump(mode="json"), "recipe_name": "demo", "cost_per_hour": 0.1}


def test_the_step_writes_verdict_and_evidence(upstream, tmp_path):
    result = step(upstream, tmp_path / "a")
    step(upstream, tmp_path / "b")
    for name in ("verdict.json", "items.parquet"):
        assert (tmp_path / "a/verdict" / name).read_bytes() == (tmp_path / "b/verdict" / name).read_bytes()
    verdict = json.loads((tmp_path / "a/verdict/verdict.json").read_text())
    assert verdict["decision"] == result.summary["decision"] == "PROMOTE"
    assert result.line.startswith("PROMOTE: task/exact base_zero_shot ")
    assert result.metrics["gates_passed"] == result.metrics["gates"] == 5, "the one against the champion is skipped, not passed"
    rows = {row["arm"]: row for row in result.summary["table"]}
    assert list(rows) == ["base_zero_shot", "base_few_shot", "candidate"]
    assert rows["candidate"]["cost_per_1000_requests"] == pytest.approx(22.5 / 240 * 1000 / 3600 * 0.1)
    assert rows["candidate"]["metrics"]["task/exact"]["change_ci"][0] > 0.5


def test_a_verified_verdict_holds_for_its_own_model_only(upstream, tmp_path):
    step(upstream, tmp_path / "a")
    directory, model = tmp_path / "a/verdict", upstream[1]["model"]
    assert verify_verdict(directory, model).verdict["decision"] == "PROMOTE"
    with pytest.raises(Refused, match="not about merge-model/zz"):
        verify_verdict(directory, "merge-model/" + "z" * 64)
    verdict = directory / "verdict.json"
    verdict.write_text(verdict.read_text().replace('"train_rows": 1400', '"train_rows": 140'))
    with pytest.raises(Refused, match="what differs"):
        verify_verdict(directory, model)
    verdict.unlink()
    with pytest.raises(BadInput, match="No verdict at"):
        verify_verdict(directory, model)


def test_a_rejected_model_is_no_verified_one(upstream, tmp_path):
    upstream = with_data(upstream, tmp_path, train="{}\n" * 499)
    assert step(upstream, tmp_path / "a").summary["decision"] == "REJECT"
    with pytest.raises(Refused, match="is REJECT, not PROMOTE: 499 training rows"):
        verify_verdict(tmp_path / "a/verdict", upstream[1]["model"])


def test_the_step_without_results(upstream, tmp_path):
    store, refs = upstream
    for name in ("results", "model", "adapter"):
        del refs[name]
    assert step(upstream, tmp_path / "a").summary["decision"] == "ERROR"
    refs["baseline"] = results_object(store, tmp_path, "enough", dev_items(1.0), "")
    result = step(upstream, tmp_path / "b")
    assert result.summary["decision"] == "DO_NOT_FINE_TUNE"
    assert result.line.startswith("DO_NOT_FINE_TUNE: Prompting alone")


def test_the_step_tells_what_the_upstream_left(upstream, tmp_path):
    store, refs = upstream
    step(upstream, tmp_path / "a", champion={"version": "1", "ref": refs["model"], "store": store.uri})
    facts = json.loads((tmp_path / "a/verdict/verdict.json").read_text())["predicate"]["facts"]
    sealed = digests.sha256_file(tmp_path / "data/test.jsonl")
    assert facts["sealed_test"] == {"sha256": sealed, "items": 240, "use": 1}
    assert facts["stop_token_in_loss"] == 1.0 and facts["train_rows"] == 1400
    assert facts["champion"] is None, "the model is itself the champion"
    assert facts["files"] == {"model.safetensors": digests.sha256_file(tmp_path / "model/model.safetensors")}
    result = step(upstream, tmp_path / "b", champion={"version": "1", "ref": "merge-model/" + "a" * 64, "store": store.uri})
    assert result.summary["decision"] == "ERROR" and "which engine served champion" in result.summary["reasons"][0]


def test_a_test_that_was_cut_off_is_an_error(upstream, tmp_path):
    result = step(with_data(upstream, tmp_path, test="{}\n" * 300), tmp_path / "a")
    assert result.summary["decision"] == "ERROR"
    assert "The arm candidate was asked 240 items of the sealed test, which has 300." in result.summary["reasons"]


def test_results_that_contradict_each_other_are_refused(tmp_path, items):
    for name, digest in (("one", "a" * 64), ("other", "b" * 64)):
        write_results(tmp_path / name, items, make_arms(items, digest))
    with pytest.raises(BadInput, match="other things of the arm candidate"):
        gate_module.read_results([tmp_path / "one", tmp_path / "other"])
