"""Score a served model item by item: the task's sealed test, the dev set, held general text, and the suites of the recipe.

Three arms are measured here, all on one engine, with the same prompts and the same greedy settings:

    candidate    the merged model, served as it will run
    adapter      the adapter, unmerged, on the 16-bit base: what the merge must not change
    champion     the model that serves now, where there is one

Every answer is kept in the store as it comes (tunegate.answers).
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from tunegate import digests, ledger, prompts, recipe, results, rows
from tunegate.errors import BadInput, Refused
from tunegate.local_file import with_local_file
from tunegate.measurement import Measurement
from tunegate.parity import same_as_adapter, same_prompt
from tunegate.serving import identify, serve_when_asked
from tunegate.steps import Inputs, Result, say
from tunegate.store import Store, open_store
from tunegate.suites import pairwise, with_local_files


@dataclass(frozen=True)
class Rival:
    """A model that the candidate is compared with: its directory, its digest, and an adapter to put on it."""

    arm: str
    model: Path
    digest: str
    adapter: Path | None = None


def evaluate_step(config: dict, inputs: Inputs, output: Path) -> Result:
    settings = local_settings(config, inputs.store, output)
    base = inputs["base"] if "base" in inputs else None
    rivals = []
    if settings.adapter and base is not None and "adapter" in inputs:
        digest = f"{ref_digest(inputs.refs['base'])}+{ref_digest(inputs.refs['adapter'])}"
        rivals.append(Rival("adapter", base, digest, inputs["adapter"]))
    champion = config.get("champion")
    if champion and champion["ref"] != inputs.refs["model"]:
        place = inputs.store if champion["store"] == inputs.store.uri else open_store(champion["store"])
        rivals.append(Rival("champion", place.get(champion["ref"]), ref_digest(champion["ref"])))
    return evaluate(
        inputs["model"], inputs["data"], inputs["results"], output, recipe.Task(**config["task"]), settings,
        recipe.Serve(**config["serve"]), ref_digest(inputs.refs["model"]), rivals, base, inputs.store,
    )  # fmt: skip


def local_settings(config: dict, store: Store, scratch: Path) -> recipe.Evaluate:
    """Read the section `evaluate`, and bring the files that it names to this machine."""
    settings = with_local_file(recipe.Evaluate(**config["evaluate"]), "general_text", store, scratch)
    return with_local_files(settings, store, scratch)


def evaluate(
    model: Path, data: Path, baseline_results: Path, output: Path, task: recipe.Task, settings: recipe.Evaluate,
    serve_config: recipe.Serve, model_digest: str, rivals: list[Rival] = (), base: Path | None = None, store: Store | None = None,
) -> Result:  # fmt: skip
    """Serve the merged model, score it as arm `candidate`, then its rivals, and write `output/results`.

    Args:
        base: the base model as it was trained on; with it, the prompts that are served are held against those of training.
        store: where answers are kept as they come, and the ledger of the sealed test; None keeps neither.

    Raises:
        Refused: the engine here is not the one that the baseline was measured on.
    """
    refuse_other_engine(identify(serve_config), results.read_arms(baseline_results))
    started = time.monotonic()
    dev, test = read_split(data, "dev"), read_split(data, "test")
    asked = prompts.candidate(test, task)
    if store is not None:
        number = ledger.record(store, digests.sha256_file(data / "test.jsonl"), model_digest)
        say(f"      evaluate: candidate number {number} on this sealed test")
    measured = Measurement(task, settings, "evaluate", store)
    with serve_when_asked(model, serve_config) as server:
        measured.of(server, model_digest)
        measured.ask("candidate", "dev", dev, prompts.candidate(dev, task))
        measured.ask("candidate", "test", test, asked)
        if base is not None:
            measured.items += same_prompt(measured.served_prompts(asked, test), base, test, asked, measured.items)
        measured.read_general("candidate")
        measured.ask_suites("candidate")
        measured.time_first_tokens("candidate", asked, test)
    for rival in rivals:
        if reason := _cannot_serve(rival):
            say(f"      evaluate: the arm {rival.arm} is left out: {reason}")
            continue
        with serve_when_asked(rival.model, serve_config, rival.adapter) as server:
            measured.of(server, rival.digest)
            measured.ask(rival.arm, "test", test, asked)
            if rival.arm == "champion":
                measured.read_general(rival.arm)
                measured.ask_suites(rival.arm)
                measured.time_first_tokens(rival.arm, asked, test)
    measured.items += same_as_adapter(measured.items)
    judged = _judge(measured, results.read_items(baseline_results), test) if settings.judge.url else {}
    results.write_results(output / "results", measured.items, measured.arms)
    return _result(measured, judged, time.monotonic() - started)


def _judge(measured: Measurement, before: list[dict], test: list[dict]) -> dict:
    """Let the recipe's judge compare answers of the candidate with another arm's; add its lines, and give what they sum up to."""
    settings, known = measured.settings.judge, measured.items + before
    arms = ("candidate", settings.versus)
    lines = pairwise.judge(known, arms, settings, test)
    measured.items += lines
    return pairwise.summary(lines, known, arms)


def _result(measured: Measurement, judged: dict, seconds: float) -> Result:
    arm = measured.arms["candidate"]
    metrics = {
        "exact_candidate": measured.mean("candidate", "test", "task/exact"),
        "exact_dev_candidate": measured.mean("candidate", "dev", "task/exact"),
        "exact_adapter": measured.mean("adapter", "test", "task/exact"),
        "exact_champion": measured.mean("champion", "test", "task/exact"),
        "finish_stop_candidate": measured.mean("candidate", "test", "task/finish_stop"),
        "same_prompt": measured.mean("candidate", "test", "parity/same_prompt"),
        "same_as_adapter": measured.mean("candidate", "test", "parity/same_as_adapter"),
        "nats_per_token_candidate": measured.mean("candidate", "general", "general/nats_per_token"),
        "items_per_second": arm["items"] / arm["seconds"],
        "seconds_evaluate": seconds,
    }
    metrics |= {f"judge_{name}": judged.get(name) for name in ("win_rate", "flip_rate", "win_rate_at_equal_length")}
    summary = {"engine": arm["engine"], "exact_test": metrics["exact_candidate"], "exact_dev": metrics["exact_dev_candidate"]}
    summary["judge"] = judged
    line = f"candidate {metrics['exact_candidate']:.1%} exact on {arm['items']} test items"
    for name in ("adapter", "champion"):
        if metrics[f"exact_{name}"] is not None:
            line += f", {name} {metrics[f'exact_{name}']:.1%}"
    return Result(summary, metrics={name: value for name, value in metrics.items() if value is not None}, line=line)


def _cannot_serve(rival: Rival) -> str:
    """Say why an engine cannot serve this arm; empty where it can."""
    if rival.adapter is None:
        return ""
    config = rival.adapter / "adapter_config.json"
    if not config.is_file():
        return "all weights were trained, so there is no adapter to compare with"
    if json.loads(config.read_text(encoding="utf-8")).get("use_dora"):
        return "no server here applies DoRA unmerged"
    return ""


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


def read_split(data: Path, split: str) -> list[dict]:
    """Read one split that curate wrote."""
    path = Path(data) / f"{split}.jsonl"
    found = list(rows.read_rows(path))
    if not found:
        raise BadInput(f"{path} is empty. Give curate more rows, or ask for a smaller split.")
    return found


def ref_digest(ref: str) -> str:
    return ref.rpartition("/")[2]
