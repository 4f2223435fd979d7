"""Rows: what makes one valid, its id, its prompt and answer, and the text it is compared by."""

import json

import pytest

from tunegate import digests, rows
from tunegate.errors import BadInput


def turn(role: str, content) -> dict:
    return {"role": role, "content": content}


GOOD = [turn("user", "hi"), turn("assistant", "hello")]


@pytest.mark.parametrize("messages, wrong", [
    (GOOD, ""),
    ([turn("system", "s"), *GOOD, *GOOD], ""),
    ("text", "not a list"),
    ([], "not a list"),
    (["text"], "turn 1 has the role None"),
    ([turn("tool", "x"), *GOOD], "turn 1 is tool's: it answers no tool call"),
    (GOOD[:1], "last turn is not the assistant's"),
    ([turn("system", "s")], "last turn is not the assistant's"),
    (GOOD[1:], "turn 1 is assistant's"),
    ([*GOOD, turn("system", "s"), turn("assistant", "x")], "turn 3 is system's"),
    ([GOOD[0], *GOOD], "turn 2 is user's"),
    ([turn("user", " \n"), GOOD[1]], "turn 1 is empty"),
    ([turn("user", 5), GOOD[1]], "turn 1 is not text but int"),
    ([GOOD[0], turn("assistant", None)], "turn 2 is not text but NoneType"),
    ([GOOD[0], {**GOOD[1], "tool_calls": [{}]}], "turn 2 has tool calls of an unknown form"),
    ([turn("user", "a\0b"), GOOD[1]], "turn 1 contains a NUL"),
    ([turn("user", "a\ud800b"), GOOD[1]], "half of a surrogate pair"),
])  # fmt: skip
def test_what_is_wrong_with_messages(messages, wrong):
    found = rows.problem(messages)
    assert found == "" if wrong == "" else wrong in found


def test_the_id_is_that_of_the_messages_alone():
    row = rows.make_row([{**GOOD[0], "name": "x"}, GOOD[1]], task_type="greet", source="a.jsonl")
    assert (
        row["id"] == rows.make_row(GOOD)["id"] == digests.sha256(b'[{"content":"hi","role":"user"},{"content":"hello","role":"assistant"}]')
    )
    assert row["messages"] == GOOD
    assert row["id"] != rows.make_row([GOOD[0], turn("assistant", "Hello")])["id"]
    assert (row["task_type"], row["source"]) == ("greet", "a.jsonl")


def test_the_prompt_gets_the_system_text_unless_it_has_one():
    row = rows.make_row(GOOD)
    assert rows.chat(row, "Be kind.") == [turn("system", "Be kind."), GOOD[0]]
    assert rows.chat(row, "") == [GOOD[0]]
    assert rows.answer(row) == "hello"
    own = rows.make_row([turn("system", "own"), *GOOD])
    assert rows.chat(own, "Be kind.") == [turn("system", "own"), GOOD[0]]


def test_the_similarity_text_leaves_out_system_case_space_and_form():
    composed = rows.make_row([turn("system", "s"), turn("user", "Caf\u00e9  IS\nopen "), turn("assistant", "Yes")])
    decomposed = rows.make_row([turn("user", "cafe\u0301 is open"), turn("assistant", "yes")])
    assert rows.similarity_text(composed) == rows.similarity_text(decomposed) == "caf\u00e9 is open\nyes"


def test_rows_survive_a_file(tmp_path):
    made = [rows.make_row([turn("user", f"line\u2028 {i}"), turn("assistant", "é")]) for i in range(3)]
    rows.write_rows(tmp_path / "rows.jsonl", made)
    assert list(rows.read_rows(tmp_path / "rows.jsonl")) == made


def test_a_file_that_holds_no_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(BadInput, match="no file of rows"):
        list(rows.read_rows(path))
    path.write_text(json.dumps({"messages": GOOD}) + "\n\n{oops\n")
    with pytest.raises(BadInput, match=r"rows.jsonl:3 is not JSON"):
        list(rows.read_rows(path))
    path.write_text('\n{"prompt": "x"}\n')
    assert list(rows.read_json_lines(path)) == [{"prompt": "x"}]
    with pytest.raises(BadInput, match=r"rows.jsonl:2 is not a row"):
        list(rows.read_rows(path))
    path.write_text("[]\n")
    with pytest.raises(BadInput, match=r"rows.jsonl:1 is not a JSON object"):
        list(rows.read_rows(path))
