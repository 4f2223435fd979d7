"""Tool calls in the text of an answer: the forms that are read, and which calls are the same."""

import json

import pytest

from tunegate import rows, tasks
from tunegate.recipe import Task
from tunegate.tasks import tool_calls

LAMP, FAN = {"name": "lamp", "arguments": {"room": "hall", "percent": 50}}, {"name": "fan", "arguments": {}}
TEXT = json.dumps(LAMP)
TASK = Task(checker="tool_call", metrics=["tool_name"])


def row(*calls: dict, content: str = "") -> dict:
    turn = {"role": "assistant", "content": content}
    if calls:
        turn["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return rows.make_row([{"role": "user", "content": "?"}, turn])


@pytest.mark.parametrize(
    "text, calls",
    [
        (TEXT, [LAMP]),
        (json.dumps([LAMP, FAN]), [LAMP, FAN]),
        (f"{TEXT}; {json.dumps(FAN)}", [LAMP, FAN]),
        (json.dumps({"type": "function", "function": LAMP}), [LAMP]),
        (json.dumps({"name": "lamp", "arguments": json.dumps(LAMP["arguments"])}), [LAMP]),
        (f"<tool_call>\n{TEXT}\n</tool_call>", [LAMP]),
        (f"At once.\n<tool_call>{TEXT}</tool_call>\n<tool_call>{json.dumps(FAN)}</tool_call>", [LAMP, FAN]),
        (f"<tool_call>\n{TEXT}", [LAMP]),
        (f"[TOOL_CALLS] [{TEXT}]", [LAMP]),
        ('<|python_tag|>{"name": "lamp", "parameters": {"room": "hall", "percent": 50}}', [LAMP]),
        (f"<think>call {json.dumps(FAN)}?</think>\n\n{TEXT}", [LAMP]),
        ("The lamp is on.", []),
        ("", []),
        ('{"room": "hall"}', []),
        ("[]", []),
        ("[1, 2]", []),
        (f"I would call {TEXT}", []),
        ("<tool_call>lamp</tool_call>", None),
        ("<tool_call></tool_call>", None),
        (f"<tool_call>{TEXT}</tool_call><tool_call>oops</tool_call>", None),
        ('<tool_call>{"name": "lamp"}</tool_call>', None),
        ('<tool_call>{"name": "lamp", "arguments": [1]}</tool_call>', None),
        ('<tool_call>{"name": "lamp", "arguments": "{oops"}</tool_call>', None),
        (f"[TOOL_CALLS] [{TEXT}", None),
        ("<tool_call>" + "[" * 100_000, None),
    ],
)
def test_the_calls_in_a_text(text, calls):
    assert tool_calls.read(text) == calls


@pytest.mark.parametrize(
    "given, output, right, names",
    [
        (row(LAMP), f"<tool_call>{TEXT}</tool_call>", 1, 1),
        (row(LAMP), '{"arguments": {"percent": 50.0, "room": "hall"}, "name": "lamp"}', 1, 1),
        (row(LAMP), '{"name": "lamp", "arguments": {"room": "hall", "percent": 60}}', 0, 1),
        (row(LAMP), '{"name": "lamp", "arguments": {"room": "hall"}}', 0, 1),
        (row(LAMP), json.dumps(FAN), 0, 0),
        (row(LAMP), json.dumps([LAMP, LAMP]), 0, 0),
        (row(LAMP), "The lamp is on.", 0, 0),
        (row(LAMP), "<tool_call>lamp</tool_call>", 0, 0),
        (row(LAMP, FAN), json.dumps([FAN, LAMP]), 1, 1),
        (row(LAMP, LAMP), json.dumps([LAMP, FAN]), 0, 0),
        (row(content="It is on."), "It is on already, as you can see.", 1, 1),
        (row(content="It is on."), TEXT, 0, 0),
        (row(content="It is on."), "<tool_call>lamp</tool_call>", 0, 0),
        (row(content=f"<tool_call>{TEXT}</tool_call>"), TEXT, 1, 1),  # data whose text spells calls out
    ],
)
def test_which_calls_are_right(given, output, right, names):
    assert tasks.scores(TASK, output, given) == {"task/exact": right, "task/tool_name": names}


def test_no_other_metric_judges_a_call():
    assert tasks.problem(TASK, row(LAMP)) == ""
    for task in (Task(), Task(checker="json"), Task(checker="tool_call", metrics=["rouge_l"])):
        assert "calls tools" in tasks.problem(task, row(LAMP)) and tasks.problem(Task(), row(content="on")) == ""


def test_a_template_may_write_a_call_in_its_own_way():
    call = {"name": "note", "arguments": {"text": 'é "quoted"\nline', "tags": ["a", 2, True, None]}}
    for text in (json.dumps(call), json.dumps(call, ensure_ascii=False)):
        assert tool_calls.written([call], text)
    xml = "<function=note><parameter=text>é \"quoted\"\nline</parameter><parameter=tags>['a', 2, True, None]</parameter></function>"
    assert tool_calls.written([call], xml)
    assert not tool_calls.written([call], xml.replace("quoted", "")) and not tool_calls.written([call, LAMP], xml)


QWEN = "<tool_call>\n<function={}>\n{}</function>\n</tool_call>"


def parameter(name: str, value: str) -> str:
    return f"<parameter={name}>\n{value}\n</parameter>\n"


@pytest.mark.parametrize(
    "output, right",
    [
        (QWEN.format("lamp", parameter("room", "hall") + parameter("percent", "50")), 1),
        (QWEN.format("lamp", parameter("percent", "50.0") + parameter("room", "hall")), 1),
        (QWEN.format("lamp", parameter("room", '"hall"') + parameter("percent", "50")), 0),
        (QWEN.format("lamp", parameter("room", "hall") + parameter("percent", "5")), 0),
        (QWEN.format("lamp", parameter("room", "hall")), 0),
        (QWEN.format("lamp", parameter("room", "hall") + "percent=50"), 0),
        ("<tool_call>lamp\n<arg_key>room</arg_key>\n<arg_value>hall</arg_value>\n<arg_key>percent</arg_key><arg_value>50</arg_value>\n"
         "</tool_call>", 1),
        ("<tool_call>fan\n<arg_key>room</arg_key>\n<arg_value>hall</arg_value>\n</tool_call>", 0),
    ],
)  # fmt: skip
def test_a_call_written_as_xml_means_what_the_row_says(output, right):
    assert tasks.score(TASK, output, row(LAMP)) == right


def test_an_argument_without_a_type_takes_that_of_the_row():
    arguments = {"text": "5", "number": 5, "flag": True, "none": None, "list": ["a", 1], "lines": "a\nb"}
    values = {"text": "5", "number": "5", "flag": "True", "none": "null", "list": '["a", 1]', "lines": "a\nb"}
    output = QWEN.format("note", "".join(parameter(*item) for item in values.items()))
    assert tasks.score(TASK, output, row({"name": "note", "arguments": arguments})) == 1
    for name, value in (("number", "five"), ("flag", "1"), ("none", ""), ("list", "a, 1"), ("lines", "a b")):
        wrong = QWEN.format("note", "".join(parameter(*item) for item in (values | {name: value}).items()))
        assert tasks.score(TASK, wrong, row({"name": "note", "arguments": arguments})) == 0
    assert tasks.score(TASK, QWEN.format("fan", ""), row(FAN)) == 1
