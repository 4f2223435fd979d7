"""Train an 8B QLoRA adapter with no more than 24 GiB of the device, and see what fits and how fast it is.

    PYTHONPATH=src python tests/gpu/memory_24gib.py [--size tiny] [--cap GIB] [--rows N ...] [--max-length N]

The cap is PyTorch's (set_per_process_memory_fraction): what goes beyond it fails as it would on a smaller card. The CUDA context
lies outside of it. The last row is a recipe's default: micro-batch and checkpointing are measured, not given.
"""

import sys

import random_model
import torch
from bench import Bench, parser
from sft_8b import settings

from tunegate.predict.work import Work
from tunegate.recipe import Sft, Task

CAP_GIB = 24.0
MAX_LENGTH = 1024
STEP_ROWS = 16  # packed rows to an optimizer step where the micro-batch is measured


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__, "8b")
    made.add_argument("--cap", type=float, default=CAP_GIB, help=f"GiB (default: {CAP_GIB:g})")
    made.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16], help="micro-batches to try")
    made.add_argument("--max-length", type=int, help=f"tokens in a packed row (default: {MAX_LENGTH})")
    arguments = made.parse_args(argv)
    bench = Bench(f"QLoRA under {arguments.cap:g} GiB", arguments)
    max_length = arguments.max_length or bench.scale(MAX_LENGTH, 64)
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(min(1.0, arguments.cap * 2**30 / torch.cuda.get_device_properties(0).total_memory))
    least = None
    for checkpointing, said in ((True, "checkpointing"), ("selective", "selective"), (False, "no checkpointing")):
        for rows in sorted(arguments.rows):
            done = fixed(bench, f"{said}, {rows} × {max_length}", rows, max_length, checkpointing)
            if done is None:
                break  # more rows do not fit either
            least = done.held_gib if least is None else min(least, done.held_gib)
    measured(bench, max_length)
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0)
    print(bench.table())
    bench.goal("Least memory of the device", least, 12, below=True, unit=" GiB")
    return 0


def fixed(bench: Bench, name: str, rows: int, max_length: int, checkpointing):
    from tunegate.train.batch import Batch
    from tunegate.train.sft import sft_trainer

    sft = settings(bench, True, rows)
    work = Work(bench.shape, sft, max_length, rows, checkpointing=checkpointing, on_cpu=not torch.cuda.is_available())
    examples = bench.examples(rows, max_length)

    def make():
        model = random_model.build(bench.size, "varlen")
        return sft_trainer(model, bench.tokenizer, examples, sft, Task(max_length=max_length), Batch(rows, 1), checkpointing, bench.scratch)

    return bench.train(name, work, make)


def measured(bench: Bench, max_length: int) -> None:
    """Add a row for tunegate.train.running.run, which finds the batch; the time of finding it is not in the row."""
    from tunegate.train.running import Attempt, run
    from tunegate.train.sft import sft_trainer

    whole = bench.scale(STEP_ROWS, 2)
    sft = Sft(num_train_epochs=1, train_batch_size=whole, replay_share=0, lora=bench.lora)
    examples = bench.examples(whole, max_length)
    found = []

    def how(watch):
        def build(batch, checkpointing):
            model, task = random_model.build(bench.size, "varlen"), Task(max_length=max_length)
            return watch.follow(sft_trainer(model, bench.tokenizer, examples, sft, task, batch, checkpointing, bench.scratch))

        ran = run("sft", sft, Attempt(), build)
        found.append((ran.batch, ran.checkpointing))

    timed = bench.time(how)
    if isinstance(timed, str):
        bench.say("a recipe's default", timed)
        return
    batch, checkpointing = found[0]
    work = Work(bench.shape, sft, max_length, batch.rows, checkpointing=checkpointing, on_cpu=not torch.cuda.is_available())
    said = "checkpointing" if checkpointing else "no checkpointing"
    bench.add(f"a recipe's default: {said}, {batch.rows} × {max_length}, {batch.accumulation} to a step", timed, work)


if __name__ == "__main__":
    sys.exit(main())
