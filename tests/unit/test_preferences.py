"""Preference pairs: a pair for each reason, a set for each warning, and mined pairs without repetition."""

import random

import pytest

from tunegate import rows
from tunegate.curate import preferences
from tunegate.curate.preferences import curate_preferences, dedupe_mined
from tunegate.recipe import Curate

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def pair(question: str, chosen: str, rejected: str, system: str = "") -> dict:
    prompt = ([turn("system", system)] if system else []) + [turn("user", question)]
    return {"prompt": prompt, "chosen": [turn("assistant", chosen)], "rejected": [turn("assistant", rejected)]}


def words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices(LETTERS, k=6)) for _ in range(count))


def unlike(count: int, chosen_words: int = 5, rejected_words: int = 5, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    return [pair(words(rng, 8), words(rng, chosen_words), words(rng, rejected_words)) for _ in range(count)]


def reasons(pairs: list[dict], held: list[list[dict]] = (), **settings) -> dict[str, list[str]]:
    """Give the questions of the dropped pairs by reason."""
    found: dict[str, list[str]] = {}
    for entry in curate_preferences(pairs, list(held), Curate(**settings))[1]:
        assert entry["stage"] == "preferences" and entry["chosen"][0]["role"] == "assistant"
        found.setdefault(entry["reason"], []).append(entry["prompt"][-1]["content"])
    return found


def test_good_pairs_stay_without_a_word():
    made = unlike(40, 5, 5) + unlike(20, 4, 6, seed=1) + unlike(20, 6, 4, seed=2)
    kept, rejected, warnings = curate_preferences(made, [[turn("user", "something else altogether")]], Curate())
    assert (len(kept), rejected, warnings) == (80, [], [])
    assert sorted(kept, key=str) == sorted(made, key=str)


def test_each_reason_to_drop_a_pair():
    text = "Open the window first, and then water the plants on the sill."
    question = "please tell me how to bake a good loaf of bread at home, step by step"
    made = unlike(10) + [
        pair("equal", "Yes,  of course", "yes, OF course"),
        pair("cut", text, text[:40]), pair("goes on", text, f"{text} And then sit down."), pair("short", "1", "12"),
        pair("twice", "red", "blue"), pair("Twice ", "Red", "blue"), pair("twice", "red", "blue", system="Say a colour."),
        pair("two minds", "tea", "coffee"), pair("two minds", "coffee", "tea"),
        pair("what is the name of the capital city of that country?", "a", "b"),
        pair(question, text, "no idea at all, ask a baker"), pair(f"{question}!", f"{text}.", "no idea at all, ask a baker"),
        pair(f"{question}?", text, "with the hands, as my mother did"),
    ]  # fmt: skip
    held = [turn("system", "x"), turn("user", "What is the name of the capital city of this country?")]
    found = reasons(made, [held, [turn("user", "another")]])
    assert found == {
        "chosen equals rejected": ["equal"], "rejected is the beginning of chosen": ["cut"],
        "chosen is the beginning of rejected": ["goes on"], "exact duplicate of a pair": ["twice"],
        "chooses what another pair rejects": ["two minds", "two minds"],
        "prompt resembles one of dev or test": ["what is the name of the capital city of that country?"],
        "near-duplicate of a pair": [f"{question}!"],
    }  # fmt: skip


def test_the_prompt_of_a_held_row_itself_goes():
    made = unlike(5)
    assert reasons(made, [made[2]["prompt"]]) == {"prompt resembles one of dev or test": [made[2]["prompt"][0]["content"]]}


def test_the_order_of_the_pairs_does_not_matter():
    made = unlike(20) + [pair("a question of some length, you see", "red " * 8, f"blue{n} " * 8) for n in (1, 1, 2)]
    shuffled = random.Random(1).sample(made, len(made))
    assert curate_preferences(made, [], Curate()) == curate_preferences(shuffled, [], Curate())


def sft(made: list[dict], column: str) -> list[dict]:
    return [rows.make_row([*p["prompt"], turn("assistant", p[column][0]["content"].upper())]) for p in made]


def test_reversed_columns_are_warned_of_by_training_answers():
    made = unlike(30)
    _, _, (warning,) = curate_preferences(made, [], Curate(), sft(made[:20], "rejected"))
    assert warning.startswith("Chosen and rejected may be reversed: of 20 answers in pairs") and "20 are in the column rejected" in warning
    assert curate_preferences(made, [], Curate(), sft(made[:20], "chosen"))[2] == []
    # Three of three could be chance.
    assert curate_preferences(made, [], Curate(), sft(made[:3], "rejected"))[2] == []


@pytest.mark.parametrize("refusal", ["I’m sorry, but I can’t help with that.", "As an AI language model, no.", "I cannot do it."])
def test_chosen_refusals_are_warned_of(refusal):
    rng = random.Random(0)
    made = [pair(words(rng, 8), f"{refusal} {words(rng, 2)}", f"{words(rng, 5)}{'x' * n}") for n in range(20)]
    warnings = curate_preferences(made, [], Curate())[2]
    assert warnings[0].startswith("Chosen and rejected may be reversed: of 20 pairs with one answer that refuses, 20 choose the refusal.")
    right_way = [{**p, "chosen": p["rejected"], "rejected": p["chosen"]} for p in made]
    assert not any("reversed" in warning for warning in curate_preferences(right_way, [], Curate())[2])


@pytest.mark.parametrize("chosen_words, rejected_words, side", [(8, 4, "longer"), (4, 8, "shorter")])
def test_a_choice_by_length_is_warned_of(chosen_words, rejected_words, side):
    made = unlike(40, chosen_words, rejected_words) + unlike(10, rejected_words, chosen_words, seed=1)
    _, _, (warning,) = curate_preferences(made, [], Curate())
    share = "80% (95 % interval 67% to 89%" if side == "longer" else "20% (95 % interval 11% to 33%"
    assert f"is the {side} one too often" in warning and share in warning and f"learns to be {side}" in warning
    assert curate_preferences(made[:3], [], Curate())[2] == []


def test_the_interval_is_wilsons():
    assert preferences.interval(40, 50) == pytest.approx((0.6696, 0.8876), abs=1e-4)


def test_mined_pairs_are_kept_once_for_each_answer():
    wrong = '{"intent": "turn_on", "room": "the kitchen on the first floor"}'
    made = [
        pair("q", "yes", "no"), pair("q", "Yes", "no"), pair("q", "yes", "nope"), pair("other", "yes", "no"),
        pair("q", "yes", wrong), pair("q", "yes", wrong.replace("first", "First ")), pair("q", "yes", wrong.replace("}", ' "}')),
        pair("q", "yes", wrong.replace("the kitchen on the first floor", "bath")),
    ]  # fmt: skip
    assert dedupe_mined(made) == [made[0], made[2], made[3], made[4], made[7]]
    assert dedupe_mined([]) == []
