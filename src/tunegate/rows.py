"""The row: one conversation that ends with the answer to be learned.

    {"id": sha256 of the canonical messages, "messages": [{"role", "content"}, …], "task_type": "", "source": "file"}

Where there is more to say, a row also has "tools" (then the id covers them too), assistant turns have "tool_calls", turns
of the role tool "tool_call_id" and "name", and "group" names the document or conversation that rows share. Curation adds
"cluster": the smallest id among the rows that are near-duplicates of each other. The task's system prompt is not stored in
rows; `chat` puts it first where a row has no system turn of its own.

Beside rows there are, in TRL's conversational forms and with the same fields for the rest:

    preferences  {"prompt": [turns], "chosen": [turns], "rejected": [turns]}
    labelled     {"prompt": [turns], "completion": [turns], "label": true or false}
"""

import json
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from tunegate.digests import canonical_json, digest_json, sha256, write_atomic
from tunegate.errors import BadInput

ROLES = ("system", "user", "assistant", "tool")


def make_row(messages: list[dict], task_type: str = "", source: str = "", tools: list | None = None, group: str = "") -> dict:
    """Give messages a stable id, and keep of each turn only what is said and called."""
    turns = _kept(messages)
    covered = canonical_json({"messages": turns, "tools": tools}) if tools else _canonical(turns, turns)
    return {"id": sha256(covered), "messages": turns} | _about(task_type, source, tools, group)


def make_preference(
    prompt: list[dict], chosen: list[dict], rejected: list[dict],
    task_type: str = "", source: str = "", tools: list | None = None, group: str = "",
) -> dict:  # fmt: skip
    """Make a preference pair: two answers to one prompt, of which one is better."""
    turns = {"prompt": _kept(prompt), "chosen": _kept(chosen), "rejected": _kept(rejected)}
    return {"id": digest_json(turns | ({"tools": tools} if tools else {}))} | turns | _about(task_type, source, tools, group)


def make_labelled(
    prompt: list[dict], completion: list[dict], label: bool,
    task_type: str = "", source: str = "", tools: list | None = None, group: str = "",
) -> dict:  # fmt: skip
    """Make a labelled answer: one that is wanted, or one that is not."""
    turns = {"prompt": _kept(prompt), "completion": _kept(completion), "label": label}
    return {"id": digest_json(turns | ({"tools": tools} if tools else {}))} | turns | _about(task_type, source, tools, group)


def _kept(messages: list[dict]) -> list[dict]:
    return [_turn(turn) for turn in messages]


def _turn(turn: dict) -> dict:
    kept = {"role": turn["role"], "content": turn["content"]}
    if turn["role"] == "assistant" and turn.get("tool_calls"):
        kept["tool_calls"] = turn["tool_calls"]
    elif turn["role"] == "tool":
        kept |= {name: turn[name] for name in ("tool_call_id", "name") if turn.get(name)}
    return kept


def _about(task_type: str, source: str, tools: list | None, group: str) -> dict:
    about = {"task_type": task_type, "source": source}
    if tools:
        about["tools"] = tools
    if group:
        about["group"] = group
    return about


def problem(messages, tools: list | None = None) -> str:
    """Say what is wrong with a conversation; empty when nothing is."""
    if not isinstance(messages, list) or not messages:
        return "messages is not a list of turns"
    before, calls, ids = "", 0, set()  # the role before; how many tool calls have no result yet; the ids of those calls
    for number, turn in enumerate(messages, 1):
        role = turn.get("role") if isinstance(turn, dict) else None
        if role not in ROLES:
            return f"turn {number} has the role {role!r}; known are {', '.join(ROLES)}"
        called = turn.get("tool_calls")
        if called and (wrong := _calls_problem(role, called, tools)):
            return f"turn {number} {wrong}"
        content = turn.get("content")
        if wrong := "" if content == "" and (called or role == "tool") else text_problem(content):
            return f"turn {number} {wrong}"
        if wrong := _order_problem(before, role, calls):
            return f"turn {number} is {role}'s: {wrong}"
        if role == "tool" and ids and turn.get("tool_call_id") and turn["tool_call_id"] not in ids:
            return f"turn {number} answers the tool call {turn['tool_call_id']!r}, which is not one of those before it"
        calls = len(called) if called else calls - 1
        ids = {call["id"] for call in called if call.get("id")} if called else ids
        before = "calls" if called else role
    return "" if before in ("assistant", "calls") else "the last turn is not the assistant's"


def _order_problem(before: str, role: str, calls: int) -> str:
    if role == "tool":
        return "" if calls > 0 and before in ("calls", "tool") else "it answers no tool call"
    if before == "calls":
        return "the tool calls before it have no result"
    if role == "assistant" and before in ("user", "tool") or role == "user" and before in ("", "system", "assistant"):
        return ""
    if role == "system" and not before:
        return ""
    return "user and assistant must alternate, after at most one system turn"


