"""Repetition: one text for each rule, and short or regular answers that break none."""

import pytest
from stage_rows import CONTEXT, outcomes, row

from tunegate.curate import repetition
from tunegate.recipe import Curate, Repetition

NUMBERS = "zero one two three four five six seven eight nine".split()
PROSE = " ".join(f"{NUMBERS[i % 10]}{NUMBERS[i // 10]}" for i in range(60))
CHINESE = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少白日依山尽黄河入海流欲穷千里目更上一层楼床前明月光疑是地上霜举头望明月低头思故乡"
BROKEN = [
    ("very " * 8 + "good", "the same words many times in a row"),
    ("I am sorry, but no. " * 8, "the same words many times in a row"),
    ("tell me more " * 8, "the same words many times in a row"),
    ("哈" * 8, "the same words many times in a row"),
    ("我不知道。" * 8, "the same words many times in a row"),
    ("ฉันไม่รู้" * 8, "the same words many times in a row"),
    ("The house at the end of the road is old and it was built by my father. " * 8, "the same sentence many times in a row"),
    (
        "\n".join(
            [PROSE[:200], "so it goes, on and on", "and then it stops", PROSE[200:]] + ["so it goes, on and on", "and then it stops"] * 7
        ),
        "repeated lines",
    ),
    (PROSE + " and so on" * 3 + "".join(f" {word} in the" for word in NUMBERS * 4), "one 2-gram makes up too much"),
]
FINE = [
    "yes", "no, no", "ha ha ha", "on on on on on on on", "0 0 0 0 0 0 0 0 0 0 0 0", "off, off, off, off, off, off, off, off, off",
    "--------------------", "| - | - | - | - | - | - | - | - | - |", "好" * 7, PROSE, CHINESE, CHINESE * 2, "a\nb\na\nb",
    "\n".join(f"{i}. item {word}" for i, word in enumerate(NUMBERS)), "aaaaaaaaaaaaaaaa", "{\n}\n{\n}\n",
]  # fmt: skip


@pytest.mark.parametrize("text, reason", BROKEN)
def test_each_rule_has_its_reason(text, reason):
    assert outcomes(repetition, [text]) == [reason]


@pytest.mark.parametrize("text", FINE)
def test_short_and_regular_answers_stay(text):
    assert outcomes(repetition, [text]) == [None]


def test_gophers_shares_begin_at_fifty_words():
    verse = ["so it goes, round and round and round", "until it stops, at last it stops"]
    assert outcomes(repetition, ["\n".join(verse * 3)]) == [None]
    assert outcomes(repetition, ["\n".join(verse * 4)]) == ["repeated lines"]


def test_a_phrase_that_comes_a_few_times_is_no_loop():
    answer = "the average amount a customer spends in the store is the sum of what each one spends, over how many there are. "
    assert outcomes(repetition, [answer + "So the average amount a customer spends in the store is five. " * 3 + PROSE[:100]]) == [None]


def test_the_limits_are_the_recipes():
    text = "yes " * 4
    assert outcomes(repetition, [text], Curate(repetition=Repetition(max_repeats=4))) == ["the same words many times in a row"]
    assert outcomes(repetition, [text], Curate(repetition=Repetition(max_repeats=5))) == [None]
    assert repetition.off(Curate(repetition=Repetition(enabled=False)), CONTEXT) == "curate.repetition.enabled is false"


def test_only_answers_count():
    assert repetition.check([row("again " * 20, "Once is enough.")], Curate(), CONTEXT) == [None]
