"""Recognise the usual forms of instruction data, and turn a record of any of them into messages.

    chat          {"messages": [{"role", "content"}, …]}
    sharegpt      {"conversations": [{"from", "value"}, …]}
    prompt        {"prompt", "completion"}, as text or, as in TRL, as lists of messages
    alpaca        {"instruction", "input", "output"}
    question      {"question", "answer"}

Each may have "system" (text) and "task_type".
"""

import difflib

from tunegate import rows
from tunegate.errors import BadInput

PAIRS = {"prompt": ("prompt", "completion"), "alpaca": ("instruction", "output"), "question": ("question", "answer")}
FIELDS = ("messages", "conversations", *(field for pair in PAIRS.values() for field in pair), "input", "system", "task_type")
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "system": "system",
}  # fmt: skip
Recognised = tuple[list | None, str, str, str]


def refuse_unknown_columns(columns: dict[str, str]) -> None:
    """Refuse a mapping from a field that no schema has."""
    for ours in columns:
        if ours not in FIELDS:
            nearest = difflib.get_close_matches(ours, FIELDS, n=1)
            hint = f"Did you mean '{nearest[0]}'?" if nearest else f"Known: {', '.join(FIELDS)}."
            raise BadInput(f"data.columns maps '{ours}', which is no field of a row. {hint}")


def recognise(record, columns: dict[str, str]) -> Recognised:
    """Give messages, task type, the name of the schema, and what is wrong (empty: nothing found so far)."""
    if not isinstance(record, dict):
        return None, "", "", f"not an object with fields but {type(record).__name__}"
    fields = {ours: record[theirs] for ours, theirs in columns.items() if record.get(theirs) not in (None, "")}
    # A mapped field hides what else the record holds, but for what may stand beside it.
    known = (record if not fields else {name: record[name] for name in ("input", "system", "task_type") if name in record}) | fields
    task_type = known.get("task_type") or ""
    if not isinstance(task_type, str):
        return None, "", "", f"task_type is not text but {type(task_type).__name__}"
    if task_type and (wrong := rows.text_problem(task_type)):
        return None, "", "", f"task_type {wrong}"
    messages, schema, fault = _messages(known)
    if known.get("system") and isinstance(messages, list) and not any(t.get("role") == "system" for t in messages if isinstance(t, dict)):
        messages = [{"role": "system", "content": known["system"]}, *messages]
    return messages, task_type, schema, fault


def _messages(known: dict) -> tuple[list | None, str, str]:
    if known.get("messages") is not None:
        return known["messages"], "chat", ""
    if known.get("conversations") is not None:
        return _sharegpt(known["conversations"])
    for schema, (question, answer) in PAIRS.items():
        if question in known and answer in known:
            return _pair(known, schema, question, answer)
    names = ", ".join(sorted(str(name) for name in known)[:8]) or "none"
    return None, "", f"no known form: its fields are {names}"


def _pair(known: dict, schema: str, question: str, answer: str) -> tuple[list | None, str, str]:
    asked, answered = known[question], known[answer]
    if isinstance(asked, list) and isinstance(answered, list):
        return asked + answered, schema, ""
    for name in (question, answer):
        if wrong := rows.text_problem(known[name]):
            return None, schema, f"{name} {wrong}"
    if schema == "alpaca" and known.get("input"):
        if wrong := rows.text_problem(known["input"]):
            return None, schema, f"input {wrong}"
        asked = f"{asked}\n\n{known['input']}"
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}], schema, ""


def _sharegpt(turns) -> tuple[list | None, str, str]:
    if not isinstance(turns, list):
        return None, "sharegpt", "conversations is not a list of turns"
    messages = []
    for number, turn in enumerate(turns, 1):
        speaker = turn.get("from") if isinstance(turn, dict) else None
        if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
            return None, "sharegpt", f"turn {number} is from {speaker!r}; known are {', '.join(SHAREGPT_ROLES)}"
        messages.append({"role": SHAREGPT_ROLES[speaker], "content": turn.get("value")})
    return messages, "sharegpt", ""
