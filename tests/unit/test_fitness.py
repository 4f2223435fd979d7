"""What makes evidence unfit, what must hold whatever the gates find, and what is only told: each by its sentence."""

import json

import pytest
from fake_run import POLICY, answer_items, general_items, make_arms, make_facts, make_items, make_rows, sha

from tunegate import results
from tunegate.gate.decide import decide
from tunegate.gate.policy import Policy, load_policy
from tunegate.gate.verdict import canonical, reverify

TEST = make_rows(240)
CHAMPION = "merge-model/" + "a" * 64


@pytest.fixture(scope="module")
def policy():
    return load_policy(POLICY)


def changed(policy, **keys):
    return Policy.model_validate(policy.model_dump(mode="json") | keys)


def only(policy, **gate):
    return changed(policy, gates=[{"id": "one", "metric": "task/exact", **gate}], slices=None)


@pytest.fixture
def items():
    """A champion, an unmerged adapter and a suite, beside the arms of every run."""
    return (
        make_items(TEST) + answer_items("champion", TEST, 0.55, tokens=40) + answer_items("adapter", TEST, 0.75, tokens=40)
        + general_items("champion", 0.01) + suite_items("base_zero_shot") + suite_items("candidate") + suite_items("champion")
    )  # fmt: skip


def suite_items(arm):
    return [results.item(arm, "safety", sha(f"s{i}"), "safety/refuses", float(i % 9 > 0), prompt_hash=sha(f"p{i}")) for i in range(90)]


def facts_of(items, **more):
    facts = make_facts(items, champion=CHAMPION) | more
    if "champion" in facts["arms"]:
        facts["arms"]["champion"]["model_digest"] = "a" * 64
    return facts


def judged(policy, items, facts):
    verdict = decide(policy, items, facts)
    json.loads(canonical(verdict))
    return verdict["decision"], " ".join(verdict["reasons"]), verdict["predicate"]


def test_a_candidate_that_beats_the_champion_is_promoted(policy, items):
    decision, reasons, predicate = judged(policy, items, facts_of(items))
    assert decision == "PROMOTE" and "not_below_champion: task/exact 75.8 %" in reasons
    found = next(gate for gate in predicate["gates"] if gate["id"] == "not_below_champion")
    assert found["outcome"] == "passed" and found["bound"] > 0
    assert {entry["arm"] for entry in predicate["measures"]} == {"base_zero_shot", "base_few_shot", "champion", "adapter", "candidate"}


def test_a_candidate_below_the_champion_is_rejected(policy):
    items = make_items(TEST) + answer_items("champion", TEST, 0.95, tokens=40)
    decision, reasons, _ = judged(policy, items, facts_of(items))
    assert decision == "REJECT" and reasons.startswith("not_below_champion")


def test_without_a_champion_its_gates_are_skipped_and_prove_nothing(policy):
    items = make_items(TEST)
    decision, reasons, predicate = judged(policy, items, make_facts(items))
    found = next(gate for gate in predicate["gates"] if gate["id"] == "not_below_champion")
    assert (decision, found["outcome"], found["passed"]) == ("PROMOTE", "skipped", True)
    assert reasons.endswith("not_below_champion: there is no champion to compare with.")
    alone = only(policy, versus="champion", test="noninferiority", margin=0.02)
    decision, reasons, _ = judged(alone, items, make_facts(items))
    assert decision == "ERROR" and "nothing was proven" in reasons
    alarm = {"id": "alarm", "metric": "task/exact", "versus": "base_few_shot", "test": "max_improvement", "margin": 0.9}
    both = changed(alone, gates=[alone.gates[0].model_dump(mode="json"), alarm])
    assert judged(both, items, make_facts(items))[0] == "ERROR", "an alarm that stays silent proves nothing either"


def prompts(items, arm, split):
    for item in items:
        if (item["arm"], item["split"]) == (arm, split):
            item["prompt_hash"] = sha(f"other {item['item_id']}")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda i, f: f["arms"].pop("champion"), "does not say which engine served champion"),
        (lambda i, f: f["arms"]["champion"].update(model_digest="d" * 64), "The arm champion is the model dddddddddddd"),
        (lambda i, f: f.update(champion=None), "results of an arm champion, and the facts name no champion"),
        (lambda i, f: f.pop("champion"), "do not say which model is champion"),
        (lambda i, f: prompts(i, "champion", "test"), "240 of 240 prompts of champion on test are not those of candidate"),
        (lambda i, f: prompts(i, "adapter", "test"), "240 of 240 prompts of adapter on test are not those of candidate"),
        (lambda i, f: prompts(i, "base_zero_shot", "safety"), "90 of 90 prompts of base_zero_shot on safety"),
        (lambda i, f: prompts(i, "champion", "safety"), "90 of 90 prompts of champion on safety"),
        (lambda i, f: i[-1].update(prompt_hash="other"), "1 of 90 prompts of champion on safety"),
        (lambda i, f: i[-1].update(prompt_hash=""), "1 items of champion have no prompt hash"),
        (lambda i, f: f["arms"]["candidate"].update(chat_template_sha256="e" * 64), "served with the chat template eeeeeeeeeeee"),
        (lambda i, f: f["arms"]["adapter"].update(chat_template_sha256=None), "served with the chat template (unknown)"),
        (lambda i, f: f["arms"]["champion"].update(sampling={"temperature": 1.0}), "different sampling settings"),
        (lambda i, f: f.update(stop_token_in_loss=None), "does not say in how many of its training examples"),
        (lambda i, f: f["sealed_test"].update(items=300), "The arm champion was asked 240 items of the sealed test, which has 300"),
    ],
)  # fmt: skip
def test_what_is_mixed_up_or_unknown_is_an_error(policy, items, spoil, sentence):
    facts = facts_of(items)
    spoil(items, facts)
    decision, reasons, predicate = judged(policy, items, facts)
    assert decision == "ERROR" and sentence in reasons
    assert predicate["gates"] == []


