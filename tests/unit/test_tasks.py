import pytest

from tunegate.errors import BadInput
from tunegate.tasks import score


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
        ("exact", " Paris\n", "Paris", 1.0),
        ("exact", "paris", "Paris", 0.0),
        ("label", " Card  Lost", "card lost", 1.0),
        ("label", "card_lost", "card lost", 0.0),
    ],
)
def test_score(checker, output, expected, right):
    assert score(checker, output, expected) == right


def test_an_expected_answer_that_is_not_json_is_bad_input():
    with pytest.raises(BadInput, match="not JSON.*'turn on'"):
        score("json", "{}", "turn on")


def test_an_unknown_checker_is_bad_input():
    with pytest.raises(BadInput, match="'fuzzy' is not known"):
        score("fuzzy", "a", "a")
