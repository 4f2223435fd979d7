"""Decontamination: each way in which a training row gives away a held text, and the rows that do not."""

import random

import pytest

from tunegate.curate.decontaminate import decontaminate
from tunegate.recipe import Decontaminate

SETTINGS = Decontaminate()
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices(LETTERS, k=6)) for _ in range(count))


def covers(train: list[str], held: list[str], **settings) -> list[int]:
    return list(decontaminate(train, {"test": held}, Decontaminate(**settings), 0.7))


def test_each_reason_with_the_set_and_the_text():
    rng = random.Random(1)
    clean = [words(rng, 30) for _ in range(20)]
    short, long, general = "turn on the lamp\ncertainly", words(rng, 24), words(rng, 40)
    train = clean + [short, f"{short}!", f"{words(rng, 90)} {long} {words(rng, 90)}", general, "turn on the"]
    assert decontaminate(train, {"test": [short, long], "general text": [general]}, SETTINGS, 0.7) == {
        20: ("equal to a held text", "test", short),
        21: ("near-duplicate of a held text", "test", short),
        22: ("covers a held text with 8-grams", "test", long),
        23: ("equal to a held text", "general text", general),
    }


def test_nothing_held_or_nothing_to_train_on():
    assert decontaminate(["a text"], {}, SETTINGS, 0.7) == decontaminate(["a text"], {"dev": []}, SETTINGS, 0.7) == {}
    assert decontaminate([], {"dev": ["a text"]}, SETTINGS, 0.7) == {}


@pytest.mark.parametrize("shared, hit", [(7, False), (8, False), (19, False), (20, True), (40, True)])
def test_coverage_counts_words_and_its_bound_is_a_hit(shared, hit):
    rng = random.Random(2)
    held = words(rng, 40)
    row = " ".join([words(rng, 50), *held.split()[5 : 5 + shared], words(rng, 50)]) if shared < 40 else f"{words(rng, 80)} {held}"
    assert covers([row], [held]) == ([0] if hit else [])


def test_coverage_adds_up_over_the_row_and_repeats_count_once():
    rng = random.Random(3)
    held = words(rng, 40)
    part, other = " ".join(held.split()[:10]), " ".join(held.split()[30:])
    noise = [words(rng, 40) for _ in range(3)]
    assert covers([f"{noise[0]} {part} {noise[1]} {other} {noise[2]}"], [held]) == [0]
    assert covers([f"{noise[0]} {part} {noise[1]} {part} {noise[2]}"], [held]) == []


def test_texts_below_the_short_bound_are_compared_whole():
    rng = random.Random(4)
    held = words(rng, 19)
    inside = f"{words(rng, 60)} {held} {words(rng, 60)}"
    assert covers([inside], [held]) == []
    assert covers([inside], [held], short_words=19) == [0]


def test_a_template_is_no_leak_but_what_it_frames_is():
    rng = random.Random(5)
    template = words(rng, 30)
    held = [f"{template} {words(rng, 25)}" for _ in range(50)]
    train = [f"{template} {words(rng, 60)}" for _ in range(200)]
    content = " ".join(held[7].split()[30:])
    train.append(f"{words(rng, 60)} {content[: len(content) // 2 + 20]} {words(rng, 20)}")
    found = decontaminate(train, {"test": held}, SETTINGS, 0.7)
    assert found == {200: ("covers a held text with 8-grams", "test", held[7])}
    few = held[:10]  # too few to tell a template by: it covers more than half of each
    assert len(decontaminate(train, {"test": few}, SETTINGS, 0.7)) == 200


def test_the_most_covered_text_is_named():
    rng = random.Random(6)
    a, b = words(rng, 30), words(rng, 30)
    row = f"{words(rng, 80)} {' '.join(a.split()[:20])} {words(rng, 80)} {b}"
    assert decontaminate([row], {"dev": [a], "test": [b]}, SETTINGS, 0.7) == {0: ("covers a held text with 8-grams", "test", b)}
