"""Measure what fine-tuning must beat: the base model zero-shot, and with the better of the few-shot prompts.

The few-shot prompt is chosen on dev; the sealed test is asked once, and only when training is worth it. In the same session
the base model answers general prompts and continues general texts: replayed in training, its own words hold it back from
forgetting (endogenous replay).
"""

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tunegate import digests, prompts, recipe, results, rows
from tunegate.errors import BadInput
from tunegate.evaluate import local_settings, read_split, ref_digest
from tunegate.gate.policy import Policy
from tunegate.local_file import read_field, read_texts, with_local_file
from tunegate.measurement import Measurement
from tunegate.serving import Progress, chat, continue_texts, count_tokens, serve_when_asked
from tunegate.steps import Inputs, Result, say
from tunegate.store import Store

REPLAY_MAX_NEW_TOKENS = 96
REPLAY_SAMPLING = {"temperature": 1.0, "top_p": 1.0, "seed": 0}
ZERO_SHOT, FEW_SHOT = "base_zero_shot", "base_few_shot"
# An end of sentence, closing quotes and brackets included; the full stop of a list number ("2.") is none.
SENTENCE_END = re.compile(r"(?<!\d)[.!?][\"')\]”’]*(?=\s|$)")


def baseline_step(config: dict, inputs: Inputs, output: Path) -> Result:
    settings = recipe.Baseline(**config["baseline"])
    for key in ("replay_data", "replay_prompts"):
        settings = with_local_file(settings, key, inputs.store, output)
    return baseline(
        inputs["base"], inputs["data"], output, settings,
        recipe.Task(**config["task"]),
        local_settings(config, inputs.store, output),
        recipe.Serve(**config["serve"]), Policy.model_validate(config["policy"]), ref_digest(inputs.refs["base"]), inputs.store,
    )  # fmt: skip


def baseline(
    base: Path, data: Path, output: Path, settings: recipe.Baseline, task: recipe.Task, evaluate: recipe.Evaluate,
    serve_config: recipe.Serve, policy: Policy, model_digest: str, store: Store | None = None,
) -> Result:  # fmt: skip
    """Serve the base model once for all its arms; write `output/results` and `output/replay`.

    `store` keeps the answers as they come. `summary["worth_training"]` is False where prompting alone reaches what the policy
    asks; test is not asked then.
    """
    from tunegate.gate.worth import worth_training

    started = time.monotonic()
    train, dev = read_split(data, "train"), read_split(data, "dev")
    replay: list[dict] = []
    measured = Measurement(task, evaluate, "baseline", store)
    with serve_when_asked(base, serve_config) as server:
        measured.of(server, model_digest)
        measured.ask(ZERO_SHOT, "dev", dev, prompts.zero_shot(dev, task))
        variants = _try_few_shot(measured, settings, dev, train)
        chosen = _best_on_dev(measured, variants)
        worth, reasons = worth_training(policy, measured.items)
        if worth:
            test = read_split(data, "test")
            measured.ask(ZERO_SHOT, "test", test, prompts.zero_shot(test, task))
            _ask_few_shot(measured, FEW_SHOT, "test", test, train, variants[chosen])
            measured.read_general(ZERO_SHOT)
            measured.ask_suites(ZERO_SHOT)
            if settings.replay_data:
                replay = given_replay(Path(settings.replay_data), evaluate.general_text)
            elif settings.replay_prompts:
                replay = _replay(server, Path(settings.replay_prompts), evaluate.concurrency)
    results.write_results(output / "results", measured.items, measured.arms)
    rows.write_rows(output / "replay" / "replay.jsonl", replay)
    return _result(measured, variants, chosen, worth, reasons, len(replay), time.monotonic() - started)


@dataclass(frozen=True)
class Variant:
    """One few-shot prompt: how its examples are chosen, how many, and the task with the system prompt that goes before them."""

    strategy: str
    k: int
    system: str  # "full" or "short"
    task: recipe.Task


def _try_few_shot(measured: Measurement, settings: recipe.Baseline, dev: list[dict], train: list[dict]) -> dict[str, Variant]:
    """Answer dev with the few-shot prompts, and give them by name.

    First every way to choose examples, with the full system prompt and, where it differs, the short one, all with the largest
    number of examples; then the other numbers with the best of these: so what is tried grows with the sum, not the product.
    """
    numbers = sorted({settings.few_shot_k} if isinstance(settings.few_shot_k, int) else set(settings.few_shot_k))
    tried: dict[str, Variant] = {}

    def attempt(name: str, variant: Variant) -> None:
        tried[name] = variant
        _ask_few_shot(measured, f"{FEW_SHOT}:{name}", "dev", dev, train, variant)

    for strategy in settings.few_shot:
        attempt(strategy, Variant(strategy, numbers[-1], "full", measured.task))
        if measured.task.zero_shot_system not in ("", measured.task.system):
            short = measured.task.model_copy(update={"zero_shot_system": ""})
            attempt(f"{strategy}_short", Variant(strategy, numbers[-1], "short", short))
    best = _best_on_dev(measured, tried)
    for k in numbers[:-1]:
        attempt(f"{best}_{k}", replace(tried[best], k=k))
    return tried


def _ask_few_shot(measured: Measurement, arm: str, split: str, items, train, variant: Variant) -> None:
    if variant.strategy == "fixed":
        examples = [prompts.fixed_examples(train, variant.k)] * len(items)
    else:
        examples = prompts.nearest_examples(train, items, variant.k)
    room = measured.server.max_model_len - measured.task.max_new_tokens
    asked = prompts.fit(items, variant.task, examples, lambda some, tools: count_tokens(measured.server, some, tools=tools), room)
    measured.ask(arm, split, items, asked, {"strategy": variant.strategy, "k": variant.k, "system": variant.system})


