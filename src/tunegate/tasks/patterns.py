"""Compare what a pattern of the recipe finds in an answer with what it finds in the expected one.

Patterns are RE2's, which takes time linear in the text: a pattern that would backtrack for hours cannot stop an evaluation, and
unlike a time limit it gives the same result on a busy machine. RE2 has no look-around and no back-references, and its \\w, \\d
and \\b know ASCII only (\\pL is a letter of any script).
"""

from functools import cache

from tunegate import rows


def equal(task, output: str, row: dict) -> float:
    """Give 1 where the pattern finds the same in both, but for white space at either end."""
    found = capture(task.pattern, output)
    return float(found is not None and found == capture(task.pattern, rows.answer(row)))


def unfit(task, row: dict) -> str:
    return "" if capture(task.pattern, rows.answer(row)) is not None else "does not match task.pattern"


def capture(pattern: str, text: str) -> str | None:
    """Give the first group that took part in the pattern's first match, or the whole match; None where there is no match."""
    match = compiled(pattern).search(text)
    if match is None:
        return None
    return next((group for group in match.groups() if group is not None), match.group()).strip()


@cache
def compiled(pattern: str):
    """Compile a pattern.

    Raises:
        ValueError: RE2 does not take it.
    """
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"{pattern!r} is not a regular expression of RE2 ({said}); it has no look-around and no back-references") from None
