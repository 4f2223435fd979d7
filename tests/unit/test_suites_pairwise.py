"""The pairwise judge against a small real HTTP server: both orders, ties, length, and what it is sent."""

import json

import fake_judge
import numpy as np
import pytest

from tunegate import results
from tunegate.recipe import Pairwise
from tunegate.suites import pairwise

ARMS = ("candidate", "base_few_shot")


@pytest.fixture
def endpoint(monkeypatch):
    with fake_judge.serving(monkeypatch) as server:
        server.settings = Pairwise(**server.settings, criteria="The truer one.")
        yield server


def row(number: int) -> dict:
    turns = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "the expected answer"}]
    return {"id": f"id {number}", "messages": turns}


def items(pairs: list[tuple[str, str]]) -> list[dict]:
    return [
        results.item(arm, "test", f"id {number}", "task/exact", 0.0, output=answers[place], cluster_id=f"cluster {number}")
        for number, answers in enumerate(pairs)
        for place, arm in enumerate(ARMS)
    ]


def prefer(better) -> object:
    """Let the judge choose by `better(first, second)`: 1, 2 or 0."""
    return lambda material, tries: json.dumps({"better": better(material["answer_1"], material["answer_2"]), "reason": "because"})


def scores(lines: list[dict]) -> dict[str, list[float]]:
    return {metric: [line["score"] for line in lines if line["metric"] == metric] for metric in ("judge/win", "judge/flip")}


def test_each_pair_is_judged_in_both_orders(endpoint):
    endpoint.reply = prefer(lambda first, second: 1 if "good" in first else 2 if "good" in second else 0)
    pairs = [("good", "bad"), ("bad", "good"), ("bad", "worse"), ("same", "same ")]
    lines = pairwise.judge(items(pairs), ARMS, endpoint.settings, [row(n) for n in range(4)])
    assert scores(lines) == {"judge/win": [1.0, 0.0, 0.5, 0.5], "judge/flip": [0.0] * 4}
    assert len(endpoint.asked) == 6
    assert {(line["arm"], line["split"]) for line in lines} == {("candidate", "judge")} and lines[0]["cluster_id"] == "cluster 0"


def test_only_the_question_and_the_two_answers_are_sent(endpoint):
    endpoint.reply = prefer(lambda first, second: 1)
    pairwise.judge(items([("mine", "other")]), ARMS, endpoint.settings, [row(0)])
    asked = {json.dumps(json.loads(one["body"]["messages"][1]["content"]), sort_keys=True) for one in endpoint.asked}
    question = [{"role": "user", "content": "question 0"}]
    assert asked == {
        json.dumps({"question": question, "answer_1": one, "answer_2": two}, sort_keys=True)
        for one, two in (("mine", "other"), ("other", "mine"))
    }
    assert "The truer one." in endpoint.asked[0]["body"]["messages"][0]["content"]
    assert endpoint.asked[0]["key"] == f"Bearer {fake_judge.SECRET}"


def test_a_judge_that_prefers_a_place_gives_ties_and_flips(endpoint):
    endpoint.reply = prefer(lambda first, second: 1)
    lines = pairwise.judge(items([("a", "b"), ("c", "d")]), ARMS, endpoint.settings, [row(0), row(1)])
    assert scores(lines) == {"judge/win": [0.5, 0.5], "judge/flip": [1.0, 1.0]}


def test_a_pair_without_a_readable_reply_has_no_line(endpoint, capsys):
    endpoint.reply = lambda material, tries: "The first." if "b" in material.values() else prefer(lambda first, second: 2)(material, tries)
    answers = items([("a", "b"), ("c", "d")])
    lines = pairwise.judge(answers, ARMS, endpoint.settings, [row(0), row(1)])
    assert {line["item_id"] for line in lines} == {"id 1"}
    assert pairwise.summary(lines, answers, ARMS)["not_judged"] == 1
    assert "1 of 2 pairs were not judged" in capsys.readouterr().out


@pytest.mark.parametrize(
    "here, there, expected", [(1, 2, (1.0, 0.0)), (2, 1, (0.0, 0.0)), (0, 0, (0.5, 0.0)), (1, 0, (0.5, 1.0)), (2, 2, (0.5, 1.0))]
)
def test_the_two_replies_make_one_outcome(here, there, expected):
    assert pairwise.outcome(here, there) == expected


@pytest.mark.parametrize("reply", ["1", '{"better": "1"}', '{"better": 3}', '{"better": true}', "", "[" * 100_000, '{"reason": ""}'])
def test_only_the_object_that_was_asked_for_is_a_reply(reply):
    assert pairwise.read_better(reply) is None


def summary_of(wins: list[float], lengths: list[tuple[int, int]]) -> dict:
    lines = [results.item("candidate", "judge", f"id {n}", metric, score) for n, win in enumerate(wins) for metric, score in
             (("judge/win", win), ("judge/flip", 0.0))]  # fmt: skip
    return pairwise.summary(lines, items([("x" * mine, "x" * other) for mine, other in lengths]), ARMS)


def test_wins_that_come_from_length_alone_are_none_at_equal_length():
    draw = np.random.default_rng(0)
    longer = draw.normal(60, 60, 2000)  # the candidate mostly writes more, and the judge likes that
    wins = (draw.random(2000) < 1 / (1 + np.exp(-2 * np.tanh(longer / longer.std())))).astype(float)
    found = summary_of(list(wins), [(500 + round(more), 500) for more in longer])
    assert found["win_rate"] > 0.65
    assert found["win_rate_at_equal_length"] == pytest.approx(0.5, abs=0.05)
    assert found["length_effect"] == pytest.approx(2, abs=0.3)
    assert found["characters_longer"] == pytest.approx(60, abs=5)


def test_wins_that_do_not_depend_on_length_stay():
    draw = np.random.default_rng(1)
    wins = draw.choice([1.0, 0.5, 0.0], 2000, p=[0.6, 0.2, 0.2])
    found = summary_of(list(wins), [(500 + round(more), 500) for more in draw.normal(0, 60, 2000)])
    assert found["win_rate_at_equal_length"] == pytest.approx(0.7, abs=0.03) == pytest.approx(found["win_rate"], abs=0.03)
    assert found["tie_rate"] == pytest.approx(0.2, abs=0.03) and found["length_effect"] == pytest.approx(0, abs=0.2)


def test_without_a_difference_there_is_no_regression():
    assert summary_of([1.0, 0.0], [(5, 5), (7, 7)])["win_rate_at_equal_length"] is None
    assert summary_of([1.0, 1.0], [(5, 9), (7, 1)])["length_effect"] is None
    assert pairwise.summary([], [], ARMS) == {"pairs": 0}
