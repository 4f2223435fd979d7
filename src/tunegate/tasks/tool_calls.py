"""Read tool calls from the text of an answer, and compare them with those of the row.

Read are the forms that the chat templates of common families write; arguments may be called parameters, and may be JSON in text:

    <tool_call>{"name": …, "arguments": {…}}</tool_call>, once for each call     Hermes, Qwen; or XML in it (see xml_calls)
    [TOOL_CALLS] [{"name": …, "arguments": {…}}, …]                             Mistral
    <|python_tag|>{"name": …, "parameters": {…}}                                Llama 3
    {"name": …, "arguments": {…}}, {"function": {…}}, a list of them, or several divided by ";", as the whole answer

Not covered: calls written as Python; two calls are not the same where one spells out an argument's default.
"""

import json
import re
from collections.abc import Iterator

from tunegate.tasks import json_values, xml_calls

HERMES = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)  # as in vLLM, the last may lack its end
MARKS = ("[TOOL_CALLS]", "<|python_tag|>")
BETWEEN = re.compile(r"[\s;]*")
DECODER = json.JSONDecoder(parse_constant=json_values.refuse_constant)


def equal(task, output: str, row: dict) -> float:
    """Give 1 where the answer calls the expected tools with the expected arguments, in any order, and no other.

    Where no call is expected, an answer without one is right, whatever it says; a call that cannot be read is wrong.
    """
    got, want = read(output), expected(row)
    return float(got is not None and same(got, want))


def same_names(task, output: str, row: dict) -> float:
    """Give 1 where the answer calls the expected tools, each as often as expected, whatever the arguments."""
    got, want = read(output), expected(row)
    return float(got is not None and sorted(call["name"] for call in got) == sorted(call["name"] for call in want))


def unfit(task, row: dict) -> str:
    return "" if expected(row) is not None else "holds a tool call that cannot be read"


def expected(row: dict) -> list[dict] | None:
    """Give the calls of a row's answer as {"name", "arguments"}: its tool_calls, or those that its text spells out."""
    turn = row["messages"][-1]
    return called(turn) if turn.get("tool_calls") else read(turn["content"])


def called(turn: dict) -> list[dict]:
    return [{"name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in turn["tool_calls"]]


def read(text: str) -> list[dict] | None:
    """Give the calls in the text of an answer, [] where it makes none, None where it makes one that cannot be read.

    What a model thinks before "</think>" is no part of its answer.
    """
    text = text.rpartition("</think>")[2].strip()
    mark = next((mark for mark in MARKS if mark in text), "")
    parts = HERMES.findall(text) if "<tool_call>" in text else [text.partition(mark)[2]] if mark else []
    if not parts:
        calls = _calls(text)
        return calls if calls is not None else []
    found = [_calls(part) or _xml_call(part) for part in parts]
    return None if None in found else [call for calls in found for call in calls]


def same(some: list[dict], others: list[dict]) -> bool:
    """Say whether both are the same calls, as JSON values, in any order; arguments in `some` may be untyped."""
    left = list(others)
    for call in some:
        place = next((i for i, other in enumerate(left) if _same_call(call, other)), None)
        if place is None:
            return False
        del left[place]
    return not left


def _same_call(call: dict, other: dict) -> bool:
    got, want = call["arguments"], other["arguments"]
    if call["name"] != other["name"] or got.keys() != want.keys():
        return False
    return all(
        xml_calls.means(got[key], want[key]) if isinstance(got[key], xml_calls.Untyped) else json_values.same(got[key], want[key])
        for key in got
    )


def written(calls: list[dict], text: str) -> bool:
    """Say whether a text has the name and every argument of the calls in it, in whatever form a template writes them."""
    return all(any(form in text for form in forms) for call in calls for forms in _parts(call))


def _parts(call: dict) -> Iterator[set[str]]:
    yield {call["name"]}
    for path, value in json_values.leaves(call["arguments"]).items():
        for part in (*(key for key in path if isinstance(key, str)), value):
            plain = str(part)
            yield {plain, *(json.dumps(part, ensure_ascii=escaped).strip('"') for escaped in (True, False))}


def _calls(text: str) -> list[dict] | None:
    """Read a text that is nothing but calls; None where it is not."""
    try:
        values = list(_values(text))
    except (ValueError, RecursionError):
        return None
    calls = [_call(one) for value in values for one in (value if isinstance(value, list) else [value])]
    return calls if calls and None not in calls else None


def _xml_call(text: str) -> list[dict] | None:
    call = xml_calls.read(text)
    return None if call is None else [call]


def _values(text: str) -> Iterator:
    place = BETWEEN.match(text).end()
    while place < len(text):
        value, place = DECODER.raw_decode(text, place)
        yield value
        place = BETWEEN.match(text, place).end()


def _call(value) -> dict | None:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        read_text = json_values.read(arguments)
        arguments = read_text and read_text[0]
    return {"name": function["name"], "arguments": arguments} if isinstance(arguments, dict) else None
