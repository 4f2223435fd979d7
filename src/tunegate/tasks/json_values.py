"""Compare answers as JSON values: key order and white space do not count, 1 equals 1.0, true does not equal 1."""

import json

from tunegate import rows

Path = tuple[str | int, ...]


def equal(task, output: str, row: dict) -> float:
    """Give 1 where both are the same JSON value."""
    got = read(output)
    return float(got is not None and same(got[0], read(rows.answer(row))[0]))


def valid(task, output: str, row: dict) -> float:
    """Give 1 where the whole answer is JSON, whatever it says."""
    return float(read(output) is not None)


def fields(task, output: str, row: dict) -> float:
    """Give the share of leaves that are equal, of those that the expected answer or the answer has; 0 where it is not JSON.

    It is 1 only where the two are the same value: a field that was not asked for counts against an answer.
    """
    got = read(output)
    if got is None:
        return 0.0
    theirs, ours = leaves(got[0]), leaves(read(rows.answer(row))[0])
    right = sum(path in theirs and same(theirs[path], value) for path, value in ours.items())
    return right / len(theirs.keys() | ours.keys())


def unfit(task, row: dict) -> str:
    return "" if read(rows.answer(row)) is not None else "is not JSON"


def read(text: str) -> tuple | None:
    """Read a text that is one JSON value and give it, alone in a tuple; None where it is none (NaN is Python's, not JSON's)."""
    try:
        return (json.loads(text, parse_constant=refuse_constant),)
    except (ValueError, RecursionError):  # a small model may answer with thousands of brackets
        return None


def refuse_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def same(a, b) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def leaves(value) -> dict[Path, object]:
    """Give each leaf by the keys and list places that lead to it: numbers, texts, true, false, null, {} and []."""
    found: dict[Path, object] = {}
    waiting: list[tuple[Path, object]] = [((), value)]
    while waiting:  # not recursive: an answer may be nested as deep as json reads
        path, value = waiting.pop()
        if isinstance(value, dict) and value:
            waiting += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list) and value:
            waiting += [((*path, place), inner) for place, inner in enumerate(value)]
        else:
            found[path] = value
    return found
