"""Time DPO of an 8B QLoRA adapter with three references: a frozen copy of the adapter, its scores computed once, a second model.

    PYTHONPATH=src python tests/gpu/dpo_8b.py [--size tiny] [--pairs N] [--max-length N] [--checkpointing]

The first two are what tunegate does for one epoch and for several, the third is what is done without adapters. Scoring once is
timed apart: it costs its seconds once, and saves the reference's pass in each epoch.
"""

import sys
import time

import random_model
import torch
from bench import COLUMNS, Bench, parser

from tunegate.predict.work import Work
from tunegate.recipe import Prefer, Sft, Task

MAX_LENGTH = 1024
PAIRS = 4


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__, "8b")
    made.add_argument("--pairs", type=int, default=PAIRS, help=f"to a step (default: {PAIRS})")
    made.add_argument("--max-length", type=int, help=f"tokens in a conversation (default: {MAX_LENGTH})")
    made.add_argument("--checkpointing", action="store_true")
    columns = ("pairs/s", *COLUMNS, "s to score once")
    bench = Bench("DPO of a QLoRA adapter", arguments := made.parse_args(argv), columns)
    max_length, size = arguments.max_length or bench.scale(MAX_LENGTH, 64), arguments.pairs
    pairs = random_model.make_pairs(bench.size, (bench.warm_up + bench.steps + 1) * size, max_length - 6, median=bench.scale(600, 40))
    timed = {}
    for name, reference in (("adapter's copy, on the fly", "held"), ("scored once", "none"), ("second model", "computed")):
        timed[name] = one(bench, name, reference, pairs, size, max_length, arguments.checkpointing)
    print(bench.table())
    fly, once, second = timed.values()
    if fly and once and second:
        ratio = once.seconds / once.steps / (fly.seconds / fly.steps)
        print(f"Scored once, a step takes {ratio:.2f} times as long as on the fly.")
        print(f"A second model holds {second.allocated_gib - fly.allocated_gib:.2f} GiB more.")
    return 0


def one(bench: Bench, name: str, reference: str, pairs: list[dict], size: int, max_length: int, checkpointing: bool):
    from peft import get_peft_model

    from tunegate.train.batch import Batch
    from tunegate.train.model import lora_config
    from tunegate.train.preference import preference_trainer

    sft = Sft(packing=False, lora=bench.lora)
    prefer = Prefer(
        num_train_epochs=1, per_device_train_batch_size=size, gradient_accumulation_steps=1, precompute_ref_log_probs=reference == "none"
    )
    work = Work(bench.shape, sft, max_length, size, 2, False, checkpointing, "sdpa", reference, on_cpu=not torch.cuda.is_available())
    spent = {}

    def make():
        model = get_peft_model(random_model.build(bench.size, "sdpa"), lora_config(sft.lora))
        task, batch = Task(max_length=max_length), Batch(size, 1)
        if reference == "computed":
            return with_second_model(bench, model, pairs, prefer, max_length, batch, checkpointing)
        started = time.monotonic()
        trainer = preference_trainer(model, bench.tokenizer, pairs, prefer, task, batch, checkpointing, bench.scratch)
        if reference == "none":
            spent["s to score once"] = time.monotonic() - started
        return trainer

    done = bench.train(name, work, make, predicted=reference != "computed")
    if done:
        bench.rows[name] |= {"pairs/s": size * done.steps / done.seconds} | spent
    return done


def with_second_model(bench: Bench, model, pairs: list[dict], prefer: Prefer, max_length: int, batch, checkpointing: bool):
    """Make TRL's trainer with a whole second model in 4 bits as the reference; tunegate has no such way."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from tunegate.train.arguments import common, drop_printer, quiet
    from tunegate.train.batch import by_length
    from tunegate.train.model import train_in_float32
    from tunegate.train.preference import longest

    order = by_length([longest(pair, bench.tokenizer) for pair in pairs], batch.rows, prefer.seed)
    with quiet():
        trainer = DPOTrainer(
            model=model, ref_model=random_model.build(bench.size, "sdpa"), processing_class=bench.tokenizer,
            args=DPOConfig(
                **common(prefer, batch, checkpointing, bench.scratch), logging_steps=2, beta=prefer.beta, max_length=max_length,
                dataloader_drop_last=True, train_sampling_strategy="sequential",
            ),
            train_dataset=Dataset.from_list([pairs[i] for i in order]),
        )  # fmt: skip
    drop_printer(trainer)
    train_in_float32(trainer.model)
    return trainer


if __name__ == "__main__":
    sys.exit(main())
