"""Time how fast a task is evaluated: our way through a server, against lm-evaluation-harness with its own backend `hf`.

    python tests/benchmarks/evaluation.py BASE COMMANDS [--items N] [--repeats N] [--prompts candidate|zero_shot] [--batch-sizes N …]

BASE is the directory of an instruct model, COMMANDS the demo's rows. Each engine answers the same prompts greedily, in bfloat16
on all cores, with the demo's limit of new tokens, in a process of its own, engines in turn:

    tunegate, vLLM          what evaluate does, where vLLM is installed
    tunegate, transformers  the same with our own small server
    lm-eval hf, batch N     the harness's backend at the batch size that was fastest on the first --pilot prompts

Prints Markdown tables: items per second while answering, and seconds with the loading of model and engine; medians over the
repeats, and the median of the ratios of paired runs. Ends with an error where the engines did not read the same tokens.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tunegate import digests, prompts, recipe, rows
from tunegate.runner import use_serving_environment
from tunegate.serving import identify, serve

DEMO = Path(__file__).parents[2] / "pipelines" / "recipes" / "demo.yaml"
TASK = recipe.Task(**yaml.safe_load(DEMO.read_text(encoding="utf-8"))["task"])
PROMPTS = {"candidate": prompts.candidate, "zero_shot": prompts.zero_shot}
BATCH_SIZES = (1, 8, 32, 64, 128, 256)
PILOT_ITEMS = 256  # as many as the largest batch
HF = "lm-eval hf, batch {}"


def make_items(commands: Path, count: int) -> list[dict]:
    lines = list(rows.read_json_lines(commands))
    chosen = random.Random(0).sample(lines, min(count, len(lines)))
    made = [
        rows.make_row(
            [{"role": "user", "content": line["prompt"]}, {"role": "assistant", "content": line["completion"]}], line["task_type"]
        )
        for line in chosen
    ]
    return [row | {"cluster": row["id"]} for row in made]


def ours(engine: str, base: Path, items: list[dict], asked: list[list[dict]]) -> dict:
    from tunegate.measurement import Measurement
    from tunegate.serving import prompt_ids

    with serve(base, recipe.Serve(engine=engine)) as server:
        measured = Measurement(TASK, recipe.Evaluate(), "bench")
        measured.of(server, "")
        started = time.perf_counter()
        measured.ask("candidate", "test", items, asked)
        seconds = time.perf_counter() - started
        ids = prompt_ids(server, asked)
    answers = [item["output"] for item in measured.items if item["metric"] == "task/exact"]
    return {"seconds": seconds, "read": digests.digest_json(ids), "answers": answers}


def theirs(batch_size: int, base: Path, asked: list[list[dict]]) -> dict:
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    (system,) = {messages[0]["content"] for messages in asked}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "asked.jsonl"
        file.write_text("".join(json.dumps({"question": messages[1]["content"]}) + "\n" for messages in asked), encoding="utf-8")
        task = {
            "task": "commands", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test",
            "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "",
            "generation_kwargs": {"until": [], "max_gen_toks": TASK.max_new_tokens, "do_sample": False},
        }  # fmt: skip
        loaded = TaskManager(include_defaults=False).load([task])
        model = HFLM(pretrained=str(base), dtype="bfloat16", batch_size=batch_size, device="cpu", max_length=recipe.Serve().max_model_len)
        started = time.perf_counter()
        found = evaluator.evaluate(model, loaded, bootstrap_iters=0, system_instruction=system, apply_chat_template=True)
        seconds = time.perf_counter() - started
    samples = sorted(found["samples"]["commands"], key=lambda sample: sample["doc_id"])
    ids = [model.tok_encode(sample["arguments"][0][0]) for sample in samples]
    return {"seconds": seconds, "read": digests.digest_json(ids), "answers": [sample["resps"][0][0] for sample in samples]}


def measure(engine: str, base: Path, commands: Path, count: int, kind: str) -> dict:
    """Answer every prompt once in this process."""
    items = make_items(commands, count)
    asked = PROMPTS[kind](items, TASK)
    if engine.startswith("lm-eval"):
        return theirs(int(engine.rpartition(" ")[2]), base, asked)
    return ours("vllm" if engine.endswith("vLLM") else "transformers", base, items, asked)


def in_own_process(engine: str, given, count: int) -> dict:
    command = [sys.executable, __file__, str(given.base), str(given.commands), "--items", str(count), "--prompts", given.prompts]
    started = time.perf_counter()
    done = subprocess.run([*command, "--measure", engine], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{engine} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"whole": time.perf_counter() - started}


def best_batch_size(given) -> int:
    count = min(given.pilot, given.items)
    print(f"### Batch sizes of lm-eval's hf, on {count} prompts\n\n| batch | items/s |\n|--:|--:|")
    rates = {}
    for size in given.batch_sizes:
        rates[size] = count / in_own_process(HF.format(size), given, count)["seconds"]
        print(f"| {size} | {rates[size]:.2f} |", flush=True)
    return max(rates, key=rates.get)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("commands", type=Path)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pilot", type=int, default=PILOT_ITEMS)
    parser.add_argument(
        "--prompts", choices=list(PROMPTS), default="candidate", help="the short prompt of the candidate, or the base's long one"
    )
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=BATCH_SIZES)
    parser.add_argument("--measure", metavar="ENGINE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    use_serving_environment()
    if given.measure:
        print(json.dumps(measure(given.measure, given.base, given.commands, given.items, given.prompts)))
        return
    peer = HF.format(best_batch_size(given))
    found = identify(recipe.Serve())
    engines = ([] if found["name"] == "transformers" else ["tunegate, vLLM"]) + ["tunegate, transformers", peer]
    runs: dict[str, list[dict]] = {engine: [] for engine in engines}
    for _ in range(given.repeats):
        for engine in engines:
            runs[engine].append(in_own_process(engine, given, given.items))
    read = {run["read"] for several in runs.values() for run in several}
    if len(read) > 1:
        sys.exit("The engines did not read the same tokens, so their times cannot be compared.")
    print(f"\n### {given.items} items of the demo task, prompt of {given.prompts}, at most {TASK.max_new_tokens} new tokens\n")
    print(f"vLLM here: {found['name']} {found['version']}. Medians of {given.repeats} runs.\n")
    print("| engine | items/s | × hf | seconds with loading | × hf | same answers as hf |\n|---|--:|--:|--:|--:|--:|")
    for engine, several in runs.items():
        rate = given.items / statistics.median(run["seconds"] for run in several)
        whole = statistics.median(run["whole"] for run in several)
        ratio, whole_ratio = (
            statistics.median(other[key] / mine[key] for other, mine in zip(runs[peer], several, strict=True))
            for key in ("seconds", "whole")
        )
        same = statistics.mean(mine == other for mine, other in zip(several[0]["answers"], runs[peer][0]["answers"], strict=True))
        print(f"| {engine} | {rate:.2f} | {ratio:.2f} | {whole:.0f} | {whole_ratio:.2f} | {same:.0%} |", flush=True)


if __name__ == "__main__":
    main()
