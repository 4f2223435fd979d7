"""Ingest: tools, preference pairs, labelled answers, and the group that a row belongs to."""

import json
from pathlib import Path

import pytest

from tunegate import rows
from tunegate.errors import BadInput
from tunegate.ingest import describe, ingest
from tunegate.recipe import Data


def turn(role: str, content, **more) -> dict:
    return {"role": role, "content": content, **more}


def call(arguments, **more) -> dict:
    return {"type": "function", "function": {"name": "weather", "arguments": arguments}, **more}


WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": WEATHER}]
USER, YES, NO = turn("user", "Rain in Rome?"), turn("assistant", "No, sun."), turn("assistant", "Yes.")
CALLED = [USER, turn("assistant", "", tool_calls=[call({"city": "Rome"})]), turn("tool", "sun"), YES]
SHAREGPT_CALLED = [
    {"from": "human", "value": "Rain in Rome?"}, {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
    {"from": "observation", "value": "sun"}, {"from": "gpt", "value": "No, sun."},
]  # fmt: skip


def read(tmp_path: Path, *records, **settings) -> dict[str, list[dict]]:
    """Ingest records and give what each file of the output holds, and the report."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    report = ingest(Data(sources=[str(tmp_path / "a.jsonl")], max_bad_share=1, **settings), tmp_path / "out")
    kinds = ("rows", "preferences", "labelled", "quarantine")
    return {"report": report, **{kind: list(rows.read_json_lines(tmp_path / "out" / "rows" / f"{kind}.jsonl")) for kind in kinds}}


@pytest.mark.parametrize("record, schema", [
    ({"messages": CALLED, "tools": TOOLS}, "chat"),
    ({"messages": CALLED, "tools": [WEATHER]}, "chat"),
    ({"messages": CALLED, "tools": json.dumps(TOOLS)}, "chat"),
    ({"messages": [USER, turn("assistant", None, tool_calls=[call('{"city": "Rome"}')]), *CALLED[2:]], "tools": TOOLS}, "chat"),
    ({"messages": [USER, turn("assistant", None, tool_calls=[{"name": "weather", "arguments": {"city": "Rome"}}]), *CALLED[2:]],
      "tools": TOOLS}, "chat"),
    ({"conversations": SHAREGPT_CALLED, "tools": json.dumps([WEATHER])}, "sharegpt"),
])  # fmt: skip
def test_tools_come_in_one_form_whatever_they_came_in(tmp_path, record, schema):
    found = read(tmp_path, record)
    assert found["rows"] == [rows.make_row(CALLED, source=str(tmp_path / "a.jsonl"), tools=TOOLS)]
    assert found["rows"][0]["messages"] == CALLED and found["rows"][0]["tools"] == TOOLS
    assert found["report"]["files"][0]["schemas"] == {schema: 1}


def test_the_ids_of_calls_and_the_size_of_their_numbers_are_kept(tmp_path):
    large = 2**80 + 1
    messages = [
        USER, turn("assistant", "Let me see.", tool_calls=[call({"n": large, "x": 1e-7}, id="c1")]),
        turn("tool", "", tool_call_id="c1", name="weather"), YES,
    ]  # fmt: skip
    found = read(tmp_path, {"messages": messages, "tools": []})["rows"][0]
    assert found["messages"] == messages and "tools" not in found
    assert found["messages"][1]["tool_calls"][0]["function"]["arguments"]["n"] == large


@pytest.mark.parametrize("messages, tools, reason", [
    ([USER, turn("assistant", "", tool_calls=[{"function": {}}]), *CALLED[2:]], TOOLS, "turn 2 calls a tool without a name"),
    ([USER, turn("assistant", "", tool_calls=[call("{oops")]), *CALLED[2:]], TOOLS, "'weather' with arguments in text that is not"),
    ([USER, turn("assistant", "", tool_calls=[call([1])]), *CALLED[2:]], TOOLS, "arguments that are not named but list"),
    ([USER, turn("assistant", "", tool_calls=[call({"a": "\0"})]), *CALLED[2:]], TOOLS, "contains a NUL"),
    ([USER, turn("assistant", "", tool_calls=[call({"a": "\ud800"})]), *CALLED[2:]], TOOLS, "half of a surrogate pair"),
    ([USER, turn("assistant", "", tool_calls=[call({"a": float("nan")})]), *CALLED[2:]], TOOLS, "what JSON has no word for"),
    ([USER, turn("assistant", "", tool_calls=5), *CALLED[2:]], TOOLS, "not a list but int"),
    (CALLED, [{**WEATHER, "name": "time"}], "turn 2 calls 'weather', which is not among the tools"),
    (CALLED, [{}], "tool 1 has no name"),
    (CALLED, "{oops", "tools is text that is not JSON"),
    (CALLED, 7, "tools is not a list but int"),
    ([USER, *CALLED[2:]], TOOLS, "turn 2 is tool's: it answers no tool call"),
    ([*CALLED[:2], YES], TOOLS, "turn 3 is assistant's: the tool calls before it have no result"),
    ([*CALLED[:3], turn("tool", "two"), YES], TOOLS, "turn 4 is tool's: it answers no tool call"),
    ([*CALLED[:3], USER, YES], TOOLS, "turn 4 is user's"),
    (CALLED[:3], TOOLS, "the last turn is not the assistant's"),
    ([{**USER, "tool_calls": [call({})]}, YES], TOOLS, "turn 1 has tool calls, but is user's"),
    ([*CALLED[:2], turn("tool", "sun", name=7), YES], TOOLS, "turn 3 has a name that is not text but int"),
])  # fmt: skip
def test_what_is_wrong_with_tools(tmp_path, messages, tools, reason):
    found = read(tmp_path, {"messages": [USER, YES]}, {"messages": messages, "tools": tools})
    assert len(found["rows"]) == 1
    assert reason in found["quarantine"][0]["reason"]


def test_a_call_may_be_the_answer(tmp_path):
    made = read(tmp_path, {"messages": CALLED[:2]})["rows"][0]
    assert made["messages"] == CALLED[:2]
    assert rows.answer(made) == '[{"arguments":{"city":"Rome"},"name":"weather"}]'


PAIR = {"prompt": [USER], "chosen": [YES], "rejected": [NO]}
SYSTEM = turn("system", "Be kind.")


@pytest.mark.parametrize("record, schema, prompt", [
    ({"prompt": "Rain in Rome?", "chosen": "No, sun.", "rejected": "Yes."}, "preference", [USER]),
    (PAIR, "preference", [USER]),
    ({**PAIR, "prompt": "Rain in Rome?"}, "preference", [USER]),
    ({**PAIR, "chosen": YES, "rejected": NO, "system": "Be kind."}, "preference", [SYSTEM, USER]),
    ({"question": "Rain in Rome?", "chosen": "No, sun.", "rejected": "Yes.", "system": "Be kind."}, "preference", [SYSTEM, USER]),
    ({"instruction": "Rain", "input": "in Rome?", "chosen": "No, sun.", "rejected": "Yes."}, "preference",
     [turn("user", "Rain\n\nin Rome?")]),
    ({"conversations": SHAREGPT_CALLED[:1], "chosen": {"from": "gpt", "value": "No, sun."}, "rejected": {"from": "gpt", "value": "Yes."}},
     "preference", [USER]),
    ({"chosen": [SYSTEM, USER, YES], "rejected": [SYSTEM, USER, NO]}, "implicit preference", [SYSTEM, USER]),
    ({"prompt": "Rain in Rome?", "messages": [USER, YES], "chosen": [USER, YES], "rejected": [USER, NO]}, "implicit preference", [USER]),
    ({"chosen": [*CALLED[:3], YES], "rejected": [*CALLED[:3], NO]}, "implicit preference", CALLED[:3]),
])  # fmt: skip
def test_each_form_of_preference_pairs(tmp_path, record, schema, prompt):
    found = read(tmp_path, {**record, "task_type": "t"})
    assert found["rows"] == []
    assert found["preferences"] == [rows.make_preference(prompt, [YES], [NO], "t", str(tmp_path / "a.jsonl"))]
    assert found["preferences"][0] | PAIR | {"prompt": prompt} == found["preferences"][0]
    assert found["report"]["files"][0]["schemas"] == {schema: 1} and found["report"]["preferences"] == 1
    assert describe(found["report"]) == "0 rows from 1 file, 1 preference pairs, 0 quarantined"


@pytest.mark.parametrize("record, reason", [
    ({"chosen": "a", "rejected": "b"}, "answers without a prompt"),
    ({**PAIR, "rejected": ""}, "rejected is empty"),
    ({**PAIR, "rejected": 5}, "rejected is neither text nor turns but int"),
    ({**PAIR, "chosen": [turn("assistant", " ")]}, "chosen: turn 2 is empty"),
    ({"chosen": [USER, YES, USER, YES], "rejected": [USER, YES, turn("user", "Why?"), YES]}, "does not begin with the assistant's turn"),
    ({**PAIR, "prompt": [USER, YES]}, "chosen: turn 3 is assistant's"),
    ({**PAIR, "prompt": 5}, "prompt is not text but int"),
])  # fmt: skip
def test_what_is_wrong_with_a_preference_pair(tmp_path, record, reason):
    found = read(tmp_path, PAIR, record)
    assert len(found["preferences"]) == 1
    assert reason in found["quarantine"][0]["reason"]


@pytest.mark.parametrize("record, schema, label", [
    ({"prompt": "Rain in Rome?", "completion": "Yes.", "label": False}, "labelled prompt", False),
    ({"prompt": [USER], "completion": [NO], "label": True}, "labelled prompt", True),
    ({"messages": [USER, NO], "label": True}, "labelled chat", True),
    ({"messages": [USER, NO], "kto_tag": False}, "labelled chat", False),
    ({"conversations": [SHAREGPT_CALLED[0], {"from": "gpt", "value": "Yes."}], "kto_tag": True}, "labelled sharegpt", True),
])  # fmt: skip
def test_each_form_of_labelled_answers(tmp_path, record, schema, label):
    found = read(tmp_path, record)
    assert found["labelled"] == [rows.make_labelled([USER], [NO], label, source=str(tmp_path / "a.jsonl"))]
    assert (found["labelled"][0]["prompt"], found["labelled"][0]["completion"], found["labelled"][0]["label"]) == ([USER], [NO], label)
    assert found["report"]["files"][0]["schemas"] == {schema: 1}


def test_a_label_in_words_counts_where_the_recipe_names_it(tmp_path):
    record = {"prompt": "Rain in Rome?", "completion": "Yes.", "label": "TRUE"}
    assert len(read(tmp_path, record)["rows"]) == 1
    found = read(tmp_path, record, {**record, "label": "spam"}, columns={"label": "label"})
    assert [row["label"] for row in found["labelled"]] == [True]
    assert "neither true nor false but 'spam'" in found["quarantine"][0]["reason"]


def test_ids_differ_where_what_is_learned_differs():
    made = [
        rows.make_preference([USER], [YES], [NO]), rows.make_preference([USER], [NO], [YES]), rows.make_labelled([USER], [NO], True),
        rows.make_labelled([USER], [NO], False), rows.make_row([USER, NO]), rows.make_row(CALLED), rows.make_row(CALLED, tools=TOOLS),
        rows.make_row([CALLED[0], turn("assistant", "", tool_calls=[call({"city": "Oslo"})]), *CALLED[2:]]),
    ]  # fmt: skip
    assert len({row["id"] for row in made}) == len(made)
    assert rows.make_row(CALLED)["id"] == rows.make_row(CALLED, "t", "s", group="g")["id"]
    assert len({rows.similarity_text(row) for row in made[5:]}) == 2, "what is called is compared too"


@pytest.mark.parametrize("fields, group", [
    ({}, None),
    ({"conversation_id": "c7"}, "conversation:c7"),
    ({"conversation": 7}, "conversation:7"),
    ({"conversation_id": "c7", "document_id": 0}, "document:0"),
    ({"source_document": "a.pdf"}, "document:a.pdf"),
    ({"conversation": [USER, YES], "document": None, "document_id": True}, None),
])  # fmt: skip
def test_rows_name_their_group(tmp_path, fields, group):
    found = read(tmp_path, {"messages": [USER, YES], **fields})["rows"][0]
    assert found.get("group") == group
    assert ("group" in found) == (group is not None)


def test_a_group_may_have_a_column_of_another_name(tmp_path):
    made = read(tmp_path, {"messages": [USER, YES], "session": 5}, columns={"conversation_id": "session"})["rows"]
    assert made[0]["group"] == "conversation:5" and made[0]["messages"] == [USER, YES]


def test_a_document_in_whole_becomes_its_digest(tmp_path):
    first, second, third = read(tmp_path, *({"question": "a", "answer": "b", "document": text * 300} for text in "xyx"))["rows"]
    assert first["group"] == third["group"] != second["group"] and len(first["group"]) == len("document:") + 64


def test_only_what_is_nothing_at_all_is_an_error(tmp_path):
    assert read(tmp_path, PAIR)["report"]["rows"] == 0
    with pytest.raises(BadInput, match="1 of 1 rows .*the file is empty"):
        read(tmp_path)
    with pytest.raises(BadInput, match="1 of 1 rows"):
        read(tmp_path, {"x": 1})
