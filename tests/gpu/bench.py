"""What the GPU benchmarks share: options, the time limit, FLOPs, one table.

MFU counts what the model asks for (no recomputation, no padding, attention within rows), HFU what is executed; both are shares of the
rate of a matrix product measured in the same call. Executed FLOPs are those of tunegate.predict.speed at the lengths that were
seen, with the head at labelled tokens only, where TRL's fused head computes it. sdpa counts as looking at every pair of tokens of
a line; where a batch happens to hold no padding it takes a causal kernel instead, and HFU is then overstated.
"""

import argparse
import atexit
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from random_model import CONFIGS, draw_lengths, make_examples, make_tokenizer, shape_of
from stopwatch import GIB, Stopwatch, Timed, matmul_flops

from tunegate.predict.memory import peak_bytes
from tunegate.predict.speed import flops_per_token
from tunegate.predict.work import NEVER, Work
from tunegate.recipe import Lora

MINUTES = 8.0
COLUMNS = ("tokens/s", "s/step", "fill", "tensors GiB", "device GiB", "predicted GiB", "MFU", "HFU")
NONE = "–"


def parser(doc: str, size: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--size", choices=[*CONFIGS], default=size, help=f"of the model (default: {size}); tiny runs on a CPU")
    made.add_argument("--warm-up", type=int, help="optimizer steps before the timed ones (default: 3)")
    made.add_argument("--steps", type=int, help="timed optimizer steps (default: 10)")
    made.add_argument("--minutes", type=float, default=MINUTES, help=f"after which no variant is begun (default: {MINUTES:g})")
    made.add_argument("--dropout", type=float, default=0.0, help="of the adapters (default: 0, which is unsloth's fast path)")
    return made


class Bench:
    """One table in the making. `scale(full, tiny)` picks a setting by size."""

    def __init__(self, title: str, arguments: argparse.Namespace, columns: tuple[str, ...] = COLUMNS):
        self.title, self.arguments, self.columns = title, arguments, columns
        self.size = arguments.size
        self.tiny = self.size == "tiny"
        if not self.tiny and not torch.cuda.is_available():
            sys.exit(f"{Path(sys.argv[0]).name} --size {self.size} needs a CUDA device, and there is none. --size tiny runs on a CPU.")
        self.warm_up = arguments.warm_up if arguments.warm_up is not None else self.scale(3, 1)
        self.steps = arguments.steps or self.scale(10, 2)
        self.deadline = time.monotonic() + 60 * arguments.minutes
        self.shape = shape_of(self.size)
        self.lora = Lora(dropout=arguments.dropout)
        self.rows: dict[str, dict] = {}
        self.scratch = Path(tempfile.mkdtemp(prefix="tunegate-gpu-"))
        atexit.register(shutil.rmtree, self.scratch, ignore_errors=True)
        self.tokenizer = make_tokenizer(self.size)
        self.rate = matmul_flops(self.scale(8192, 256))

    def scale(self, full, tiny):
        return tiny if self.tiny else full

    def examples(self, rows: int, max_length: int, seed: int = 0) -> list[dict]:
        """Make enough rows of log-normal lengths for all steps of `rows` lines of max_length tokens, filled or padded."""
        tokens = (self.warm_up + self.steps + 2) * rows * max_length
        median = self.scale(300, 24)
        return make_examples(self.size, draw_lengths(tokens, max_length, seed, median), seed)

    def left(self) -> float:
        """Give the seconds before the time is up."""
        return self.deadline - time.monotonic()

    def time(self, how: Callable[[Stopwatch], None]) -> Timed | str:
        """Let `how` build a trainer, have the watch follow it, and train; give what was seen, or why there is nothing.

        The most memory counts from before it is built.
        """
        if self.left() <= 0:
            return "not run: the time was up"
        watch, fits = Stopwatch(self.warm_up, self.steps, self.deadline), True
        try:
            how(watch)
        except torch.OutOfMemoryError:
            fits = False  # the exception holds what did not fit, until this block is left
        return watch.result() if fits else "out of memory"

    def train(self, name: str, work: Work, make: Callable, predicted: bool = True) -> Timed | None:
        """Time the trainer that `make` gives and add a row; None where it does not fit or the time is up."""
        timed = self.time(lambda watch: watch.follow(make()).train())
        if isinstance(timed, str):
            self.say(name, timed)
            return None
        self.add(name, timed, work, predicted)
        return timed

    def add(self, name: str, timed: Timed, work: Work, predicted: bool = True, **columns) -> None:
        """Add a row of numbers; `predicted` where tunegate.predict is about this way of training."""
        row = {
            "tokens/s": timed.tokens_per_second,
            "s/step": timed.seconds / timed.steps,
            "fill": timed.tokens / timed.slots,
            "tensors GiB": timed.allocated_gib,
            "device GiB": timed.held_gib,
            "predicted GiB": peak_bytes(work) / GIB if predicted else NONE,
            "MFU": model_flops(work, timed) / timed.seconds / self.rate,
            "HFU": executed_flops(work, timed) / timed.seconds / self.rate,
        } | columns
        self.rows[name] = row
        said = ", ".join(f"{key} {show(key, value)}" for key, value in row.items())
        print(f"{name}: {said}", file=sys.stderr, flush=True)

    def say(self, name: str, what: str) -> None:
        """Add a row that holds a sentence instead of numbers."""
        self.rows[name] = {self.columns[0]: what}
        print(f"{name}: {what}", file=sys.stderr, flush=True)

    def table(self) -> str:
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        lines = [
            f"## {self.title} ({self.size}, {where})", "",
            f"Matrix product (bfloat16): {self.rate / 1e12:.3g} TFLOP/s. {self.warm_up} optimizer steps to warm up, {self.steps} timed. "
            f"torch {torch.__version__}.", "",
            f"| | {' | '.join(self.columns)} |", f"|---|{'---|' * len(self.columns)}",
        ]  # fmt: skip
        for name, row in self.rows.items():
            lines.append(f"| {name} | {' | '.join(show(column, row.get(column, NONE)) for column in self.columns)} |")
        return "\n".join(lines) + "\n"

    def goal(self, what: str, value: float | None, goal: float, below: bool = False, unit: str = "") -> None:
        """Print a figure beside what was aimed at. A goal missed is no failure."""
        wanted = f"{'<' if below else '≥'} {goal:g}{unit}"
        if value is None:
            print(f"{what}: not measured here (goal {wanted})")
            return
        reached = "reached" if (value < goal if below else value >= goal) else "missed"
        print(f"{what}: {value:.3g}{unit} (goal {wanted}: {'nothing is said by the tiny model' if self.tiny else reached})")


def show(column: str, value) -> str:
    if isinstance(value, str):
        return value
    if column in ("MFU", "HFU", "fill"):
        return f"{value:.1%}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def attended(work: Work, timed: Timed) -> Work:
    """Give the work with the mean number of tokens that one was compared with, as it was seen."""
    looked = timed.slot_squares / timed.slots if work.dense_attention else timed.row_squares / timed.tokens
    return replace(work, packed=False, max_length=looked)


def executed_flops(work: Work, timed: Timed) -> float:
    head = (6 + (0 if work.reference == "none" else 2)) * work.shape.head_parameters
    return timed.slots * (flops_per_token(attended(work, timed)) - head) + timed.labelled * head


def model_flops(work: Work, timed: Timed) -> float:
    """Count forward pass and gradients of inputs, and six for each weight of the adapter; the reference's pass is not the model's."""
    needed = replace(work, attention="varlen", checkpointing=NEVER, reference="none")
    head = 6 * work.shape.head_parameters
    attention = work.shape.layers * work.shape.attention * 2 * timed.row_squares / timed.tokens
    # flops_per_token counts the scores that FlashAttention computes anew in its backward pass, and the logits; the model asks for neither.
    one = flops_per_token(attended(needed, timed)) - head - 0.5 * attention
    return timed.tokens * one + timed.labelled * 4 * work.shape.head_parameters
