"""Slices: where the candidate is worse it is told, and having looked at many does not make alarms of nothing."""

import numpy as np
import pytest
from fake_run import INTENTS, POLICY, answer_items, make_facts, make_items, make_rows

from tunegate import results
from tunegate.gate.decide import decide
from tunegate.gate.policy import Policy, load_policy
from tunegate.gate.slices import judge_slices
from tunegate.gate.verdict import evidence

TEST = make_rows(480)
RULE = {"by": ["task_type", "source"], "metric": "task/exact", "versus": "base_few_shot", "margin": 0.05, "min_n": 20}


def policy(**slices):
    return Policy.model_validate(load_policy(POLICY).model_dump(mode="json") | {"slices": RULE | slices})


@pytest.fixture
def lame():
    """Results of a candidate that is better on the whole and lost one intent altogether."""
    items = make_items(TEST)
    for item in items:
        if item["arm"] == "candidate" and item["metric"] == "task/exact" and item["task_type"] == "HassVacuumStart":
            item["score"] = 0.0
    return items


def judged(rule, items, **facts):
    verdict = decide(rule, items, make_facts(items, **facts))
    return verdict["decision"], " ".join(verdict["reasons"]), verdict["predicate"]


def test_a_lost_slice_is_told_and_does_not_decide(lame):
    decision, reasons, predicate = judged(policy(), lame)
    assert decision == "PROMOTE"
    found = {(entry["by"], entry["value"]): entry for entry in predicate["slices"]}
    assert set(found) == {("task_type", name) for name in INTENTS} | {("source", "commands.jsonl")}
    assert [value for (_, value), entry in found.items() if entry["alarm"]] == ["HassVacuumStart"]
    lost = found["task_type", "HassVacuumStart"]
    assert lost["n"] == 60 and lost["difference"] == pytest.approx(-lost["versus_value"])
    assert lost["p"] < lost["p_holm"] < 0.05 and lost["ci"][0] < lost["difference"] < lost["ci"][1]
    assert [w for w in predicate["warnings"] if "HassVacuumStart" in w] == [f"Slice {lost['reason']}"]
    assert "goes beyond the 5.0 points allowed" in lost["reason"]


def test_a_lost_slice_decides_where_the_policy_says_so(lame):
    decision, reasons, predicate = judged(policy(action="reject"), lame)
    assert decision == "REJECT" and reasons.startswith("Slice task_type HassVacuumStart: task/exact 0.0 % against")
    assert not any("HassVacuumStart" in warning for warning in predicate["warnings"])


def test_small_slices_are_listed_and_not_tested(lame):
    _, _, predicate = judged(policy(min_n=100), lame)
    small = [entry for entry in predicate["slices"] if entry["by"] == "task_type"]
    assert len(small) == len(INTENTS) and not any(entry["alarm"] for entry in small)
    assert all(entry["p"] is None and "too small to be tested: 60 items" in entry["reason"] for entry in small)
    whole = next(entry for entry in predicate["slices"] if entry["by"] == "source")
    assert whole["p_holm"] == whole["p"], "only what is tested counts in the correction"


def test_a_slice_of_one_cluster_cannot_be_tested(lame):
    for item in lame:
        if item["task_type"] == "HassVacuumStart":
            item["cluster_id"] = "one"
    _, _, predicate = judged(policy(), lame)
    found = next(entry for entry in predicate["slices"] if entry["value"] == "HassVacuumStart")
    assert not found["alarm"] and found["clusters"] == 1 and "cannot be tested" in found["reason"]


def test_lower_can_be_better(lame):
    rule = policy(metric="serve/latency_seconds", direction="lower_is_better", margin=0.1)
    _, _, predicate = judged(rule, lame)
    assert not any(entry["alarm"] for entry in predicate["slices"])
    for item in lame:
        if (item["arm"], item["split"]) == ("candidate", "test"):
            item["latency_seconds"] += 2.0
    _, _, predicate = judged(rule, lame)
    assert all(entry["alarm"] and entry["difference"] < 0 for entry in predicate["slices"])
    assert "a change of +1." in predicate["slices"][0]["reason"]


def test_what_cannot_be_compared_is_an_error(lame):
    assert judged(policy(metric="task/other"), lame)[:2] == ("ERROR", "slices: there is no 'task/other' of the arm candidate.")
    assert judged(policy(versus="adapter"), lame)[0] == "ERROR"
    adapter = answer_items("adapter", TEST[:-1], 0.7)
    assert "not measured on the same items" in judged(policy(versus="adapter"), lame + adapter)[1]


def test_without_a_champion_there_is_nothing_to_compare_slices_with(lame):
    decision, _, predicate = judged(policy(versus="champion", action="reject"), lame)
    assert decision == "PROMOTE" and predicate["slices"] == []
    assert "The slices were not judged: there is no champion to compare with." in predicate["warnings"]


def test_many_slices_without_an_effect_rarely_alarm(monkeypatch):
    """Ten slices at the edge of the margin, 200 times: without the correction four runs in ten would alarm."""
    rows = [
        results.item(arm, "test", str(number), "task/exact", 0.0, task_type=str(number % 10))
        for number in range(400) for arm in ("candidate", "base_few_shot")
    ]  # fmt: skip
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels collects garbage each time, which takes longer than all the rest
    held, rng = evidence(rows), np.random.default_rng(5)
    alarmed = uncorrected = 0
    for _ in range(200):
        found = judge_slices(policy(by=["task_type"], margin=0.0), held.assign(score=rng.integers(0, 2, 800).astype(float)))
        alarmed += any(entry["alarm"] for entry in found)
        uncorrected += any(entry["p"] <= 0.05 for entry in found)
    assert alarmed / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    assert uncorrected / 200 > 0.2
