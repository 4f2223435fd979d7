"""Find the texts of a row's turns, replace parts of them, and make its id again.

Not covered: the definitions of tools, and the names of arguments.
"""

from collections.abc import Callable, Iterator

from tunegate import rows

Span = tuple[int, int, str]  # from, to, and the name to put there


def replace(text: str, spans: list[Span]) -> str:
    """Put [NAME] in the place of each span; of spans that overlap, the first counts, and of those that begin together the longest."""
    parts, end = [], 0
    for start, stop, name in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= end:
            parts += [text[end:start], f"[{name}]"]
            end = stop
    return "".join(parts) + text[end:]


def texts(turn: dict) -> Iterator[str]:
    """Give what a turn says, and every text among the arguments of the tools that it calls."""
    yield turn["content"]
    for call in turn.get("tool_calls", ()):
        yield from strings(call["function"]["arguments"])


def strings(value) -> Iterator[str]:
    """Give every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def with_texts(row: dict, change: Callable[[str], str], roles: tuple[str, ...] = rows.ROLES) -> dict:
    """Give the row with other texts of the turns of these roles, under the id that belongs to them; its other keys stay."""
    messages = [_changed(turn, change) if turn["role"] in roles else turn for turn in row["messages"]]
    return {**row, "messages": messages, "id": rows.make_row(messages)["id"]}


def _changed(turn: dict, change: Callable[[str], str]) -> dict:
    changed = {**turn, "content": change(turn["content"])}
    if turn.get("tool_calls"):
        changed["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _change_strings(call["function"]["arguments"], change)}}
            for call in turn["tool_calls"]
        ]
    return changed


def _change_strings(value, change: Callable[[str], str]):
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _change_strings(inner, change) for key, inner in value.items()}
    return [_change_strings(inner, change) for inner in value] if isinstance(value, list) else value
