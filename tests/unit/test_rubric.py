"""The rubric: one row and one sentence for each reason, and patterns that are wrong said at load time."""

import pytest

from tunegate import rows
from tunegate.curate import rubric
from tunegate.curate.row_stages import Context, run_batch
from tunegate.errors import BadInput
from tunegate.recipe import Curate, Task, load_recipe

LONG = "Please rewrite this sentence so that a child of ten can follow it without help."


def row(question: str, answer: str) -> dict:
    return rows.make_row([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def outcomes(made: list[dict], checker: str = "exact", **settings) -> list:
    config = Curate(quality={"rubric": settings})
    return run_batch("tunegate.curate.rubric", made, config, Context(Task(checker=checker)))


@pytest.mark.parametrize(
    "settings, good, bad, reason",
    [
        ({"min_answer_characters": 5}, "seven", " six ", "answer shorter than 5 characters"),
        ({"max_answer_characters": 5}, "seven", "twelve", "answer longer than 5 characters"),
        ({"answer_pattern": r"\d+"}, "42", "42 of them", "answer does not match rubric.answer_pattern"),
        ({"forbid": ["TODO", "(?i)lorem +i"]}, "all done", "Lorem  ipsum", "answer contains what rubric.forbid names: (?i)lorem +i"),
        ({"answers": ["yes", "no"]}, "yes", "Yes", "answer is none of rubric.answers"),
        ({"json_answer": True}, '{"a": [1, null]}', "{'a': 1}", "answer is not JSON"),
        ({"json_answer": True}, "1e5", "NaN", "answer is not JSON"),
        ({"json_answer": True}, "[]", "[" * 100_000, "answer is not JSON"),
        ({}, "Say it in words that a ten year old knows, please.", LONG.upper(), "answer repeats its question"),
    ],
)
def test_each_check_has_its_own_reason(settings, good, bad, reason):
    assert outcomes([row(LONG, good), row(LONG, bad)], **settings) == [None, reason]


def test_labels_compare_as_the_task_does():
    assert outcomes([row("?", " YES "), row("?", "maybe")], "label", answers=["yes", "no"]) == [None, "answer is none of rubric.answers"]


def test_a_passage_quoted_from_a_long_text_is_no_echo_and_copying_can_be_allowed():
    text = "The mill stands by the river. It was built in the year of the great flood, by hand. " + "Nobody knows who drew the plan. " * 9
    quoted = row(f"When was the mill built? {text}", "It was built in the year of the great flood, by hand.")
    assert outcomes([quoted]) == [None]
    assert outcomes([row(LONG, LONG)], max_echo_share=1) == [None]


def test_the_echo_is_of_the_last_question():
    turns = [("user", LONG), ("assistant", "How old is the child?"), ("user", "ten"), ("assistant", LONG)]
    made = rows.make_row([{"role": role, "content": content} for role, content in turns])
    assert outcomes([made]) == [None]


def test_the_rubric_always_runs():
    assert rubric.off(Curate(), Context(Task())) == ""


@pytest.mark.parametrize("settings", [{"answer_pattern": "(a"}, {"forbid": ["fine", "*bad"]}])
def test_a_wrong_pattern_is_said_when_the_recipe_is_read(tiny_recipe, settings):
    with pytest.raises(BadInput, match=r"curate.quality.rubric.*(\(a|\*bad)' is not a regular expression"):
        load_recipe(tiny_recipe(curate={"quality": {"rubric": settings}}))


def test_a_judge_without_a_model_is_said_when_the_recipe_is_read(tiny_recipe):
    with pytest.raises(BadInput, match="curate.quality.judge.*set `model`"):
        load_recipe(tiny_recipe(curate={"quality": {"judge": {"url": "http://127.0.0.1:1/v1"}}}))
