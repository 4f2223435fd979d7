"""Time QLoRA fine-tuning of an 8B model beside TRL's defaults and beside unsloth.

    PYTHONPATH=src python tests/gpu/sft_8b.py [--size tiny] [--rows N] [--max-length N]

Rows of random tokens have log-normal lengths of at most --max-length tokens; all variants see the same rows, with adapters of rank
16 on all linear layers. tokens/s are of rows: padding does not count. unsloth pins other versions of TRL and transformers, so
it runs only where UNSLOTH_PYTHON names an interpreter that has it.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import random_model
import torch
from bench import Bench, parser
from stopwatch import Timed, device_gib, free_memory

from tunegate.predict.work import Work
from tunegate.recipe import Sft, Task

TRL_MAX_LENGTH = 1024  # TRL's default
ROWS = 8  # TRL's default, which is transformers'


def settings(bench: Bench, packing: bool, rows: int) -> Sft:
    return Sft(
        packing=packing, num_train_epochs=1, per_device_train_batch_size=rows, gradient_accumulation_steps=1, replay_share=0,
        lora=bench.lora,
    )  # fmt: skip


def ours(bench: Bench, examples: list[dict], rows: int, max_length: int, checkpointing):
    """Add a row for tunegate's own trainer: packed rows, varlen attention, NF4 with double quantisation, bfloat16."""
    from tunegate.train.batch import Batch
    from tunegate.train.sft import sft_trainer

    sft = settings(bench, True, rows)
    work = Work(bench.shape, sft, max_length, rows, packed=True, checkpointing=checkpointing, attention="varlen",
                on_cpu=not torch.cuda.is_available())  # fmt: skip

    def make():
        model = random_model.build(bench.size, "varlen")
        return sft_trainer(model, bench.tokenizer, examples, sft, Task(max_length=max_length), Batch(rows, 1), checkpointing, bench.scratch)

    name = {False: "no checkpointing", "selective": "selective checkpointing", True: "checkpointing"}[checkpointing]
    return bench.train(f"ours, {name}", work, make)


def theirs(bench: Bench, name: str, examples: list[dict], rows: int, max_length: int, model: dict, packing: bool = False):
    """Add a row for TRL with no argument of its own but those that keep it quiet; checkpointing is its default.

    Args:
        model: how random_model.build makes the base; by TRL's and bitsandbytes' defaults FP4, the rest and all products in float32.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from tunegate.train.arguments import drop_printer, quiet
    from tunegate.train.model import lora_config

    cuda = torch.cuda.is_available()
    work = Work(bench.shape, settings(bench, packing, rows), max_length, rows, packed=packing, checkpointing=True, attention="sdpa",
                on_cpu=not cuda)  # fmt: skip

    def make():
        arguments = SFTConfig(
            output_dir=str(bench.scratch), report_to=[], disable_tqdm=True, save_strategy="no", num_train_epochs=1, max_length=max_length,
            per_device_train_batch_size=rows, packing=packing, use_cpu=not cuda, dataloader_pin_memory=cuda,
            activation_checkpointing=True,  # its default, by the name that does not warn
        )  # fmt: skip
        with quiet():
            trainer = SFTTrainer(
                model=random_model.build(bench.size, "sdpa", **model), args=arguments, train_dataset=Dataset.from_list(examples),
                processing_class=bench.tokenizer, peft_config=lora_config(bench.lora),
            )  # fmt: skip
        drop_printer(trainer)
        return trainer

    return bench.train(name, work, make, predicted=False)


def unsloth(bench: Bench, examples: list[dict], rows: int, max_length: int) -> Timed | None:
    """Add rows for unsloth on the same weights in 4 bits and the same rows, in its own interpreter; give the faster one."""
    interpreter = os.environ.get("UNSLOTH_PYTHON")
    if not interpreter or not has_unsloth(interpreter):
        bench.say("unsloth", "not installed here")
        return None
    directory = bench.scratch / "model"
    random_model.save(random_model.build(bench.size, "sdpa"), bench.tokenizer, directory)
    random_model.save_examples(examples, directory / "rows.jsonl")
    free_memory()
    ours_gib = device_gib()  # this process stays on the device beside the peer
    work = Work(bench.shape, settings(bench, True, rows), max_length, rows, packed=True, attention="varlen")
    best = None
    for checkpointing, name in ((False, "unsloth, no checkpointing"), ("unsloth", "unsloth, its own checkpointing")):
        asked = {
            "model": str(directory), "rows": rows, "max_length": max_length, "checkpointing": checkpointing, "warm_up": bench.warm_up,
            "steps": bench.steps, "seconds": bench.left(), "lora": bench.lora.model_dump(),
        }  # fmt: skip
        if bench.left() <= 0:
            bench.say(name, "not run: the time was up")
            continue
        command = [interpreter, str(Path(__file__).with_name("unsloth_peer.py")), json.dumps(asked)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=bare())
        if done.returncode:
            bench.say(name, f"failed (exit code {done.returncode}); its message is above")
            continue
        timed = Timed(**json.loads(done.stdout.splitlines()[-1]))
        timed = replace(timed, held_gib=timed.held_gib - ours_gib)
        bench.add(name, timed, replace(work, checkpointing=bool(checkpointing)), predicted=False)
        best = timed if best is None or timed.tokens_per_second > best.tokens_per_second else best
    return best


def has_unsloth(interpreter: str) -> bool:
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('unsloth') is None)"
    return subprocess.run([interpreter, "-c", look], env=bare()).returncode == 0


def bare() -> dict[str, str]:
    """Give this environment without PYTHONPATH, which names our versions of what unsloth pins others of."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__, "8b")
    made.add_argument("--rows", type=int, default=ROWS, help="packed or padded rows to a step")
    made.add_argument("--max-length", type=int, help=f"tokens in a row (default: {TRL_MAX_LENGTH})")
    bench = Bench("QLoRA fine-tuning", arguments := made.parse_args(argv))
    rows, max_length = arguments.rows, arguments.max_length or bench.scale(TRL_MAX_LENGTH, 64)
    examples = bench.examples(rows, max_length)
    own = [ours(bench, examples, rows, max_length, checkpointing) for checkpointing in (False, "selective", True)]
    as_loaded = {"quantised": "fp4", "double": False, "dtype": torch.float32, "compute": torch.float32}
    defaults = theirs(bench, "TRL defaults", examples, rows, max_length, as_loaded)
    theirs(bench, "TRL, NF4 and bfloat16", examples, rows, max_length, {})
    theirs(bench, "TRL, the same and packing", examples, rows, max_length, {}, packing=True)
    peer = unsloth(bench, examples, rows, max_length)
    print(bench.table())
    fastest = max((timed.tokens_per_second for timed in own if timed), default=None)
    bench.goal("Ours beside TRL's defaults", fastest / defaults.tokens_per_second if fastest and defaults else None, 2.5, unit="×")
    bench.goal("Ours beside unsloth", fastest / peer.tokens_per_second if fastest and peer else None, 1.0, unit="×")
    shares = [100 * row["HFU"] for name, row in bench.rows.items() if name.startswith("ours") and "HFU" in row]
    bench.goal("HFU of ours", max(shares, default=None), 55, unit=" %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
