"""Judge one answer to one row. `task.checker` decides right or wrong, `task.metrics` say more; docs/tasks.md has the table.

Every metric is between 0 and 1, the more the better, and is named task/<name>; what the checker decides is task/exact.
"""

from tunegate.errors import BadInput
from tunegate.tasks import json_values, numbers, patterns, schemas, text, tool_calls

CHECKERS = {
    "exact": text.exact, "label": text.label, "json": json_values.equal, "numeric": numbers.equal, "regex": patterns.equal,
    "json_schema": schemas.satisfies, "tool_call": tool_calls.equal,
}  # fmt: skip
METRICS = CHECKERS | {
    "exact_text": text.exact, "rouge_l": text.rouge_l, "chrf": text.chrf, "bleu": text.bleu, "json_valid": json_values.valid,
    "json_fields": json_values.fields, "tool_name": tool_calls.same_names,
}  # fmt: skip
# What is wrong with an expected answer, where a metric needs one of a certain form.
UNFIT = {
    "json": json_values.unfit, "json_fields": json_values.unfit, "numeric": numbers.unfit, "regex": patterns.unfit,
    "json_schema": schemas.unfit, "tool_call": tool_calls.unfit, "tool_name": tool_calls.unfit,
}  # fmt: skip
OF_CALLS = ("tool_call", "tool_name")  # the metrics that can judge an answer that calls tools


def metrics_of(task) -> set[str]:
    """Name every metric that evaluation gives for an item of this task (a recipe.Task), its server's own included."""
    measured = ["finish_stop"] + (["nats_per_token"] if task.perplexity else [])
    return {"task/exact", *(f"task/{name}" for name in [*task.metrics, *measured])}


def scores(task, output: str, row: dict) -> dict[str, float]:
    """Give every metric that the task takes from the text of one answer to one row: {"task/exact": 1.0, …}.

    Raises:
        BadInput: the expected answer itself cannot be judged; curation drops such rows.
    """
    found = {"task/exact": score(task, output, row)}
    return found | {f"task/{name}": METRICS[name](task, output, row) for name in task.metrics}


def score(task, output: str, row: dict) -> float:
    """Give 1.0 where the task's checker calls `output` right, else 0.0.

    Raises:
        BadInput: see `scores`.
    """
    if wrong := problem(task, row):
        raise BadInput(f"Row {row['id'][:12]} cannot be judged: {wrong}. Correct the row, or change task.checker or task.metrics.")
    return CHECKERS[task.checker](task, output, row)


def problem(task, row: dict) -> str:
    """Say why the expected answer of a row cannot be judged by the task's checker and metrics; empty when it can."""
    calls = bool(row["messages"][-1].get("tool_calls"))
    for name in (task.checker, *task.metrics):
        if calls and name not in OF_CALLS:
            return f"the expected answer calls tools, which {name} does not judge; tool_call does"
        if name in UNFIT and (wrong := UNFIT[name](task, row)):
            return f"the expected answer {wrong}, as {name} needs it"
    return ""


def stands_for(task, answer: str) -> str:
    """Bring the text of an answer into the form in which the checker compares it, where it compares text as such."""
    return text.as_label(answer) if task.checker == "label" else answer.strip()
