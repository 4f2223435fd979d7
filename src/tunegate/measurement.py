"""Collect per-item results and one record per arm from running servers, on behalf of baseline and evaluate."""

import json
import time
from dataclasses import astuple
from pathlib import Path

from tunegate import digests, prompts, recipe, results, rows, suites, tasks
from tunegate.answers import resume
from tunegate.errors import BadInput
from tunegate.local_file import read_field
from tunegate.serving import Answer, Progress, Server, answer_losses, chat, prompt_ids, time_answers, token_losses
from tunegate.serving.client import SAMPLING
from tunegate.store import Store


class Measurement:
    """Results so far. `of` says which server is asked next, and which model it serves."""

    def __init__(self, task: recipe.Task, settings: recipe.Evaluate, label: str, store: Store | None = None):
        self.task, self.settings, self.label, self.store = task, settings, label, store
        self.items: list[dict] = []
        self.arms: dict[str, dict] = {}

    def of(self, server: Server, model_digest: str) -> None:
        self.server, self.model_digest = server, model_digest
        self.template_sha256 = chat_template_sha256(server.model_dir)

    def ask(self, arm: str, split: str, items: list[dict], asked: list[prompts.Messages], few_shot: dict | None = None) -> None:
        """Answer and score every item; the arm's record is that of its latest split, so ask dev before test."""
        tools = prompts.tools_of(items)
        hashes = [prompts.prompt_hash(*prompt) for prompt in zip(asked, tools, strict=True)]
        answers, seconds = self._answers(f"{self.label}: {arm} on {split}", asked, tools, hashes)
        losses = self._answer_losses(f"{self.label}: {arm} on {split}", items, asked, tools, hashes) if self.task.perplexity else {}
        for row, answer, prompt_hash in zip(items, answers, hashes, strict=True):
            found = tasks.scores(self.task, answer.text, row) | losses.get(row["id"], {})
            self.items += results.of_answer(arm, split, row, prompt_hash, answer, found)
        self.arms[arm] = {
            "model_digest": self.model_digest, "engine": self.server.engine, "chat_template_sha256": self.template_sha256,
            "prompts_sha256": digests.digest_json(hashes), "sampling": {**SAMPLING, "max_tokens": self.task.max_new_tokens},
            "few_shot": few_shot, "split": split, "seconds": seconds, "items": len(items),
        }  # fmt: skip

    def _answers(self, label: str, asked: list[prompts.Messages], tools: list, hashes: list[str]) -> tuple[list[Answer], float]:
        """Give the answers, and how many seconds they took: those of earlier tries included."""
        started = [time.monotonic()]

        def work(missing, keep):
            # What lies between the results as they come adds up to the time that all of them took.
            def kept(place, answer):
                now = time.monotonic()
                keep(missing[place], [*astuple(answer), now - started[0]])
                started[0] = now

            self.server.check()  # a server that starts when it is asked first does so before the clock
            started[0] = time.monotonic()
            chat(
                self.server, [asked[number] for number in missing], self.task.max_new_tokens, self.settings.concurrency, Progress(label),
                on_result=kept, tools=[tools[number] for number in missing],
            )  # fmt: skip

        found = resume(self.store, self._about("answers", hashes) | {"max_tokens": self.task.max_new_tokens}, len(asked), work, label)
        return [Answer(*result[:-1]) for result in found], sum(result[-1] for result in found)

    def _answer_losses(self, label: str, items: list[dict], asked, tools: list, hashes: list[str]) -> dict[str, dict[str, float]]:
        """Measure the loss on the expected answer of each row that has one in text."""
        places = [place for place, row in enumerate(items) if not row["messages"][-1].get("tool_calls")]
        expected = [rows.answer(items[place]) for place in places]

        def work(missing, keep):
            chosen = [places[number] for number in missing]
            ids = prompt_ids(self.server, [asked[place] for place in chosen], tools=[tools[place] for place in chosen])
            answer_losses(
                self.server, ids, [expected[number] for number in missing], self.settings.concurrency, Progress(f"{label}, loss"),
                on_result=lambda place, nats: keep(missing[place], nats),
            )  # fmt: skip

        about = self._about("answer losses", [hashes[place] for place in places]) | {"expected": digests.digest_json(expected)}
        found = resume(self.store, about, len(places), work, f"{label}, loss")
        return {items[place]["id"]: {"task/nats_per_token": nats} for place, nats in zip(places, found, strict=True)}

    def _about(self, what: str, things: list[str]) -> dict:
        """Say all that the answers of the server now asked depend on."""
        return {
            "what": what, "model": self.model_digest, "engine": self.server.engine, "template": self.template_sha256,
            "max_model_len": self.server.max_model_len, "sampling": SAMPLING, "concurrency": self.settings.concurrency, "asked": things,
        }  # fmt: skip

    def read_general(self, arm: str) -> None:
        """Measure the loss on each held general text, where the recipe names some."""
        if not self.settings.general_text:
            return
        texts = read_field(Path(self.settings.general_text), "text")
        ids = [digests.digest_json(text) for text in texts]
        label = f"{self.label}: {arm} on general text"

        def work(missing, keep):
            token_losses(
                self.server, [texts[number] for number in missing], self.settings.general_max_tokens, self.settings.concurrency,
                Progress(label, unit="texts"), on_result=lambda place, result: keep(missing[place], list(result)),
            )  # fmt: skip

        about = self._about("losses", ids) | {"max_tokens": self.settings.general_max_tokens}
        for item_id, (nats, n_tokens) in zip(ids, resume(self.store, about, len(texts), work, label), strict=True):
            told = {"task_type": "general", "prompt_hash": item_id, "prompt_tokens": n_tokens}
            self.items.append(results.item(arm, "general", item_id, "general/nats_per_token", nats, **told))

    def ask_suites(self, arm: str) -> None:
        """Ask everything in the suites of the recipe; a suite is found again as a whole."""
        for suite in self.settings.suites:

            def work(missing, keep, suite=suite):
                keep(0, suites.measure(self.server, arm, suite, self.settings.concurrency, f"{self.label}: {arm}"))

            about = self._about("suite", []) | suites.identity(suite)
            (items,) = resume(self.store, about, 1, work, f"{self.label}: {arm} on {suite.name}")
            self.items += [item | {"arm": arm} for item in items]

    def time_first_tokens(self, arm: str, asked: list[prompts.Messages], items: list[dict]) -> None:
        """Stream some answers again, and note on the arm's test items how long their first token took."""
        tools = prompts.tools_of(items)
        chosen = sorted(range(len(items)), key=lambda i: items[i]["id"])[: self.settings.timed_requests]

        def work(missing, keep):
            time_answers(
                self.server, [asked[chosen[number]] for number in missing], self.task.max_new_tokens, self.settings.timed_concurrency,
                on_result=lambda place, seconds: keep(missing[place], seconds), tools=[tools[chosen[number]] for number in missing],
            )  # fmt: skip

        about = self._about("first tokens", [prompts.prompt_hash(asked[i], tools[i]) for i in chosen])
        about |= {"max_tokens": self.task.max_new_tokens, "at_once": self.settings.timed_concurrency}
        seconds = resume(self.store, about, len(chosen), work, f"{self.label}: {arm}, time to first token")
        waited = {items[i]["id"]: second for i, second in zip(chosen, seconds, strict=True)}
        for item in self.items:
            if (item["arm"], item["split"]) == (arm, "test"):
                item["first_token_seconds"] = waited.get(item["item_id"])

    def served_prompts(self, asked: list[prompts.Messages], items: list[dict]) -> list[tuple[str, int]]:
        """Give for each prompt the digest of the token ids that the server makes of it, and their number."""
        tools = prompts.tools_of(items)

        def work(missing, keep):
            made = prompt_ids(self.server, [asked[number] for number in missing], tools=[tools[number] for number in missing])
            for number, ids in zip(missing, made, strict=True):
                keep(number, [digests.digest_json(ids), len(ids)])

        about = self._about("prompt ids", [prompts.prompt_hash(*prompt) for prompt in zip(asked, tools, strict=True)])
        return [tuple(found) for found in resume(self.store, about, len(asked), work, f"{self.label}: prompts")]

    def mean(self, arm: str, split: str, metric: str) -> float | None:
        return results.mean(self.items, arm, split, metric)


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
