"""Ask another task's rows, to see that it is not forgotten. All arms get one prompt: the suite's own system prompt."""

from pathlib import Path

from tunegate import prompts, recipe, results, rows, tasks
from tunegate.errors import BadInput
from tunegate.serving import Progress, chat


def measures(suite: recipe.TaskSuite) -> list[str]:
    """Name what the suite measures, without its own name."""
    # The loss on the expected answers is measured on the task itself only.
    return sorted(name.removeprefix("task/") for name in tasks.metrics_of(suite.task) - {"task/nats_per_token"})


def problems(suite: recipe.TaskSuite) -> list[str]:
    return []


def measure(server, arm: str, suite: recipe.TaskSuite, concurrency: int, label: str) -> list[dict]:
    """Ask every row and score its answer as the suite's task says; give lines of results."""
    asked = read(Path(suite.rows), suite.name)
    conversations = prompts.candidate(asked, suite.task)
    answers = chat(server, conversations, suite.task.max_new_tokens, concurrency, Progress(label))
    items = []
    for row, messages, answer in zip(asked, conversations, answers, strict=True):
        about = {
            "cluster_id": row.get("cluster", row["id"]), "task_type": row.get("task_type", ""), "source": row.get("source", ""),
            "prompt_hash": prompts.prompt_hash(messages), "output": answer.text, "expected": rows.answer(row),
            "finish_reason": answer.finish_reason, "prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens,
            "latency_seconds": answer.latency_seconds,
        }  # fmt: skip
        found = tasks.scores(suite.task, answer.text, row) | {"task/finish_stop": float(answer.finish_reason == "stop")}
        for metric, score in found.items():
            items.append(results.item(arm, suite.name, row["id"], f"{suite.name}/{metric.removeprefix('task/')}", score, **about))
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