def _calls_problem(role: str, calls, tools: list | None) -> str:
    if role != "assistant":
        return f"has tool calls, but is {role}'s"
    try:
        names = [call["function"]["name"] for call in calls]
        known = [tool["function"]["name"] for tool in tools or ()]
        named = all(isinstance(call["function"]["arguments"], dict) for call in calls)
    except (TypeError, KeyError):
        return "has tool calls of an unknown form; known is a list of {'function': {'name', 'arguments'}}"
    if not named:
        return "has a tool call whose arguments are not an object; `tunegate ingest` makes them one"
    return next((f"calls {name!r}, which is not among the tools of the row" for name in names if tools and name not in known), "")


def text_problem(text) -> str:
    """Say what keeps `text` from being trained on; empty when nothing does."""
    if not isinstance(text, str):
        return f"is not text but {type(text).__name__}"
    if not text or text.isspace():
        return "is empty"
    if "\0" in text:
        return "contains a NUL character"
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        return "contains bytes that are not UTF-8, or half of a surrogate pair"
    return ""


def chat(row: dict, system: str) -> list[dict]:
    """Give the prompt of a row, without its final answer; `system` goes first where the row has no system turn."""
    prompt = row["messages"][:-1]
    if system and (not prompt or prompt[0]["role"] != "system"):
        return [{"role": "system", "content": system}, *prompt]
    return list(prompt)


def tools(row: dict) -> list | None:
    """Give the tools that a row's prompt offers, as vLLM hands them to a chat template; None where there are none.

    vLLM passes on no more of a function than these keys, in this order, with null where one is missing (FunctionDefinition in its
    protocol), and a template renders them as they come: training must see the same.
    """
    return [{"type": "function", "function": _function(tool["function"])} for tool in row.get("tools") or ()] or None


def _function(function: dict) -> dict:
    strict = {"strict": function["strict"]} if function.get("strict") is not None else {}
    return {key: function.get(key) for key in ("name", "description", "parameters")} | strict


def answer(row: dict) -> str:
    return said(row["messages"][-1])


def said(turn: dict) -> str:
    """Give what a turn says, and after it the tools that it calls, as JSON: for comparing and checking, not for training."""
    if not turn.get("tool_calls"):
        return turn["content"]
    calls = canonical_json([call["function"] for call in turn["tool_calls"]]).decode()
    return f"{turn['content']}\n{calls}" if turn["content"] else calls


def normalise(text: str) -> str:
    """Make texts that people would call the same equal: NFC, lower case, white space collapsed."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def similarity_text(row: dict) -> str:
    """Give the text by which rows are compared: all non-system turns, normalised.

    The one definition for deduplication, clusters, the split and its check. The system prompt is left out because it is the
    same in every row and would make all rows look alike.
    """
    return "\n".join(normalise(said(turn)) for turn in row["messages"] if turn["role"] != "system")


def read_json_lines(path: Path | str) -> Iterator[dict]:
    """Read the JSON objects of a JSONL file.

    Raises:
        BadInput: the file is missing, or a line of it is not a JSON object.
    """
    return (found for _, found in _numbered(path))


def read_rows(path: Path | str) -> Iterator[dict]:
    """Read rows from a JSONL file.

    Raises:
        BadInput: the file is missing, or a line of it is not a row.
    """
    for number, row in _numbered(path):
        if "messages" not in row:
            raise BadInput(f"{path}:{number} is not a row: it has no `messages`. Run `tunegate ingest` on your data first.")
        yield row


def _numbered(path: Path | str) -> Iterator[tuple[int, dict]]:
    """Give the number of each line that is not blank, and the object on it."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"There is no file of rows at {path}.")
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except ValueError as error:
                raise BadInput(f"{path}:{number} is not JSON: {error}.") from None
            if not isinstance(found, dict):
                raise BadInput(f"{path}:{number} is not a JSON object.")
            yield number, found


def to_line(row: dict) -> bytes:
    """Serialise what was made here as a line of canonical JSON."""
    plain = "messages" in row and "tools" not in row
    return (_canonical(row, row["messages"]) if plain else canonical_json(row)) + b"\n"


def _canonical(value, turns: list[dict]) -> bytes:
    # orjson gives the same bytes sooner where there is only text; it writes some numbers, as arguments may be, in another way.
    for turn in turns:
        if "tool_calls" in turn:
            return canonical_json(value)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def to_lines(rows: Iterable[dict]) -> bytes:
    """Serialise rows as canonical JSON, one a line."""
    return b"".join(canonical_json(row) + b"\n" for row in rows)


def write_rows(path: Path | str, rows: Iterable[dict]) -> None:
    write_atomic(path, to_lines(rows))
