"""Labelled answers: an answer for each reason, a set for each warning."""

import random

import pytest
from test_preferences import turn, words

from tunegate import rows
from tunegate.curate.labelled import curate_labelled
from tunegate.recipe import Curate

TEXT = "Open the window first, and then water the plants on the sill."


def labelled(question: str, answer: str, label: bool, system: str = "") -> dict:
    prompt = ([turn("system", system)] if system else []) + [turn("user", question)]
    return {"prompt": prompt, "completion": [turn("assistant", answer)], "label": label}


def unlike(count: int, wanted: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    return [labelled(words(rng, 8), words(rng, 5), n < wanted) for n in range(count)]


def reasons(answers: list[dict], held: list[list[dict]] = ()) -> dict[str, list[str]]:
    """Give the questions of the dropped answers by reason."""
    found: dict[str, list[str]] = {}
    for entry in curate_labelled(answers, list(held), Curate())[1]:
        assert entry["stage"] == "labelled" and entry["completion"][0]["role"] == "assistant"
        found.setdefault(entry["reason"], []).append(entry["prompt"][-1]["content"])
    return found


def test_good_answers_stay_without_a_word():
    made = unlike(40, 12)
    kept, rejected, warnings = curate_labelled(made, [[turn("user", "something else altogether")]], Curate())
    assert (rejected, warnings) == ([], [])
    assert sorted(kept, key=str) == sorted(made, key=str)


def test_each_reason_to_drop_an_answer():
    question = "please tell me how to bake a good loaf of bread at home, step by step"
    made = unlike(10, 5) + [
        labelled("empty", " \n", True),
        labelled("twice", "red", True), labelled("Twice ", "Red", True), labelled("twice", "red", True, system="Say a colour."),
        labelled("two minds", "tea", True), labelled("two minds", "Tea", False), labelled("two minds", "coffee", False),
        labelled("two minds at length", TEXT, True), labelled("two minds at length", f"{TEXT}.", False),
        labelled("what is the name of the capital city of that country?", "a", True),
        labelled(question, TEXT, True), labelled(f"{question}!", f"{TEXT}.", True), labelled(f"{question}?", "no idea, ask a baker", True),
        labelled(f"{question} now", TEXT, False),
    ]  # fmt: skip
    held = [turn("system", "x"), turn("user", "What is the name of the capital city of this country?")]
    assert reasons(made, [held, [turn("user", "another")]]) == {
        "empty answer": ["empty"], "exact duplicate of a labelled answer": ["twice"],
        "the same answer has both labels": ["two minds at length", "two minds at length", "two minds", "two minds"],
        "prompt resembles one of dev or test": ["what is the name of the capital city of that country?"],
        "near-duplicate of a labelled answer": [f"{question}!"],
    }  # fmt: skip


def test_an_answer_that_contradicts_a_repeated_one_takes_all_of_them_along():
    made = [labelled("q", TEXT, True), labelled("q", f"{TEXT}.", True), labelled("q", f"{TEXT}.", False), labelled("q", "yes", True)]
    assert reasons(made) == {"the same answer has both labels": ["q", "q", "q"]}


def test_a_call_is_an_answer_too():
    def call(name: str) -> dict:
        made = labelled("which weather", "", True)
        made["completion"][0]["tool_calls"] = [{"function": {"name": name, "arguments": {"city": "Rome"}}}]
        return made

    assert reasons([call("weather"), call("climate"), call("weather")]) == {"exact duplicate of a labelled answer": ["which weather"]}


def test_the_order_of_the_answers_does_not_matter():
    made = unlike(20, 9) + [labelled("a question of some length", "red " * n, label) for n in (6, 7) for label in (True, False)]
    shuffled = random.Random(1).sample(made, len(made))
    assert curate_labelled(made, [], Curate()) == curate_labelled(shuffled, [], Curate())


def test_reversed_labels_are_warned_of_by_training_answers():
    made = unlike(40, 20)
    right = {label: [rows.make_row([*a["prompt"], *a["completion"]]) for a in made if a["label"] is label] for label in (True, False)}
    _, _, (warning,) = curate_labelled(made, [], Curate(), right[False])
    assert warning.startswith("Labels may be reversed: of 20 labelled answers that are also a training answer")
    assert curate_labelled(made, [], Curate(), right[True])[2] == []
    # Three of three could be chance.
    assert curate_labelled(made, [], Curate(), right[False][:3])[2] == []


@pytest.mark.parametrize("wanted, warned", [(95, ""), (96, "96 of 100 labelled answers have the label true."), (50, ""), (5, ""),
                                            (4, "96 of 100 labelled answers have the label false."), (0, "100 of 100")])  # fmt: skip
def test_labels_of_one_kind_are_warned_of(wanted, warned):
    warnings = curate_labelled(unlike(100, wanted), [], Curate())[2]
    assert len(warnings) == bool(warned) and all(warning.startswith(warned) for warning in warnings)
