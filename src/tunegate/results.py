"""Write and read per-item results: `items.parquet`, one line per item and metric, and `arms.json`, one entry per arm.

The gate reads nothing else. An item belongs to a split: dev and test are the task's, general is held general text, and every
suite of evaluation (tunegate.suites) is a split of its own name. Metrics are named `<what>/<measure>`: task/exact (0 or 1) and
others of tunegate.tasks on dev and test, general/nats_per_token on general, `<suite>/<measure>` on a suite.
"""

import json
from pathlib import Path

from tunegate import digests, rows
from tunegate.errors import BadInput

TEXT = (
    "arm", "split", "item_id", "cluster_id", "task_type", "source", "metric", "prompt_hash", "output", "expected", "finish_reason",
)  # fmt: skip
TASK_SPLITS = ("dev", "test")
WHOLE = ("prompt_tokens", "completion_tokens")
REAL = ("score", "latency_seconds", "first_token_seconds")  # seconds are missing where no request was timed


def item(arm: str, split: str, item_id: str, metric: str, score: float, **more) -> dict:
    """Make one line of results; what `more` does not say is empty, 0 tokens, or a missing time.

    Raises:
        TypeError: `more` names a column that there is not.
    """
    if unknown := set(more) - {*TEXT, *WHOLE, *REAL}:
        raise TypeError(f"results have no column {', '.join(sorted(unknown))}")
    empty = dict.fromkeys(TEXT, "") | dict.fromkeys(WHOLE, 0) | dict.fromkeys(REAL)
    return empty | {"arm": arm, "split": split, "item_id": item_id, "cluster_id": item_id, "metric": metric, "score": score} | more


def of_answer(arm: str, split: str, row: dict, prompt_hash: str, answer, scores: dict[str, float]) -> list[dict]:
    """Make a line of each score of a served model's answer to a row, and one that says whether the answer ended by itself.

    Args:
        answer: a tunegate.serving.Answer.
        scores: by metric, task/…; on the split of a suite they are called by the suite's name.
    """
    about = {
        "cluster_id": row["cluster"], "task_type": row["task_type"], "source": row["source"],
        "prompt_hash": prompt_hash, "output": answer.text, "expected": rows.answer(row), "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens, "latency_seconds": answer.latency_seconds,
    }  # fmt: skip
    named = "task" if split in TASK_SPLITS else split
    measured = scores | {"task/finish_stop": float(answer.finish_reason == "stop")}
    return [item(arm, split, row["id"], f"{named}/{metric.removeprefix('task/')}", score, **about) for metric, score in measured.items()]


def write_results(directory: Path, items: list[dict], arms: dict[str, dict]) -> None:
    """Write both files into `directory`, which is made."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [(name, pa.string()) for name in TEXT] + [(name, pa.int64()) for name in WHOLE] + [(name, pa.float64()) for name in REAL]
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(items, schema=pa.schema(fields)), directory / "items.parquet")
    digests.write_atomic(directory / "arms.json", json.dumps(arms, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_items(directory: Path) -> list[dict]:
    import pyarrow.parquet as pq

    path = Path(directory) / "items.parquet"
    if not path.is_file():
        raise BadInput(f"No results at {path}. Give the directory that baseline or evaluate wrote.")
    return pq.read_table(path).to_pylist()


def read_arms(directory: Path) -> dict[str, dict]:
    path = Path(directory) / "arms.json"
    if not path.is_file():
        raise BadInput(f"No results at {path}. Give the directory that baseline or evaluate wrote.")
    return json.loads(path.read_text(encoding="utf-8"))


def mean(items: list[dict], arm: str, split: str, metric: str) -> float | None:
    """Average one metric of one arm over a split; None when it was not measured."""
    scores = [item["score"] for item in items if (item["arm"], item["split"], item["metric"]) == (arm, split, metric)]
    return sum(scores) / len(scores) if scores else None
