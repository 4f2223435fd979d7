"""Measure training on this machine: useful tokens per second, what a checkpoint costs, and how soon a killed training goes on.

    python tests/benchmarks/training.py BASE [--rows N] [--repeats N] [--max-length N]

BASE is the directory of an instruct model. Rows have log-normal lengths. Each engine trains the same LoRA adapter (rank 16, on
NF4) on the same rows once, in a process of its own, engines in turn; their times are those of training alone, without loading:

    TRL's defaults      what SFTTrainer does with a model in NF4, except precision: bfloat16, where its default is float32
    TRL group_by_length the same with rows of like length together
    tunegate unpacked   our settings, without packing
    tunegate            our settings: packed, no recomputation of activations, attention that knows where rows end

Useful tokens are those of rows, not of padding. Prints Markdown tables: medians over the repeats, and the median of the ratios
of paired runs. Checkpoint costs are those of the store in a directory on this disk.
"""

import argparse
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tunegate import rows
from tunegate.recipe import Lora, Sft, Task

TASK = Task(max_length=256)
WORDS = "turn on off the kitchen bedroom hall light lamp fan set to please now what is up down one two three yes no".split()
ENGINES = ("TRL's defaults", "TRL group_by_length", "tunegate unpacked", "tunegate")
SFT = Sft(
    learning_rate=2e-4, num_train_epochs=1, per_device_train_batch_size=8, gradient_accumulation_steps=1, warmup_steps=0,
    gradient_checkpointing=False, replay_share=0, lora=Lora(dropout=0.0),
)  # fmt: skip


