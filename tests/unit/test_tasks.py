"""Checkers and metrics: what each calls right, what it cannot judge, and what a recipe may ask of it."""

import time
from typing import get_args

import pytest

from tunegate import recipe, rows, tasks
from tunegate.errors import BadInput
from tunegate.recipe import Task, load_recipe

PERSON = {
    "type": "object", "properties": {"name": {"$ref": "#/$defs/word"}, "age": {"type": "integer"}}, "required": ["name"],
    "additionalProperties": False, "$defs": {"word": {"type": "string", "pattern": "^[a-z]+$"}},
}  # fmt: skip


def row(expected: str) -> dict:
    return rows.make_row([{"role": "user", "content": "?"}, {"role": "assistant", "content": expected}])


@pytest.mark.parametrize(
    "checker, output, expected, right",
    [
        ("json", ' {"b": [1, 2], "a": "x"}\n', '{"a": "x", "b": [1.0, 2]}', 1.0),
        ("json", '{"a": "x"}', '{"a": "X"}', 0.0),
        ("json", '{"a": true}', '{"a": 1}', 0.0),
        ("json", '{"a": 0}', '{"a": false}', 0.0),
        ("json", "null", "null", 1.0),
        ("json", "[1, 2]", "[2, 1]", 0.0),
        ("json", '{"a": 1} and more', '{"a": 1}', 0.0),
        ("json", "[" * 100_000, "[]", 0.0),
        ("json", "", "null", 0.0),
        ("json", "NaN", "1", 0.0),
        ("exact", " Paris\n", "Paris", 1.0),
        ("exact", "paris", "Paris", 0.0),
        ("label", " Card  Lost", "card lost", 1.0),
        ("label", "card_lost", "card lost", 0.0),
        ("numeric", "48/2 = 24, and 48 + 24 = 72.", "Half is <<48/2=24>>24.\n#### 72", 1.0),
        ("numeric", "It costs $1,234.50 in all", "1234.5", 1.0),
        ("numeric", "45 %", "45", 1.0),
        ("numeric", "the result is −5", "-5", 1.0),
        ("numeric", "from 10-20", "20", 1.0),
        ("numeric", "from 10-20", "-20", 0.0),
        ("numeric", "x = 1, 2", "2", 1.0),
        ("numeric", "1.5e3", "1500", 1.0),
        ("numeric", ".5", "0.50", 1.0),
        ("numeric", "3/4", "0.75", 0.0),
        ("numeric", "0.1000000000000000000000000000000001", "0.1", 0.0),
        ("numeric", "seventy-two", "72", 0.0),
        ("numeric", "9" * 100_000, "9", 0.0),
    ],
)
def test_what_is_right(checker, output, expected, right):
    assert tasks.scores(Task(checker=checker), output, row(expected)) == {"task/exact": right}


@pytest.mark.parametrize("output, right", [("3.15", 1.0), ("3.13", 1.0), ("3.1501", 0.0)])
def test_a_number_may_be_off_by_the_tolerance_and_no_more(output, right):
    assert tasks.score(Task(checker="numeric", tolerance=0.01), output, row("3.14")) == right


@pytest.mark.parametrize(
    "pattern, output, expected, right",
    [
        (r"(?i)answer: (\w+)", "I think.\nAnswer: B, of course", "answer: B", 1.0),
        (r"(?i)answer: (\w+)", "Answer: C", "answer: B", 0.0),
        (r"(?i)answer: (\w+)", "B", "answer: B", 0.0),
        (r"[A-D]\b", "either B or C", "B", 1.0),
        (r"yes(?: (sir))?|(no)", "no", "say no", 1.0),
    ],
)
def test_a_pattern_finds_the_same_in_both(pattern, output, expected, right):
    assert tasks.score(Task(checker="regex", pattern=pattern), output, row(expected)) == right


