"""Bring tools and the calls of them into the one form that the chat templates of transformers render.

    tools       [{"type": "function", "function": {"name", "description", "parameters"}}, …]
    tool_calls  [{"type": "function", "function": {"name", "arguments": {…}}, "id"?}, …]

OpenAI writes arguments as JSON text, LLaMA-Factory and many data sets write all of it as text; both are read.
"""

from tunegate.digests import canonical_json
from tunegate.ingest.decode import decode


def normal_tools(tools) -> tuple[list | None, str]:
    """Give the tools of a row in their form, and what is wrong with them (empty: nothing)."""
    tools, fault = _parsed(tools)
    if fault:
        return None, f"tools is text that is {fault}"
    if not tools:
        return None, ""
    if not isinstance(tools, list):
        return None, f"tools is not a list but {type(tools).__name__}"
    made = []
    for number, tool in enumerate(tools, 1):
        function = _function(tool)
        if function is None:
            return None, f"tool {number} has no name"
        made.append({"type": "function", "function": function})
    wrong = _problem(made)
    return (None, f"tools {wrong}") if wrong else (made, "")


def normal_calls(calls) -> tuple[list, str]:
    """Give the tool calls of a turn in their form, and what is wrong with them (empty: nothing)."""
    calls, fault = _parsed(calls)
    if fault:
        return [], f"has tool calls in text that is {fault}"
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not calls:
        return [], f"has tool calls that are not a list but {type(calls).__name__}"
    made = []
    for call in calls:
        function = _function(call)
        if function is None:
            return [], "calls a tool without a name"
        arguments, fault = _parsed(function.get("arguments"))
        if fault:
            return [], f"calls {function['name']!r} with arguments in text that is {fault}"
        if arguments is not None and not isinstance(arguments, dict):
            return [], f"calls {function['name']!r} with arguments that are not named but {type(arguments).__name__}"
        kept = {"type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}
        made.append(kept | ({"id": call["id"]} if isinstance(call.get("id"), str) else {}))
    wrong = _problem(made)
    return ([], f"has a tool call that {wrong}") if wrong else (made, "")


def _function(tool) -> dict | None:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    return function if isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"].strip() else None


def _parsed(value) -> tuple[object, str]:
    if not isinstance(value, str):
        return value, ""
    try:
        return decode(value.encode(), exact=True) if value.strip() else (None, "")
    except UnicodeEncodeError:
        return None, "not UTF-8"


def _problem(value) -> str:
    """Say why a value cannot be written as JSON and trained on; empty when it can."""
    try:
        canonical_json(value)
    except RecursionError:
        return "is nested too deep"
    except (TypeError, ValueError):
        return "holds half of a surrogate pair, or what JSON has no word for"
    return "contains a NUL character" if _has_nul(value) else ""


def _has_nul(value) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(inner) for key, inner in value.items())
    return isinstance(value, list) and any(_has_nul(inner) for inner in value)
