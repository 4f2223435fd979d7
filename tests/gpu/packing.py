"""Time rows of log-normal lengths padded, padded by length, packed under sdpa and packed under varlen attention.

    PYTHONPATH=src python tests/gpu/packing.py [--size tiny] [--rows N ...] [--max-length N] [--checkpointing]

tokens/s are of rows: padding does not count. "fill" is the share of what is computed that is rows. Under sdpa packed rows
cost a mask of all tokens by all tokens, and attention between rows that it throws away: it loses as the micro-batch grows.
"""

import sys

import random_model
import torch
from bench import Bench, parser
from sft_8b import settings

from tunegate.predict.work import Work
from tunegate.recipe import Task

MAX_LENGTH = 2048
VARIANTS = (
    ("padded", False, "sdpa", "random"),
    ("padded, by length", False, "sdpa", "group_by_length"),
    ("packed, sdpa", True, "sdpa", "random"),
    ("packed, varlen", True, "varlen", "random"),
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__, "8b")
    made.add_argument("--rows", type=int, nargs="+", default=[4, 8], help="micro-batches")
    made.add_argument("--max-length", type=int, help=f"tokens in a row (default: {MAX_LENGTH})")
    made.add_argument("--no-checkpointing", dest="checkpointing", action="store_false")
    bench = Bench("Padded and packed", arguments := made.parse_args(argv))
    max_length = arguments.max_length or bench.scale(MAX_LENGTH, 128)
    gains = []
    for rows in arguments.rows:
        examples = bench.examples(rows, max_length)
        timed = {name: one(bench, f"{name}, {rows} × {max_length}", rows, max_length, examples, arguments.checkpointing, *how)
                 for name, *how in VARIANTS}  # fmt: skip
        if timed["padded"] and timed["packed, varlen"]:
            gains.append(timed["packed, varlen"].tokens_per_second / timed["padded"].tokens_per_second)
    print(bench.table())
    bench.goal("Packed varlen beside padded", max(gains, default=None), 1.5, unit="×")
    return 0


def one(bench: Bench, name: str, rows: int, max_length: int, examples: list[dict], checkpointing: bool, packing: bool, attention: str,
        order: str):  # fmt: skip
    from tunegate.train.batch import Batch
    from tunegate.train.sft import sft_trainer

    sft = settings(bench, packing, rows).model_copy(update={"train_sampling_strategy": order})
    work = Work(bench.shape, sft, max_length, rows, packed=packing, checkpointing=checkpointing, attention=attention,
                on_cpu=not torch.cuda.is_available())  # fmt: skip

    def make():
        model = random_model.build(bench.size, attention)
        return sft_trainer(model, bench.tokenizer, examples, sft, Task(max_length=max_length), Batch(rows, 1), checkpointing, bench.scratch)

    return bench.train(name, work, make)


if __name__ == "__main__":
    sys.exit(main())
