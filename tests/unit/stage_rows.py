"""Rows for the tests of the stages that look at one row at a time."""

from tunegate import rows
from tunegate.curate.row_stages import Context
from tunegate.recipe import Curate, Task

CONTEXT = Context(Task(max_length=64))


def row(question: str, answer: str, system: str = "", **keys) -> dict:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {**rows.make_row(([{"role": "system", "content": system}] if system else []) + turns), **keys}


def outcomes(stage, answers: list[str], config: Curate = Curate(), context: Context = CONTEXT) -> list:  # noqa: B008 (frozen)
    """Give a stage's outcome for each answer to an ordinary question."""
    return stage.check([row("Can you help me with this?", answer) for answer in answers], config, context)
