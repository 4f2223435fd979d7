"""A small training in the store, and processes that do it and may be killed: what tests of lost power share.

Processes are forked from a server that has imported PyTorch and TRL already: an attempt then takes a second or two.
"""

import functools
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tiny_model import command_rows

from tunegate import rows
from tunegate.recipe import Lora, Prefer, Sft, Task
from tunegate.store import Store, open_store
from tunegate.train.pairs import ORIGIN, PAIRS

TASK = Task(checker="json", system="Answer with JSON.", max_new_tokens=24, max_length=160)
SFT = Sft(
    learning_rate=5e-3, num_train_epochs=8, per_device_train_batch_size=1, gradient_accumulation_steps=2, packing=True, warmup_steps=2,
    load_in_4bit=False, lora=Lora(r=4, alpha=8, dropout=0.1), save_minutes=1e-9,  # after each step
)  # fmt: skip
PREFER = Prefer(
    learning_rate=1e-3, num_train_epochs=12, per_device_train_batch_size=2, gradient_accumulation_steps=2, min_steps=2,
    precompute_ref_log_probs=False, save_minutes=1e-9,
)  # fmt: skip
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["trl", "peft", "datasets", "bitsandbytes", "trl.trainer.sft_trainer", "trl.trainer.dpo_trainer", "tunegate.train.running"]
)


@dataclass(frozen=True)
class Work:
    """A training that is written down in the store `uri` as `run`."""

    uri: str
    run: str

    @property
    def store(self) -> Store:
        return open_store(self.uri)

    @property
    def result(self) -> dict | None:
        return self.store.read_json(f"training/{self.run}/result.json")

    @property
    def checkpoints(self) -> list[dict]:
        return (self.store.read_json(f"training/{self.run}/checkpoints.json") or {"checkpoints": []})["checkpoints"]

    @property
    def weights(self) -> bytes:
        return (self.store.get(self.result["refs"]["adapter"]) / "adapter_model.safetensors").read_bytes()

    def start(self, before=None) -> multiprocessing.Process:
        """Start an attempt; `before` is called in it first, to arrange for its death."""
        process = context.Process(target=_attempt, args=(self.uri, self.run, before))
        process.start()
        return process

    def finish(self, before=None, seconds: float = 120) -> int:
        process = self.start(before)
        process.join(seconds)
        assert process.exitcode is not None, "the attempt hangs"
        return process.exitcode


def _attempt(uri: str, run: str, before) -> None:
    from tunegate.train import job

    os.environ.pop("TUNEGATE_RUN_ID", None)
    if before:
        before()
    raise SystemExit(job.main([uri, run]))


def ask(uri: str, work: str, base: Path, sft: Sft = SFT, prefer: Prefer = PREFER, adapter: Path | None = None) -> Work:
    """Write a training down as its step would."""
    store, made = open_store(uri), command_rows(40)
    refs = {"base": store.put("base", base), "data": put_rows(store, "data", train=made[:32], dev=made[32:36])}
    if work == "prefer":
        refs |= {"adapter": store.put("sft-adapter", adapter), "pairs": _put_pairs(store, [_pair(row) for row in made[:16]])}
    config = {"sft": sft.model_dump(), "prefer": prefer.model_dump(), "task": TASK.model_dump(), "price_per_hour": 1.0}
    store.write_json("training/one/request.json", {"work": work, "config": config, "refs": refs, "run": "one"})
    return Work(uri, "one")


def put_rows(store: Store, name: str, **files: list[dict]) -> str:
    with tempfile.TemporaryDirectory() as directory:
        for stem, lines in files.items():
            rows.write_rows(Path(directory) / f"{stem}.jsonl", lines)
        return store.put(name, directory)


def _put_pairs(store: Store, pairs: list[dict]) -> str:
    with tempfile.TemporaryDirectory() as directory:
        rows.write_rows(Path(directory) / PAIRS, pairs)
        (Path(directory) / ORIGIN).write_text('{"pairs": "given"}')
        return store.put("pairs", directory)


def again(work: Work, uri: str = "") -> Work:
    """Give a store that holds what was asked for, and nothing done; beside the first, or where `uri` says."""
    uri = uri or f"{work.uri}-again-{random.randrange(10**9)}"
    asked = work.store.read_json(f"training/{work.run}/request.json")
    for ref in asked["refs"].values():
        shutil.copytree(f"{work.uri}/objects/{ref}", f"{uri}/objects/{ref}")
    open_store(uri).write_json(f"training/{work.run}/request.json", asked)
    return Work(uri, work.run)


def together(*changes) -> None:
    """Arrange for several things."""
    for change in changes:
        change()


def at_each_step(act: Callable) -> None:
    """Have this process call act(saving, step) after each step, before a checkpoint of it is thought of."""
    from tunegate.train.saving import Saving

    real = Saving.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        act(self, state.global_step)
        return real(self, args, state, control, **kwargs)

    Saving.on_step_end = on_step_end


def _pair(row: dict) -> dict:
    said = [{"role": "assistant", "content": rows.answer(row)}], [{"role": "assistant", "content": "{}"}]
    return {"prompt": rows.chat(row, TASK.system), "chosen": said[0], "rejected": said[1]}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_copy(copies: int) -> None:
    """Arrange for this process to be killed when the store has copied so many files to disk."""
    from tunegate.store import directory

    copied = iter(range(1, 10_000))
    real = directory.copy_to_disk

    @functools.wraps(real)
    def copy(source, target):
        real(source, target)
        if next(copied) == copies:
            die()

    directory.copy_to_disk = copy