def _best_on_dev(measured: Measurement, variants: dict[str, Variant]) -> str:
    """Choose the prompt with the most right answers on dev; of equals, the one with the fewest tokens."""

    def tokens(name: str) -> int:
        return sum(item["prompt_tokens"] for item in measured.items if item["arm"] == f"{FEW_SHOT}:{name}")

    return max(variants, key=lambda name: (measured.mean(f"{FEW_SHOT}:{name}", "dev", "task/exact"), -tokens(name)))


def given_replay(path: Path, general_text: str | None) -> list[dict]:
    """Read general data to replay; what resembles the held general text is left out, or forgetting would be measured on it.

    Raises:
        BadInput: a line is neither a row nor a text, or nothing is left.
    """
    from tunegate.curate.decontaminate import decontaminate

    lines = list(rows.read_json_lines(path))
    texts = read_texts(path)
    made = [
        {"id": digests.digest_json(text), "text": text, "task_type": "replay", "source": "replay"} if "text" in line
        else rows.make_row(line["messages"], "replay", "replay")
        for line, text in zip(lines, texts, strict=True)
    ]  # fmt: skip
    held = {"general text": [rows.normalise(text) for text in read_field(Path(general_text), "text")]} if general_text else {}
    bounds = recipe.Curate()
    hits = decontaminate([rows.normalise(text) for text in texts], held, bounds.decontaminate, bounds.cluster_jaccard)
    kept = [row for i, row in enumerate(made) if i not in hits]
    say(f"      baseline: {len(kept)} rows to replay, {len(hits)} left out because they resemble held general text")
    if not kept:
        raise BadInput(f"{path} holds nothing to replay that is not in the held general text too. Give other general data.")
    return kept


def _replay(server, path: Path, concurrency: int) -> list[dict]:
    """Let the base model answer each line's `prompt`, or write on from its `opening`, in its own words.

    Sampled at temperature 1, these are draws from the base model's own distribution, so the loss on them is its divergence
    from the base plus a constant: training on them holds the model where it was, in conversation and in plain text.
    """
    lines = list(rows.read_json_lines(path))
    for number, line in enumerate(lines, 1):
        if not any(isinstance(line.get(key), str) and line[key].strip() for key in ("prompt", "opening")):
            raise BadInput(f"{path}: object {number} has neither a `prompt` to answer nor an `opening` to continue. Mend or remove it.")
    asked = [line["prompt"] for line in lines if "prompt" in line]
    openings = [line["opening"] for line in lines if "prompt" not in line]
    turns = [[{"role": "user", "content": prompt}] for prompt in asked]
    replay = []
    progress = Progress("baseline: replay answers")
    for turn, answer in zip(turns, chat(server, turns, REPLAY_MAX_NEW_TOKENS, concurrency, progress, REPLAY_SAMPLING), strict=True):
        text = answer.text.strip() if answer.finish_reason == "stop" else whole_sentences(answer.text)
        if text:
            replay.append(rows.make_row([*turn, {"role": "assistant", "content": text}], "replay", "replay"))
    progress = Progress("baseline: replay texts")
    for opening, text in zip(
        openings, continue_texts(server, openings, REPLAY_MAX_NEW_TOKENS, concurrency, progress, REPLAY_SAMPLING), strict=True
    ):
        whole = opening + text
        replay.append({"id": digests.digest_json(whole), "text": whole, "task_type": "replay", "source": "replay"})
    # In an order of no meaning, so that any part of it holds both kinds.
    return sorted(replay, key=lambda row: row["id"])


def whole_sentences(text: str) -> str:
    """Cut text after its last end of sentence; nothing is left of text without one."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def _result(measured: Measurement, variants, chosen: str, worth: bool, reasons: dict, replay_rows: int, seconds: float) -> Result:
    dev = {arm: measured.mean(arm, "dev", "task/exact") for arm in [ZERO_SHOT, *(f"{FEW_SHOT}:{name}" for name in variants)]}
    arms = measured.arms.values()
    metrics = {
        "exact_dev_base_zero_shot": dev[ZERO_SHOT],
        "exact_dev_base_few_shot": dev[f"{FEW_SHOT}:{chosen}"],
        "exact_base_zero_shot": measured.mean(ZERO_SHOT, "test", "task/exact"),
        "exact_base_few_shot": measured.mean(FEW_SHOT, "test", "task/exact"),
        "nats_per_token_base": measured.mean(ZERO_SHOT, "general", "general/nats_per_token"),
        "items_per_second": sum(arm["items"] for arm in arms) / sum(arm["seconds"] for arm in arms),
        "replay_rows": replay_rows,
        "seconds_baseline": seconds,
    }
    few_shot = {"strategy": variants[chosen].strategy, "k": variants[chosen].k, "system": variants[chosen].system}
    summary = {"worth_training": worth, "reasons": reasons, "few_shot": few_shot, "exact_dev": dev, "engine": measured.server.engine}
    split, arm = ("test", FEW_SHOT) if worth else ("dev", f"{FEW_SHOT}:{chosen}")
    zero, few = (measured.mean(name, split, "task/exact") for name in (ZERO_SHOT, arm))
    line = f"{split}: zero-shot {zero:.1%} exact, few-shot ({chosen}, {variants[chosen].k} examples) {few:.1%}"
    line += "" if worth else "; prompting is enough, nothing is trained"
    return Result(summary, metrics={name: value for name, value in metrics.items() if value is not None}, line=line)