def test_no_pattern_takes_more_than_linear_time():
    started = time.monotonic()
    assert tasks.score(Task(checker="regex", pattern=r"^(a+)+$"), "a" * 50_000 + "b", row("a")) == 0
    schema = {"type": "string", "pattern": "^(a+)+$"}
    assert tasks.score(Task(checker="json_schema", json_schema=schema), '"' + "a" * 50_000 + 'b"', row('"a"')) == 0
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "output, right",
    [
        ('{"name": "ada", "age": 36}', 1.0), ('{"name": "bob"}', 1.0), ('{"name": "Ada"}', 0.0), ('{"age": 36}', 0.0),
        ('{"name": "ada", "x": 1}', 0.0), ("ada", 0.0), ("[" * 900 + "]" * 900, 0.0),
    ],
)  # fmt: skip
def test_a_schema_judges_without_an_expected_answer(output, right):
    assert tasks.score(Task(checker="json_schema", json_schema=PERSON), output, row('{"name": "eve"}')) == right


def test_an_answer_nested_deeper_than_a_schema_can_follow_is_wrong():
    tree = {"type": "array", "items": {"$ref": "#"}}
    assert tasks.score(Task(checker="json_schema", json_schema=tree), "[" * 900 + "]" * 900, row("[[], []]")) == 0


@pytest.mark.parametrize(
    "metric, output, expected, score",
    [
        ("json_fields", '{"a": 1, "b": {"c": 2, "d": 3}}', '{"b": {"d": 3, "c": 2}, "a": 1.0}', 1),
        ("json_fields", '{"a": 1, "b": {"c": 0, "d": 3}}', '{"a": 1, "b": {"c": 2, "d": 3}}', 2 / 3),
        ("json_fields", '{"a": 1, "x": 0}', '{"a": 1}', 1 / 2),
        ("json_fields", "[1, 9]", "[1, 2, 3]", 1 / 3),
        ("json_fields", '{"a": {}}', '{"a": {"b": 1}}', 0),
        ("json_fields", '{"a": true}', '{"a": 1}', 0),
        ("json_fields", "none", "{}", 0),
        ("json_valid", '{"a": 1}', "anything", 1),
        ("json_valid", "{'a': 1}", "anything", 0),
        ("rouge_l", "The cat sat.", "the cat sat on", 6 / 7),  # recall 3/4, precision 1
        ("rouge_l", "кот спал", "Кот спал", 1),
        ("rouge_l", "dog", "cat", 0),
        ("chrf", "the cat sat", "the cat sat", 1),
        ("chrf", "xyz", "abc", 0),
        ("bleu", "the cat sat on the mat", "the cat sat on the mat", 1),
        ("bleu", "", "the cat", 0),
        ("exact_text", " a ", "a", 1),
        ("label", "A", "a", 1),
        ("numeric", "7 or 8", "8", 1),
    ],
)
def test_a_metric_beside_the_checker(metric, output, expected, score):
    found = tasks.scores(Task(metrics=[metric]), output, row(expected))
    assert set(found) == {"task/exact", f"task/{metric}"}
    assert found[f"task/{metric}"] == pytest.approx(score, abs=1e-12) and type(found[f"task/{metric}"]) is float


def test_rouge_of_ascii_is_that_of_rouge_scores_own_words():
    from rouge_score.rouge_scorer import RougeScorer

    said, wanted = "It's a well-known fact: 3 of 4 cats_sleep", "well known facts: 4 cats sleep 3 times a day"
    own = RougeScorer(["rougeL"]).score(wanted, said)["rougeL"].fmeasure
    assert tasks.scores(Task(metrics=["rouge_l"]), said, row(wanted))["task/rouge_l"] == pytest.approx(own)


def test_all_metrics_are_named_beforehand():
    task = Task(checker="json", metrics=["json_fields", "rouge_l"], perplexity=True)
    assert tasks.metrics_of(Task()) == {"task/exact", "task/finish_stop"}
    measured = {"task/finish_stop", "task/nats_per_token"}
    assert tasks.metrics_of(task) == {"task/exact", "task/json_fields", "task/rouge_l"} | measured
    assert tasks.metrics_of(task) - measured == set(tasks.scores(task, "{}", row("{}")))


