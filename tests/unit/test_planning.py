"""What plan says of a policy: whether the items that will be there can answer it, and whether what it names is measured."""

import re

import numpy as np
import pytest

from tunegate.errors import BadInput
from tunegate.gate.planning import DISCORDANT, Sizes, check_policy
from tunegate.recipe import Recipe

GENERAL = {"general_text": "general.jsonl"}


def recipe(*gates, slices=None, **sections) -> Recipe:
    policy = {"apiVersion": "tunegate/v1", "kind": "PromotionPolicy", "name": "p", "gates": list(gates), "slices": slices}
    return Recipe.model_validate({"name": "r", "base_model": "hf://a/b", "data": {"sources": ["x"]}, "policy": policy} | sections)


def gate(**keys):
    return {"id": "g", "metric": "task/exact"} | keys


def look(*gates, test=240, general=60, slices=None, **sections):
    return check_policy(recipe(*gates, slices=slices, **sections), Sizes(test, f"curate.test_rows is {test}", general))


def gain(**keys):
    return gate(test="superiority", versus="base_few_shot", margin=0.02, **keys)


def loss(**keys):
    return gate(test="noninferiority", versus="champion", **keys)


def test_a_gate_that_cannot_see_what_it_wants_is_foretold():
    found = look(gain(mde_max=0.05))
    [warning] = found.warnings
    assert warning.startswith("Gate 'g' wants to see 0.05 (mde_max), and 240 items show no less than 0.114, if 50% of pairs differ")
    assert "every item is its own cluster" in warning and "without a true gain of 0.134 it would likely end INCONCLUSIVE" in warning
    enough = int(re.search(r"([\d,]+) items would do", warning)[1].replace(",", ""))
    assert look(gain(mde_max=0.05), test=enough + 2).warnings == []
    assert look(gain(mde_max=0.05), test=enough - 2).warnings != []
    assert look(gain()).warnings == []


def test_nothing_is_foretold_of_a_champion_that_is_not_there():
    policy_of, sizes = recipe(loss(margin=0.02)), Sizes(240, "curate.test_rows is 240", 60)
    assert len(check_policy(policy_of, sizes).warnings) == 1
    assert check_policy(policy_of, sizes, maybe_champion=False).warnings == []


def test_what_is_foretold_is_what_happens():
    """A true gain as large as plan says passes with the power it says, by the gate's own bound."""
    from tunegate.gate import stats

    [(name, text)] = look(gain()).facts
    wanted = float(re.search(r"true gain of ([\d.]+) passes with power 0.8 on 240 items", text)[1])
    rng, up = np.random.default_rng(1), (DISCORDANT + wanted) / 2
    passed = 0
    for _ in range(400):
        pairs = rng.choice([1.0, -1.0, 0.0], p=[up, DISCORDANT - up, 1 - DISCORDANT], size=240)
        estimate = stats.difference(np.where(pairs > 0, 1.0, 0.0), np.where(pairs < 0, 1.0, 0.0), np.arange(240))
        passed += estimate.bounds(0.05)[0] > 0.02
    assert name == "gate g" and 0.75 < passed / 400 < 0.88


def test_a_margin_too_narrow_for_the_test_is_foretold():
    [warning] = look(loss(margin=0.02)).warnings
    assert "allows a loss of 0.02, and 240 items show no less than 0.114" in warning
    assert "without a true gain of 0.094 it would likely end REJECT" in warning
    assert look(loss(margin=0.2)).warnings == []
    assert look(loss(margin=0.02) | {"versus": "adapter"}).warnings == []
    assert "true loss of 0.086 passes" in look(loss(margin=0.2)).facts[0][1]


def test_a_share_that_even_perfection_does_not_prove_is_foretold():
    stops = gate(metric="task/finish_stop", test="absolute_lcb")
    assert look(stops | {"at_least": 0.97}).warnings == []
    [warning] = look(stops | {"at_least": 0.99}).warnings
    assert "could not pass on 240 items even without a single failure. 299 would do" in warning
    assert look(stops | {"at_least": 0.99}, test=299).warnings == []
    few = {"direction": "lower_is_better", "at_most": 0.01}
    assert look(stops | few).warnings != [] and look(stops | few, test=299).warnings == []


