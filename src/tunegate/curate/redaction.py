"""Replace parts of a row's turns, and make its id again."""

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


def with_contents(row: dict, contents: list[str]) -> dict:
    """Give the row with other contents of its turns, under the id that belongs to them; its other keys stay."""
    messages = [{**turn, "content": content} for turn, content in zip(row["messages"], contents, strict=True)]
    return {**row, "messages": messages, "id": rows.make_row(messages)["id"]}
