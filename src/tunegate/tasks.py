"""Judge an answer right or wrong: three checkers, each 1.0 or 0.0.

json    equal as JSON values: key order and white space do not count, 1 equals 1.0, true does not equal 1
exact   equal but for white space at either end
label   equal but for case and white space
"""

import json

from tunegate import rows
from tunegate.errors import BadInput


def metrics_of(task) -> set[str]:
    """Name every metric that evaluation gives for an item of this task (a recipe.Task), its server's own included."""
    return {"task/exact", "task/finish_stop"}


def scores(task, output: str, row: dict) -> dict[str, float]:
    """Give every metric of the task (a recipe.Task) for one answer to one row: {"task/exact": 1.0, …}.

    Raises:
        BadInput: the expected answer itself cannot be judged by the task's checker.
    """
    return {"task/exact": score(task.checker, output, rows.answer(row))}


def score(checker: str, output: str, expected: str) -> float:
    """Give 1.0 when `output` means what `expected` means under `checker`, else 0.0.

    Raises:
        BadInput: `expected` itself cannot be judged by this checker.
    """
    if checker == "json":
        want = _read_json(expected)
        if want is None:
            raise BadInput(f"The expected answer is not JSON, though task.checker is json: {expected[:200]!r}. Mend it or use 'exact'.")
        got = _read_json(output)
        return float(got is not None and _same(got[0], want[0]))
    if checker == "exact":
        return float(output.strip() == expected.strip())
    if checker == "label":
        return float(_label(output) == _label(expected))
    raise BadInput(f"task.checker '{checker}' is not known. Use json, exact or label.")


def _read_json(text: str) -> tuple | None:
    try:
        return (json.loads(text),)
    except (ValueError, RecursionError):  # a small model may answer with thousands of brackets
        return None


def _same(a, b) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


def _label(text: str) -> str:
    return " ".join(text.casefold().split())
