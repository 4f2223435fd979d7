"""Recognise the usual forms of instruction data, and turn a record of any of them into turns.

    chat          {"messages": [{"role", "content", "tool_calls"?}, …]}
    sharegpt      {"conversations": [{"from", "value"}, …]}, with function_call and observation for tools
    prompt        {"prompt", "completion"}, as text or, as in TRL, as lists of messages
    alpaca        {"instruction", "input", "output"}
    question      {"question", "answer"}

    labelled …    any of these with "label" (as in TRL) or "kto_tag" (as in LLaMA-Factory): true or false
    preference    {"chosen", "rejected"}, as text, turn or list of turns, and a prompt in any of the ways above
    implicit preference   {"chosen", "rejected"}, where each is the whole conversation: what they share is the prompt

Each may have "system" (text), "tools", "task_type", and the names of what it comes from: "document", "document_id",
"source_document", else "conversation_id", "conversation". Rows that come from the same become one group.
"""

import difflib
from typing import NamedTuple

from tunegate import rows
from tunegate.digests import sha256
from tunegate.errors import BadInput
from tunegate.ingest.tools import normal_calls, normal_tools

PAIRS = {"prompt": ("prompt", "completion"), "alpaca": ("instruction", "output"), "question": ("question", "answer")}
GROUPS = {"document": "document", "document_id": "document", "source_document": "document", "conversation_id": "conversation",
          "conversation": "conversation"}  # fmt: skip
LABELS = ("label", "kto_tag")
BESIDE = ("input", "system", "task_type", "tools", *LABELS, *GROUPS)
MORE = frozenset(("task_type", "tools", *LABELS, *GROUPS))  # most records have none of it
FIELDS = ("messages", "conversations", "chosen", "rejected", *(field for pair in PAIRS.values() for field in pair), *BESIDE)
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "system": "system", "function_call": "assistant", "observation": "tool", "tool": "tool",
}  # fmt: skip
NAMED_LABELS = {"true": True, "1": True, "false": False, "0": False}  # of a column that the recipe calls the label
LONGEST_GROUP = 200  # characters; a longer one is the document itself, and its digest is enough


class Wrong(Exception):
    """A record is of no known form; the text says why."""


class Recognised(NamedTuple):
    schema: str = ""
    kind: str = ""  # rows, labelled or preferences
    row: dict | None = None
    fault: str = ""


def refuse_unknown_columns(columns: dict[str, str]) -> None:
    """Refuse a mapping from a field that no schema has."""
    for ours in columns:
        if ours not in FIELDS:
            nearest = difflib.get_close_matches(ours, FIELDS, n=1)
            hint = f"Did you mean '{nearest[0]}'?" if nearest else f"Known: {', '.join(FIELDS)}."
            raise BadInput(f"data.columns maps '{ours}', which is no field of a row. {hint}")


def recognise(record, columns: dict[str, str], source: str) -> Recognised:
    """Make a row, a labelled answer or a preference pair of a record, or say what is wrong with it."""
    if not isinstance(record, dict):
        return Recognised(fault=f"not an object with fields but {type(record).__name__}")
    known = record
    if columns and (fields := {ours: record[theirs] for ours, theirs in columns.items() if record.get(theirs) not in (None, "")}):
        # A mapped prompt, answer or conversation hides what else the record holds, but for what may stand beside it.
        hides = any(name not in BESIDE for name in fields)
        known = ({name: record[name] for name in BESIDE if name in record} if hides else record) | fields
    try:
        about = {"source": source}
        if not MORE.isdisjoint(known):
            about |= {"task_type": _task_type(known), "tools": _tools(known), "group": _group(known)}
        if known.get("chosen") is not None and known.get("rejected") is not None:
            return _preference(known, about)
        schema, messages, answers = _conversation(known)
        label = None if MORE.isdisjoint(known) else _label(known, columns)
        _refuse(messages, about.get("tools"))
    except Wrong as wrong:
        return Recognised(fault=str(wrong))
    if label is None:
        return Recognised(schema, "rows", rows.make_row(messages, **about))
    cut = len(messages) - answers
    return Recognised(f"labelled {schema}", "labelled", rows.make_labelled(messages[:cut], messages[cut:], label, **about))


def _conversation(known: dict) -> tuple[str, list, int]:
    """Give the schema, all turns, and how many of the last are the answer."""
    if known.get("messages") is not None:
        return "chat", _with_system(known, _normal(known["messages"])), 1
    if known.get("conversations") is not None:
        return "sharegpt", _with_system(known, _sharegpt(known["conversations"])), 1
    schema = next((schema for schema, pair in PAIRS.items() if pair[0] in known and pair[1] in known), None)
    if schema is None:
        names = ", ".join(sorted(str(name) for name in known)[:8]) or "none"
        raise Wrong(f"no known form: its fields are {names}")
    question, answer = PAIRS[schema]
    asked, answered = known[question], known[answer]
    if isinstance(asked, list) and isinstance(answered, list) and answered:
        return schema, _with_system(known, _normal(asked + answered)), len(answered)
    turns = _asked(known, question)
    _refuse_text(answer, answered)
    return schema, _with_system(known, [*turns, {"role": "assistant", "content": answered}]), 1