def test_a_champion_may_have_a_template_of_its_own(policy, items):
    facts = facts_of(items)
    facts["arms"]["champion"]["chat_template_sha256"] = "e" * 64  # it may stand on another base
    assert judged(policy, items, facts)[0] == "PROMOTE"


def test_a_request_without_a_time_is_not_left_out_in_silence(policy, items):
    timed = only(policy, metric="serve/latency_seconds", versus="champion", test="ratio_ucb", at_most=2.0)
    assert judged(timed, items, facts_of(items))[0] == "PROMOTE"
    for item in items:
        if item["arm"] in ("candidate", "champion") and item["item_id"] == TEST[0]["id"]:
            item["latency_seconds"] = None
    decision, reasons, _ = judged(timed, items, facts_of(items))
    assert decision == "ERROR" and "1 of 240 requests of candidate have no latency_seconds" in reasons


def test_the_first_token_is_timed_on_some_requests(policy, items):
    timed = only(policy, metric="serve/first_token_seconds", versus="champion", test="ratio_ucb", at_most=2.0, min_n=30)
    for number, item in enumerate(items):
        if item["item_id"] in {row["id"] for row in TEST[:32]}:
            item["first_token_seconds"] = 0.1 + number % 7 / 1000
    assert judged(timed, items, facts_of(items))[0] == "PROMOTE"


@pytest.mark.parametrize(
    ("rules", "facts", "decision", "sentence"),
    [
        ({}, {"stop_token_in_loss": 0.8}, "REJECT", "min_stop_token_share: the end-of-turn token was in the loss of 80.0 %"),
        ({"min_stop_token_share": 0.8}, {"stop_token_in_loss": 0.8}, "PROMOTE", ""),
        ({"min_stop_token_share": 0}, {"stop_token_in_loss": None}, "PROMOTE", ""),
        ({"max_sealed_uses": 2}, {"sealed_test": {"sha256": "s", "use": 2}}, "PROMOTE", ""),
        ({"max_sealed_uses": 2}, {"sealed_test": {"sha256": "s", "use": 3}}, "REJECT", "this is the 3rd candidate"),
        ({"max_sealed_uses": 2}, {"sealed_test": {"sha256": "s", "use": 3}}, "REJECT", "Draw a new sealed test"),
        ({"max_sealed_uses": 2}, {"sealed_test": {"sha256": "s", "use": None}}, "ERROR", "The ledger does not say"),
        ({"max_sealed_uses": 2}, {"sealed_test": None}, "ERROR", "The ledger does not say"),
        ({"min_train_rows": 0}, {"train_rows": None}, "PROMOTE", ""),
        ({"max_leaked_pairs": 5}, {"leaked_pairs": None}, "ERROR", "does not say leaked_pairs"),
    ],
)  # fmt: skip
def test_preconditions(policy, rules, facts, decision, sentence):
    items = make_items(TEST)
    found, reasons, _ = judged(changed(policy, preconditions=rules), items, make_facts(items, **facts))
    assert found == decision and sentence in reasons


def test_each_further_look_at_the_sealed_test_is_told(policy):
    items = make_items(TEST)

    def told(use):
        return " ".join(judged(policy, items, make_facts(items, sealed_test={"sha256": "s", "use": use}))[2]["warnings"])

    assert told(1) == ""
    assert told(2).startswith("This is the 2nd candidate that this sealed test judges") and "3.7 points" in told(2)
    assert "This is the 11th" in told(11) and "the 22nd" in told(22)
    assert "is unknown" in told(None)


def test_the_best_of_five_equal_candidates_looks_as_much_better_as_the_warning_says():
    import numpy as np

    draws = np.random.default_rng(0).choice([-1, 0, 1], p=[0.1, 0.8, 0.1], size=(4000, 5, 200)).mean(axis=2)
    assert draws.max(axis=1).mean() == pytest.approx(0.037, abs=0.001)


def test_how_often_a_judge_changes_its_mind_is_told_and_what_it_was_asked_is_no_request(policy, items):
    before = judged(policy, items, facts_of(items))[2]["measures"]
    mine = [item for item in items if (item["arm"], item["metric"]) == ("candidate", "task/exact")]
    for number, item in enumerate(mine[:100]):
        about = {name: item[name] for name in ("cluster_id", "task_type")} | {"prompt_hash": sha(f"judge {number}")}
        items.append(results.item("candidate", "test", item["item_id"], "judge/flip", float(number < 18), **about))
    decision, reasons, predicate = judged(policy, items, facts_of(items))
    assert decision == "PROMOTE", reasons
    assert any("another answer in 18.0 % of 100 comparisons" in warning for warning in predicate["warnings"])
    assert [entry for entry in predicate["measures"] if entry["metric"] != "judge/flip"] == before


def test_a_verdict_with_a_champion_is_made_again(policy, items):
    verdict = decide(policy, items, facts_of(items))
    reverify(json.loads(canonical(verdict)), policy, items)
    assert make_arms(items).keys() == verdict["predicate"]["facts"]["arms"].keys()