def make_rows(count: int) -> list[dict]:
    """Make rows whose answers have log-normal lengths: a median of 20 words, at most 90."""
    draw = random.Random(0)

    def text(words: int) -> str:
        return " ".join(draw.choices(WORDS, k=words))

    lengths = [min(90, max(2, round(draw.lognormvariate(math.log(20), 0.8)))) for _ in range(count)]
    return [rows.make_row([{"role": "user", "content": text(max(3, n // 2))}, {"role": "assistant", "content": text(n)}]) for n in lengths]


def examples_of(directory: Path, tokenizer) -> list[dict]:
    from tunegate.train.examples import load_examples

    return load_examples(directory / "train.jsonl", None, tokenizer, TASK, 0)[0]


def measure(engine: str, base: Path, directory: Path, max_length: int) -> dict:
    """Train once in this process; give seconds, tokens and how full the batches were."""
    import torch

    from tunegate.train.batch import Batch
    from tunegate.train.model import keeping_freed_memory, load_base, load_tokenizer
    from tunegate.train.sft import sft_trainer

    tokenizer = load_tokenizer(base)
    examples = examples_of(directory, tokenizer)
    useful = sum(len(example["input_ids"]) for example in examples)
    if engine.startswith("TRL"):
        trainer = theirs(base, tokenizer, examples, directory / "trl", engine.endswith("length"))
        context = torch.enable_grad()
    else:
        packing = engine == "tunegate"
        # A packed row holds several: as many tokens to a step as the padded engines have rows of mean length.
        fit = max(1, round(8 * useful / len(examples) / max_length)) if packing else 8
        settings = SFT.model_copy(update={"packing": packing, "per_device_train_batch_size": fit})
        task = TASK.model_copy(update={"max_length": max_length})
        trainer = sft_trainer(load_base(base, settings), tokenizer, examples, settings, task, Batch(fit, 1), False, directory / "ours")
        context = keeping_freed_memory()
    widths = []
    collate = trainer.data_collator

    def collator(features):
        made = collate(features)
        widths.append(made["input_ids"].numel())
        return made

    trainer.data_collator = collator
    with context:
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "useful": useful, "fill": useful / sum(widths), "steps": trainer.state.global_step}


def theirs(base: Path, tokenizer, examples: list[dict], scratch: Path, by_length: bool):
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, quantization_config=quantization, local_files_only=True)
    strategy = {"train_sampling_strategy": "group_by_length"} if by_length else {}
    arguments = SFTConfig(
        output_dir=str(scratch), report_to=[], save_strategy="no", disable_tqdm=True, num_train_epochs=1, learning_rate=2e-4,
        per_device_train_batch_size=8, dataloader_pin_memory=False, use_cpu=not torch.cuda.is_available(), **strategy,
    )  # fmt: skip
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(examples), processing_class=tokenizer, peft_config=lora)


def in_own_process(*arguments: str) -> dict:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def speed(base: Path, count: int, repeats: int, max_length: int) -> None:
    results: dict[str, list[dict]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory() as scratch:
        rows.write_rows(Path(scratch) / "train.jsonl", make_rows(count))
        for _ in range(repeats):
            for engine in ENGINES:
                results[engine].append(in_own_process(str(base), "--measure", engine, scratch, "--max-length", str(max_length)))
    print(f"### {count} rows of log-normal length, {results['tunegate'][0]['useful']:,} tokens, one epoch\n")
    print("| engine | steps | useful tokens/s | × TRL's defaults | filled with rows |")
    print("|---|--:|--:|--:|--:|")
    for engine, runs in results.items():
        rate = statistics.median(run["useful"] / run["seconds"] for run in runs)
        ratio = statistics.median(theirs["seconds"] / run["seconds"] for theirs, run in zip(results[ENGINES[0]], runs, strict=True))
        print(f"| {engine} | {runs[0]['steps']} | {rate:.0f} | {ratio:.2f} | {runs[0]['fill']:.0%} |", flush=True)


def safety(base: Path, count: int) -> None:
    """Time what checkpoints cost, and how long a killed training takes to its next step."""
    from tunegate.store import open_store

    with tempfile.TemporaryDirectory() as scratch:
        store = open_store(f"{scratch}/store")
        data = Path(scratch) / "data"
        data.mkdir()
        rows.write_rows(data / "train.jsonl", make_rows(count))
        refs = {"base": store.put("base", base), "data": store.put("data", data)}
        settings = SFT.model_copy(update={"per_device_train_batch_size": 2, "save_minutes": 1 / 6})
        config = {"sft": settings.model_dump(), "task": TASK.model_dump(), "price_per_hour": 0.0}
        for run in ("whole", "killed"):
            store.write_json(f"training/{run}/request.json", {"work": "sft", "config": config, "refs": refs, "run": run})
        command = [sys.executable, "-m", "tunegate.train.job", store.uri]
        subprocess.run([*command, "whole"], stdout=subprocess.DEVNULL, check=True)
        summary = store.read_json("training/whole/result.json")["summary"]
        saved = len(store.read_json("training/whole/checkpoints.json")["checkpoints"])
        child = subprocess.Popen([*command, "killed"], stdout=subprocess.DEVNULL)
        while not store.read_json("training/killed/checkpoints.json"):
            time.sleep(0.1)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        started = time.perf_counter()
        again = subprocess.Popen([*command, "killed"], stdout=subprocess.PIPE, text=True)
        for line in again.stdout:
            if "going on from step" in line:
                break
        seconds = time.perf_counter() - started
        again.kill()
        again.wait()
    blocked, trained = summary["seconds_blocked_by_checkpoints"], summary["seconds_train"]
    print("\n### Checkpoints, one every 10 seconds\n")
    print("| | |\n|---|--:|")
    print(f"| training waited for them | {blocked:.2f} s of {trained:.0f} s ({blocked / trained:.2%}) |")
    print(f"| checkpoints kept at the end | {saved} |")
    print(f"| killed with SIGKILL: from the new start to the first new step | {seconds:.1f} s |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=TASK.max_length)
    parser.add_argument("--measure", nargs=2, metavar=("ENGINE", "DIRECTORY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure[0], given.base, Path(given.measure[1]), given.max_length)))
        return
    speed(given.base, given.rows, given.repeats, given.max_length)
    safety(given.base, 4 * given.rows)


if __name__ == "__main__":
    main()
