"""Ask another task's rows, to see that it is not forgotten. All arms get one prompt: the suite's own system prompt."""

from pathlib import Path

from tunegate import prompts, recipe, results, rows, tasks
from tunegate.errors import BadInput
from tunegate.serving import Progress, chat
from tunegate.suites.files import is_address


def measures(suite: recipe.TaskSuite) -> list[str]:
    """Name what the suite measures, without its own name."""
    # The loss on the expected answers is measured on the task itself only.
    return sorted(name.removeprefix("task/") for name in tasks.metrics_of(suite.task) - {"task/nats_per_token"})


def problems(suite: recipe.TaskSuite) -> list[str]:
    """Say what keeps the rows from being asked and judged, where their file is here."""
    if is_address(suite.rows):
        return []
    try:
        found = read(Path(suite.rows), suite.name)
    except BadInput as error:
        return [str(error)]
    wrong = ((row, tasks.problem(suite.task, row)) for row in found)
    return next(([f"Row {row['id'][:12]} of suite '{suite.name}' cannot be judged: {why}."] for row, why in wrong if why), [])


def measure(server, arm: str, suite: recipe.TaskSuite, concurrency: int, label: str) -> list[dict]:
    """Ask every row and score its answer as the suite's task says; give lines of results."""
    asked = read(Path(suite.rows), suite.name)
    conversations, tools = prompts.candidate(asked, suite.task), prompts.tools_of(asked)
    answers = chat(server, conversations, suite.task.max_new_tokens, concurrency, Progress(label), tools=tools)
    items = []
    for row, messages, offered, answer in zip(asked, conversations, tools, answers, strict=True):
        prompt_hash, found = prompts.prompt_hash(messages, offered), tasks.scores(suite.task, answer.text, row)
        whole = {"cluster": row["id"], "task_type": "", "source": ""} | row  # a suite's rows need not come from curation
        items += results.of_answer(arm, suite.name, whole, prompt_hash, answer, found)
    return items


def read(path: Path, name: str) -> list[dict]:
    """Read a suite's rows: those that curation wrote, or plain {"messages": …}, which get their ids here.

    Raises:
        BadInput: a line is no row, or there is none.
    """
    found = {}
    for number, line in enumerate(rows.read_rows(path), 1):
        if wrong := rows.problem(line["messages"], line.get("tools")):
            raise BadInput(f"{path}: row {number} of suite '{name}' cannot be asked: {wrong}. Correct or remove it.")
        row = (
            line if "id" in line else rows.make_row(line["messages"], line.get("task_type", ""), line.get("source", ""), line.get("tools"))
        )
        found.setdefault(row["id"], row)  # a row that is there twice is asked once
    if not found:
        raise BadInput(f"{path} has no rows for suite '{name}'. Give it some, or remove the suite.")
    return list(found.values())
