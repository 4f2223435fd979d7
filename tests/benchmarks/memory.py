"""Measure whether the peak memory of training on this CPU is what was predicted from config.json.

    python tests/benchmarks/memory.py BASE [--max-length N ...] [--rows N ...] [--bits 4 16] [--checkpointing] [--steps N] [--dropout P]

BASE is the directory of an instruct model. Each cell, a combination of the given lengths, micro-batches and bits, trains an adapter for
a few steps on made-up rows of nearly that length, in a process of its own, and prints the predicted and the measured peak of
resident memory (ru_maxrss) and their ratio; exits with 1 when any prediction is off by more than 15 %.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from tunegate import rows
from tunegate.predict.devices import GIB, Device
from tunegate.predict.memory import peak_bytes
from tunegate.predict.shape import read_shape
from tunegate.predict.work import sft_work
from tunegate.recipe import Lora, Sft, Task

TOLERANCE = 0.15
WORDS = "turn on off the kitchen bedroom hall light lamp fan set to please now what is up down one two three yes no".split()
TEMPLATE_TOKENS = 60  # around question and answer, with room to spare; the rest of a row's length is words
CPU = Device("cpu", float("inf"), 1.0, None, 1.0, 0.0)  # only its being a CPU matters to memory


def make_rows(max_length: int, count: int) -> list[dict]:
    """Make distinct rows of words that are one token each in common vocabularies."""
    draw = random.Random(0)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=(max_length - TEMPLATE_TOKENS) // 2))

    return [rows.make_row([{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]) for _ in range(count)]


def settings(bits: int, micro_batch: int, checkpointing: bool, dropout: float) -> Sft:
    return Sft(
        load_in_4bit=bits == 4, per_device_train_batch_size=micro_batch, gradient_accumulation_steps=1, num_train_epochs=1,
        gradient_checkpointing=checkpointing, replay_share=0, lora=Lora(dropout=dropout),
    )  # fmt: skip


def train(sft: Sft, max_length: int, base: Path, steps: int) -> None:
    """Train in this process; what a cell's child does."""
    from tunegate.train.sft import sft as run

    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "train.jsonl"
        made = make_rows(max_length, steps * sft.per_device_train_batch_size)
        data.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        run(sft, Task(max_length=max_length), base, data, Path(scratch) / "adapter")


def measure(sft: Sft, max_length: int, base: Path, steps: int) -> float:
    """Train in a child, and give its peak of resident memory in bytes."""
    cell = json.dumps({"sft": sft.model_dump(mode="json"), "max_length": max_length, "steps": steps})
    child = subprocess.Popen([sys.executable, __file__, str(base), "--cell", cell], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"Training failed (exit code {child.returncode}) with {cell}.")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("--max-length", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4], help="micro-batches")
    parser.add_argument("--bits", type=int, nargs="+", choices=(4, 16), default=[4, 16], help="in which the base is held")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.05, help="of the adapter (default: the recipe's)")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cell", help=argparse.SUPPRESS)  # JSON; set for the child that trains
    arguments = parser.parse_args()
    if arguments.cell:
        cell = json.loads(arguments.cell)
        train(Sft.model_validate(cell["sft"]), cell["max_length"], arguments.base, cell["steps"])
        return 0
    shape = read_shape(json.loads((arguments.base / "config.json").read_text(encoding="utf-8")))
    if shape is None:
        print(f"{arguments.base} is not built like Llama; its memory is not predicted.")
        return 2
    print("tokens  rows  bits  predicted  measured  ratio")
    off = 0
    for length, micro_batch, bits in product(arguments.max_length, arguments.rows, arguments.bits):
        sft = settings(bits, micro_batch, arguments.checkpointing, arguments.dropout)
        predicted = peak_bytes(sft_work(shape, sft, length, CPU))
        measured = measure(sft, length, arguments.base, arguments.steps)
        ratio = predicted / measured
        off += abs(ratio - 1) > TOLERANCE
        print(f"{length:>6}  {micro_batch:>4}  {bits:>4}  {predicted / GIB:5.2f} GiB  {measured / GIB:4.2f} GiB  {ratio:5.2f}", flush=True)
    print("every prediction is within 15 %" if not off else f"{off} predictions are off by more than 15 %")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
