"""Drop answers that fail a deterministic check of the recipe's `curate.quality.rubric`, or that the task cannot be judged by.

A row stage (see row_stages), the last one: what was redacted before must still be judged.

Not covered: a pattern that backtracks without end; it is the recipe's own, and Python's `re` has no time limit.
"""

import re
from collections.abc import Callable

from tunegate import rows as row_form
from tunegate import tasks
from tunegate.curate.near_duplicates import jaccard
from tunegate.curate.row_stages import Context, Outcome
from tunegate.recipe import Curate, Rubric, Task
from tunegate.tasks import json_values

ECHO_CHARACTERS = 50  # a shorter answer may well be words of its question: a name, a label; arbitrary

Check = Callable[[dict, str], bool]  # is this answer of this row bad?


def off(config: Curate, context: Context) -> str:
    return ""


def check(rows: list[dict], config: Curate, context: Context) -> list[Outcome]:
    """Give each row the reason of the first check that it fails."""
    checks = _checks(config.quality.rubric, context.task)
    return [_first_failure(row, checks) or tasks.problem(context.task, row) or None for row in rows]


def _first_failure(row: dict, checks: list[tuple[str, Check]]) -> Outcome:
    answer = row_form.answer(row)
    return next((reason for reason, fails in checks if fails(row, answer)), None)


def _checks(rubric: Rubric, task: Task) -> list[tuple[str, Check]]:
    """List the checks that are set, each with its reason; only the last one looks at more than the answer."""
    found: list[tuple[str, Check]] = []
    shortest, longest = rubric.min_answer_characters, rubric.max_answer_characters
    found.append((f"answer shorter than {shortest:,} characters", lambda row, answer: len(answer.strip()) < shortest))
    if longest is not None:
        found.append((f"answer longer than {longest:,} characters", lambda row, answer: len(answer) > longest))
    if rubric.answers:
        known = {tasks.stands_for(task, answer) for answer in rubric.answers}
        found.append(("answer is none of rubric.answers", lambda row, answer: tasks.stands_for(task, answer) not in known))
    if rubric.json_answer:
        found.append(("answer is not JSON", lambda row, answer: json_values.read(answer) is None))
    if rubric.answer_pattern is not None:
        whole = re.compile(rubric.answer_pattern)
        found.append(("answer does not match rubric.answer_pattern", lambda row, answer: not whole.fullmatch(answer.strip())))
    for pattern in rubric.forbid:
        found.append((f"answer contains what rubric.forbid names: {pattern}", _contains(re.compile(pattern))))
    if rubric.max_echo_share < 1:
        found.append(("answer repeats its question", lambda row, answer: _echo_share(row, answer) > rubric.max_echo_share))
    return found


def _contains(forbidden: re.Pattern) -> Check:
    return lambda row, answer: forbidden.search(answer) is not None


def _echo_share(row: dict, answer: str) -> float:
    """Give the Jaccard similarity of the answer and its last question.

    Not the share of the answer that stands in the question: that is 1 for every passage rightly quoted from a long text.
    """
    answer = row_form.normalise(answer)
    if len(answer) < ECHO_CHARACTERS:
        return 0.0
    question = next(turn["content"] for turn in reversed(row["messages"][:-1]) if turn["role"] == "user")
    return jaccard(answer, row_form.normalise(question))