def test_scores_of_unknown_spread_are_not_foretold():
    nats = gate(metric="general/nats_per_token", versus="base_zero_shot", test="noninferiority", margin=0.01, direction="lower_is_better")
    slow = gate(metric="serve/latency_seconds", versus="champion", test="ratio_ucb", at_most=1.1)
    found = look(nats, slow | {"id": "slow"}, evaluate=GENERAL)
    assert found.warnings == [] and found.facts == []


def test_too_few_items_are_refused():
    with pytest.raises(BadInput, match="'g' needs 300 items, and curate.test_rows is 240. It could never pass"):
        look(gain(min_n=300))
    with pytest.raises(BadInput, match="needs 300 items"):
        look(gain(min_clusters=300))
    with pytest.raises(BadInput, match="needs 100 items, and evaluate.general_text has 60 texts"):
        look(gate(metric="general/nats_per_token", test="absolute_lcb", at_least=0, min_n=100), evaluate=GENERAL)
    first = gate(metric="serve/first_token_seconds", versus="champion", test="ratio_ucb", at_most=2, min_n=50)
    with pytest.raises(BadInput, match="needs 50 items, and evaluate.timed_requests is 32"):
        look(first)
    assert look(first, evaluate={"timed_requests": 60}).warnings == []
    assert look(gain(min_n=300), test=None).facts == [], "a test set that is read later is not judged here"


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        ("general/nats_per_tokn", "Did you mean 'general/nats_per_token'?"),
        ("serve/latency", "Did you mean 'serve/latency_seconds'?"),
        ("parity/same_promt", "Did you mean 'parity/same_prompt'?"),
        ("safty/refuses", "Known: "),
        ("task/chrff", ""),
        ("task/finish_stp", "Did you mean 'task/finish_stop'?"),
        ("exact", ""),
    ],
)
def test_a_metric_that_no_step_measures_is_refused(metric, sentence):
    with pytest.raises(BadInput) as caught:
        look(gate(metric=metric, test="absolute_lcb", at_least=0.5), evaluate=GENERAL)
    assert str(caught.value).startswith(f"Gate 'g' asks for {metric}, which no step measures. {sentence}")


def test_arms_that_no_step_measures_are_refused():
    with pytest.raises(
        BadInput, match="compares with 'base_fewshot', which no step measures. Known: base_zero_shot, base_few_shot, champion"
    ):
        look(gate(test="superiority", versus="base_fewshot", margin=0))
    with pytest.raises(BadInput, match="set evaluate.general_text"):
        look(gate(metric="general/nats_per_token", test="absolute_lcb", at_least=0))


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"evaluate": {"adapter": False}}, "evaluate.adapter is false"),
        ({"sft": {"method": "full", "load_in_4bit": False}}, "sft.method is full"),
        ({"sft": {"lora": {"use_dora": True}}}, "use_dora"),
    ],
)
def test_an_adapter_that_will_not_be_measured_is_refused(sections, why):
    same = gate(metric="parity/same_as_adapter", test="absolute_lcb", at_least=0.9)
    versus = gate(test="noninferiority", versus="adapter", margin=0.2)
    assert look(same).warnings == look(versus).warnings == []
    for one in (same, versus):
        with pytest.raises(BadInput, match=why):
            look(one, **sections)


def test_slices_are_held_against_the_test_too():
    slices = {"by": ["task_type"], "metric": "task/exact", "versus": "base_few_shot", "margin": 0.05, "min_n": 300}
    [warning] = look(gain(), slices=slices).warnings
    assert "Slices of fewer than 300 items are not tested, and curate.test_rows is 240" in warning
    assert look(gain(), slices=slices | {"min_n": 20}).warnings == []
    with pytest.raises(BadInput, match="The policy, in slices, compares with 'nobody', which no step measures"):
        look(gain(), slices=slices | {"versus": "nobody"})


def test_too_few_training_rows_are_refused():
    with pytest.raises(BadInput, match="curate.max_train_rows is 100, and the policy asks for at least 500"):
        look(gain(), curate={"max_train_rows": 100})
