"""A row stage of the tests' own: it keeps, changes or drops a row by its question, and tells in which process it did."""

import os

from tunegate import rows as row_form
from tunegate.errors import BadInput


def off(config, context) -> str:
    return ""


def check(rows, config, context) -> list:
    return [_outcome(row, context) for row in rows]


def _outcome(row, context):
    question = row["messages"][0]["content"]
    if question == "who are you":
        return f"process {os.getpid()}"
    if question == "die":
        os._exit(1)
    if question == "refuse":
        raise BadInput("The toy breaks.")
    if question.endswith("0"):
        return f"ends in 0, says {context.task.system}"
    if question.endswith("5"):
        return {**row, "messages": [{"role": "user", "content": question + " \ud800é"}], "extra": {"n": [1, 2.5, None]}}
    return None


def row(question: str, answer: str = "yes") -> dict:
    return row_form.make_row([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