def _asked(known: dict, question: str) -> list[dict]:
    """Give the user's turn of a question in text, with Alpaca's input below it."""
    _refuse_text(question, known[question])
    content = known[question]
    if question == "instruction" and known.get("input"):
        _refuse_text("input", known["input"])
        content = f"{content}\n\n{known['input']}"
    return [{"role": "user", "content": content}]


def _preference(known: dict, about: dict) -> Recognised:
    chosen, rejected = (_answer(name, known[name]) for name in ("chosen", "rejected"))
    schema = "preference"
    if all(turns[0].get("role") in ("system", "user") for turns in (chosen, rejected)):
        schema, shared = "implicit preference", 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    else:
        prompt = _prompt(known)
    prompt = _with_system(known, prompt)
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[0].get("role") != "assistant":
            raise Wrong(f"{name} does not begin with the assistant's turn where it parts from the prompt")
        _refuse(prompt + turns, about.get("tools"), f"{name}: ")
    return Recognised(schema, "preferences", rows.make_preference(prompt, chosen, rejected, **about))


def _answer(name: str, value) -> list[dict]:
    if isinstance(value, str):
        _refuse_text(name, value)
        return [{"role": "assistant", "content": value}]
    turns = [value] if isinstance(value, dict) else value
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise Wrong(f"{name} is neither text nor turns but {type(value).__name__}")
    return _sharegpt(turns) if "from" in turns[0] else _normal(turns)


def _prompt(known: dict) -> list[dict]:
    if isinstance(known.get("prompt"), list):
        return _normal(known["prompt"])
    for name in ("prompt", "instruction", "question"):
        if known.get(name) is not None:
            return _asked(known, name)
    if known.get("conversations") is not None:
        return _sharegpt(known["conversations"])
    if known.get("messages") is not None:
        return _normal(known["messages"])
    raise Wrong("chosen and rejected are answers without a prompt; name its column as `prompt` in data.columns")


def _sharegpt(turns) -> list[dict]:
    if not isinstance(turns, list):
        raise Wrong("conversations is not a list of turns")
    messages = []
    for number, turn in enumerate(turns, 1):
        speaker = turn.get("from") if isinstance(turn, dict) else None
        if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
            raise Wrong(f"turn {number} is from {speaker!r}; known are {', '.join(SHAREGPT_ROLES)}")
        if speaker == "function_call":
            messages.append({"role": "assistant", "content": "", "tool_calls": turn.get("value")})
        else:
            messages.append({"role": SHAREGPT_ROLES[speaker], "content": turn.get("value")})
    return _normal(messages)


def _normal(messages) -> list:
    """Bring the tool calls in messages into their one form; all else is checked later."""
    if not isinstance(messages, list):
        raise Wrong("messages is not a list of turns")
    made = messages
    for place, turn in enumerate(messages):
        if isinstance(turn, dict) and turn.get("tool_calls"):
            calls, fault = normal_calls(turn["tool_calls"])
            if fault:
                raise Wrong(f"turn {place + 1} {fault}")
            made = list(messages) if made is messages else made
            made[place] = turn | {"tool_calls": calls, "content": "" if turn.get("content") is None else turn["content"]}
        elif isinstance(turn, dict) and turn.get("role") == "tool":
            for name in ("tool_call_id", "name"):
                if turn.get(name) and (wrong := rows.text_problem(turn[name])):
                    raise Wrong(f"turn {place + 1} has a {name} that {wrong}")
    return made


def _with_system(known: dict, messages: list) -> list:
    system = known.get("system")
    if not system or any(turn.get("role") == "system" for turn in messages if isinstance(turn, dict)):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _task_type(known: dict) -> str:
    task_type = known.get("task_type") or ""
    if task_type:
        _refuse_text("task_type", task_type)
    return task_type


def _tools(known: dict) -> list | None:
    if not known.get("tools"):
        return None
    tools, fault = normal_tools(known["tools"])
    if fault:
        raise Wrong(fault)
    return tools


def _group(known: dict) -> str:
    for name, kind in GROUPS.items():
        value = known.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            text = str(value)
            _refuse_text(name, text)
            return f"{kind}:{text if len(text) <= LONGEST_GROUP else sha256(text.encode())}"
    return ""


def _label(known: dict, columns: dict[str, str]) -> bool | None:
    """Give the label of an answer; a `label` that is not true or false may be anything's, unless the recipe names its column."""
    for name in LABELS:
        value = known.get(name)
        if isinstance(value, bool):
            return value
        if name in columns and value is not None:
            if str(value).strip().lower() not in NAMED_LABELS:
                raise Wrong(f"{name} is neither true nor false but {value!r}")
            return NAMED_LABELS[str(value).strip().lower()]
    return None


def _refuse(messages: list, tools: list | None, where: str = "") -> None:
    if wrong := rows.problem(messages, tools):
        raise Wrong(f"{where}{wrong}")


def _refuse_text(name: str, text) -> None:
    if wrong := rows.text_problem(text):
        raise Wrong(f"{name} {wrong}")