@pytest.mark.parametrize(
    "task, expected, wrong",
    [
        (Task(checker="json"), "turn on", "the expected answer is not JSON, as json needs it"),
        (Task(metrics=["json_fields"]), "NaN", "the expected answer is not JSON, as json_fields needs it"),
        (Task(checker="numeric"), "seven", "the expected answer has no number, as numeric needs it"),
        (Task(checker="regex", pattern="^[AB]$"), "C", "the expected answer does not match task.pattern, as regex needs it"),
        (Task(checker="json_schema", json_schema=PERSON), '{"name": 1}', "does not satisfy task.json_schema (1 is not of type 'string')"),
        (Task(checker="tool_call"), "<tool_call>oops</tool_call>", "holds a tool call that cannot be read"),
        (Task(metrics=["json_valid", "rouge_l", "label"]), "turn on", ""),
        (Task(checker="json"), "{}", ""),
    ],
)
def test_an_expected_answer_that_cannot_be_judged_is_said(task, expected, wrong):
    found = tasks.problem(task, row(expected))
    assert found == "" if not wrong else wrong in found
    if wrong:
        with pytest.raises(BadInput, match="^Row [0-9a-f]{12} cannot be judged: the expected answer"):
            tasks.scores(task, "{}", row(expected))


def test_every_name_in_a_recipe_has_its_function():
    assert set(get_args(Task.model_fields["checker"].annotation)) == set(tasks.CHECKERS)
    assert set(get_args(recipe.Metric)) == set(tasks.METRICS) - {"exact"}  # task/exact is the checker's


@pytest.mark.parametrize(
    "task, sentence",
    [
        ({"checker": "fuzzy"}, "'task.checker': Input should be 'exact', 'label'"),
        ({"metrics": ["exact"]}, "'task.metrics.0': Input should be 'exact_text'"),
        ({"metrics": ["label", "label"]}, "label stands in it twice"),
        ({"checker": "regex"}, "regex needs task.pattern: set it"),
        ({"metrics": ["json_schema"]}, "json_schema needs task.json_schema: set it"),
        ({"pattern": "a"}, "task.pattern is set and nothing uses it"),
        ({"json_schema": {}}, "task.json_schema is set and nothing uses it"),
        ({"tolerance": 0.1}, "task.tolerance is set and nothing uses it"),
        ({"checker": "numeric", "tolerance": -1}, "greater than or equal to 0"),
        ({"checker": "regex", "pattern": "(a"}, r"'\(a' is not a regular expression of RE2 \(missing \)"),
        ({"checker": "regex", "pattern": "a(?=b)"}, "no look-around"),
        ({"checker": "json_schema", "json_schema": {"type": "strin"}}, "is not a JSON Schema .*'strin' is not valid"),
        ({"checker": "json_schema", "json_schema": {"$ref": "#/$defs/x"}}, "reference '.*x' leads out of it"),
        ({"checker": "json_schema", "json_schema": {"$ref": "https://example.com/a.json"}}, "nothing is fetched"),
        ({"checker": "json_schema", "json_schema": {"$ref": "#"}}, "refers to itself without end"),
        ({"checker": "json_schema", "json_schema": {"pattern": "(?=a)"}}, "not a regular expression of RE2"),
        ({"checker": "json_schema", "json_schema": {"properties": {"a": {"patternProperties": {}}}}}, "patternProperties"),
    ],
)
def test_a_recipe_that_cannot_judge_is_refused_when_it_is_read(tiny_recipe, task, sentence):
    with pytest.raises(BadInput, match=sentence):
        load_recipe(tiny_recipe(task=task))


def test_a_property_may_be_called_like_a_keyword(tiny_recipe):
    schema = {"properties": {"pattern": {"type": "string"}, "$ref": {"enum": [{"$ref": "x"}]}}}
    task = load_recipe(tiny_recipe(task={"checker": "json_schema", "json_schema": schema})).task
    assert tasks.score(task, '{"pattern": "(a"}', row("{}")) == 1
    assert Task(**task.model_dump()) == task
