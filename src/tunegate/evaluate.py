"""Score a served model item by item: the task's sealed test, the dev set, and the loss on held general text.

`Measurement` asks one running server on behalf of one arm or several; baseline uses it for the base model's arms.
"""

import json
import time
from pathlib import Path

from tunegate import digests, prompts, recipe, results, rows, tasks
from tunegate.errors import BadInput, Refused
from tunegate.local_file import read_field, with_local_file
from tunegate.serving import Progress, Server, chat, identify, serve, token_losses
from tunegate.serving.client import SAMPLING
from tunegate.steps import Inputs, Result


def evaluate_step(config: dict, inputs: Inputs, output: Path) -> Result:
    settings = with_local_file(recipe.Evaluate(**config["evaluate"]), "general_text", inputs.store, output)
    return evaluate(
        inputs["model"], inputs["data"], inputs["results"], output, recipe.Task(**config["task"]), settings,
        recipe.Serve(**config["serve"]), ref_digest(inputs.refs["model"]),
    )  # fmt: skip


def evaluate(
    model: Path, data: Path, baseline_results: Path, output: Path, task: recipe.Task, settings: recipe.Evaluate,
    serve_config: recipe.Serve, model_digest: str,
) -> Result:  # fmt: skip
    """Serve the merged model, score it as arm `candidate` and write `output/results`.

    Raises:
        Refused: the engine here is not the one that the baseline was measured on.
    """
    refuse_other_engine(identify(serve_config), results.read_arms(baseline_results))
    started = time.monotonic()
    with serve(model, serve_config) as server:
        measured = Measurement(server, task, settings, model_digest, "evaluate")
        for split in ("dev", "test"):
            items = read_split(data, split)
            measured.ask("candidate", split, items, prompts.candidate(items, task))
        measured.read_general("candidate")
    results.write_results(output / "results", measured.items, measured.arms)
    arm = measured.arms["candidate"]
    metrics = {
        "exact_candidate": measured.mean("candidate", "test", "task/exact"),
        "exact_dev_candidate": measured.mean("candidate", "dev", "task/exact"),
        "finish_stop_candidate": measured.mean("candidate", "test", "task/finish_stop"),
        "nats_per_token_candidate": measured.mean("candidate", "general", "general/nats_per_token"),
        "items_per_second": arm["items"] / arm["seconds"],
        "seconds_evaluate": time.monotonic() - started,
    }
    summary = {"engine": server.engine, "exact_test": metrics["exact_candidate"], "exact_dev": metrics["exact_dev_candidate"]}
    line = f"candidate {metrics['exact_candidate']:.1%} exact on {arm['items']} test items"
    return Result(summary, metrics={name: value for name, value in metrics.items() if value is not None}, line=line)


class Measurement:
    """Collect per-item results and one record per arm from a running server."""

    def __init__(self, server: Server, task: recipe.Task, settings: recipe.Evaluate, model_digest: str, label: str):
        self.server, self.task, self.settings, self.model_digest, self.label = server, task, settings, model_digest, label
        self.template_sha256 = chat_template_sha256(server.model_dir)
        self.items: list[dict] = []
        self.arms: dict[str, dict] = {}

    def ask(self, arm: str, split: str, items: list[dict], asked: list[prompts.Messages], few_shot: dict | None = None) -> None:
        """Answer and score every item; the arm's record is that of its latest split, so ask dev before test."""
        started = time.monotonic()
        progress = Progress(f"{self.label}: {arm} on {split}")
        answers = chat(self.server, asked, self.task.max_new_tokens, self.settings.concurrency, progress)
        hashes = [prompts.prompt_hash(messages) for messages in asked]
        for row, answer, prompt_hash in zip(items, answers, hashes, strict=True):
            about = {
                "cluster_id": row["cluster"], "task_type": row["task_type"], "source": row["source"], "prompt_hash": prompt_hash,
                "output": answer.text, "expected": rows.answer(row), "finish_reason": answer.finish_reason,
                "prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens,
                "latency_seconds": answer.latency_seconds,
            }  # fmt: skip
            found = tasks.scores(self.task, answer.text, row) | {"task/finish_stop": float(answer.finish_reason == "stop")}
            self.items += [results.item(arm, split, row["id"], metric, score, **about) for metric, score in found.items()]
        self.arms[arm] = {
            "model_digest": self.model_digest, "engine": self.server.engine, "chat_template_sha256": self.template_sha256,
            "prompts_sha256": digests.digest_json(hashes), "sampling": {**SAMPLING, "max_tokens": self.task.max_new_tokens},
            "few_shot": few_shot, "split": split, "seconds": time.monotonic() - started, "items": len(items),
        }  # fmt: skip

    def read_general(self, arm: str) -> None:
        """Measure the loss on each held general text, where the recipe names some."""
        if not self.settings.general_text:
            return
        texts = read_field(Path(self.settings.general_text), "text")
        progress = Progress(f"{self.label}: {arm} on general text", unit="texts")
        losses = token_losses(self.server, texts, self.settings.general_max_tokens, self.settings.concurrency, progress)
        for text, (nats, n_tokens) in zip(texts, losses, strict=True):
            item_id = digests.digest_json(text)
            about = {"task_type": "general", "prompt_hash": item_id, "prompt_tokens": n_tokens}
            self.items.append(results.item(arm, "general", item_id, "general/nats_per_token", nats, **about))

    def mean(self, arm: str, split: str, metric: str) -> float | None:
        return results.mean(self.items, arm, split, metric)


def refuse_other_engine(engine: dict, arms: dict[str, dict]) -> None:
    """Raise Refused when an arm was measured on another engine, version or dtype: the difference would be theirs too."""
    for name, arm in arms.items():
        if arm["engine"] != engine:
            raise Refused(
                f"The arm {name} was measured on {_words(arm['engine'])}, but this is {_words(engine)}. "
                "Arms on different engines are not comparable: run both on one, or run the baseline again."
            )


def _words(engine: dict) -> str:
    return f"{engine['name']} {engine['version']} in {engine['dtype']}"


def chat_template_sha256(model_dir: Path) -> str:
    """Hash the chat template that a server applies to this model.

    Raises:
        BadInput: the model has none.
    """
    own = model_dir / "chat_template.jinja"
    if own.is_file():
        return digests.sha256(own.read_bytes())
    tokenizer = model_dir / "tokenizer_config.json"
    template = json.loads(tokenizer.read_text(encoding="utf-8")).get("chat_template") if tokenizer.is_file() else None
    if not template:
        raise BadInput(f"The model in {model_dir} has no chat template. Use an instruct model, or add chat_template.jinja.")
    return digests.sha256(template.encode()) if isinstance(template, str) else digests.digest_json(template)


def read_split(data: Path, split: str) -> list[dict]:
    """Read one split that curate wrote."""
    path = Path(data) / f"{split}.jsonl"
    found = list(rows.read_rows(path))
    if not found:
        raise BadInput(f"{path} is empty. Give curate more rows, or ask for a smaller split.")
    return found


def ref_digest(ref: str) -> str:
    return ref.rpartition("/")[2]
