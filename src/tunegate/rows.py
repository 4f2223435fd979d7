"""The row: one conversation that ends with the answer to be learned.

    {"id": sha256 of the canonical messages, "messages": [{"role", "content"}, …], "task_type": "", "source": "file"}

Curation adds "cluster": the smallest id among the rows that are near-duplicates of each other. The task's system prompt is
not stored in rows; `chat` puts it first where a row has no system turn of its own.
"""

import json
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from tunegate.digests import canonical_json, digest_json, write_atomic
from tunegate.errors import BadInput

ROLES = ("system", "user", "assistant")


def make_row(messages: list[dict], task_type: str = "", source: str = "") -> dict:
    """Give messages a stable id, and keep of each turn only role and content."""
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
    return {"id": digest_json(turns), "messages": turns, "task_type": task_type, "source": source}


def problem(messages) -> str:
    """Say what is wrong with a conversation; empty when nothing is."""
    if not isinstance(messages, list) or not messages:
        return "messages is not a list of turns"
    for number, turn in enumerate(messages, 1):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            role = turn.get("role") if isinstance(turn, dict) else None
            return f"turn {number} has the role {role!r}; known are {', '.join(ROLES)}"
        if turn.get("tool_calls"):
            return f"turn {number} has tool calls, which are not supported"
        if wrong := text_problem(turn.get("content")):
            return f"turn {number} {wrong}"
    turns = [turn["role"] for turn in messages]
    start = 1 if turns[0] == "system" else 0
    if len(turns) == start or turns[-1] != "assistant":
        return "the last turn is not the assistant's"
    for number, role in enumerate(turns[start:], start + 1):
        if role != ("user", "assistant")[(number - start - 1) % 2]:
            return f"turn {number} is {role}'s: user and assistant must alternate, after at most one system turn"
    return ""


def text_problem(text) -> str:
    """Say what keeps `text` from being trained on; empty when nothing does."""
    if not isinstance(text, str):
        return f"is not text but {type(text).__name__}"
    if not text.strip():
        return "is empty"
    if "\0" in text:
        return "contains a NUL character"
    try:
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


def answer(row: dict) -> str:
    return row["messages"][-1]["content"]


def normalise(text: str) -> str:
    """Make texts that people would call the same equal: NFC, lower case, white space collapsed."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def similarity_text(row: dict) -> str:
    """Give the text by which rows are compared: all non-system turns, normalised.

    The one definition for deduplication, clusters, the split and its check. The system prompt is left out because it is the
    same in every row and would make all rows look alike.
    """
    return "\n".join(normalise(turn["content"]) for turn in row["messages"] if turn["role"] != "system")


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


def to_lines(rows: Iterable[dict]) -> bytes:
    """Serialise rows as canonical JSON, one a line."""
    return b"".join(canonical_json(row) + b"\n" for row in rows)


def write_rows(path: Path | str, rows: Iterable[dict]) -> None:
    write_atomic(path, to_lines(rows))
