"""Time optimizer steps of any transformers.Trainer, and see how much memory they hold. Needs torch and transformers alone.

Shapes: b rows of the micro-batch, t tokens in each.
"""

import gc
import math
import resource
import time
from dataclasses import dataclass

import torch
from transformers import TrainerCallback

GIB = 2**30


@dataclass(frozen=True)
class Timed:
    """What the timed steps did, all of them together."""

    steps: int
    seconds: float
    tokens: int  # of rows, without padding
    slots: int  # tokens that were computed, padding included
    labelled: int  # tokens in the loss
    row_squares: int  # sum over rows of length²: what attention must look at
    slot_squares: int  # sum over lines of t²: what attention looks at that knows no rows
    allocated_gib: float  # most that tensors held
    held_gib: float  # most that the process had of the device: tensors, the allocator's reserve, the CUDA context

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


class Stopwatch(TrainerCallback):
    """Let a trainer take `warm_up` optimizer steps and `steps` timed ones, then stop it; past `deadline` stop sooner."""

    def __init__(self, warm_up: int, steps: int, deadline: float = math.inf):
        self.warm_up, self.steps, self.deadline = warm_up, steps, deadline
        self.marks: list[float] = []
        self.counts: list[list[tuple]] = []
        free_memory()

    def follow(self, trainer):
        """Count what each step of `trainer` is given, and time it; gives the trainer."""
        inner = trainer.training_step

        def counted(model, inputs, *args, **kwargs):
            self.counts[-1].append(count(inputs))
            return inner(model, inputs, *args, **kwargs)

        trainer.training_step = counted
        trainer.add_callback(self)
        return trainer

    def on_train_begin(self, args, state, control, **kwargs):
        synchronize()
        self.marks, self.counts = [time.perf_counter()], [[]]

    def on_step_end(self, args, state, control, **kwargs):
        synchronize()
        self.marks.append(time.perf_counter())
        self.counts.append([])
        done = len(self.marks) - 1
        if done >= self.warm_up + self.steps or (done > self.warm_up and time.monotonic() > self.deadline):
            control.should_training_stop = True

    def result(self) -> Timed:
        steps = len(self.marks) - 1 - self.warm_up
        if steps < 1:
            raise RuntimeError(f"The rows gave {len(self.marks) - 1} optimizer steps; {self.warm_up} to warm up and one more are needed.")
        sums = [sum(int(one[i]) for step in self.counts[self.warm_up :] for one in step) for i in range(5)]
        return Timed(steps, self.marks[-1] - self.marks[self.warm_up], *sums, *peak_gib())


def count(inputs: dict) -> tuple:
    """Count tokens, slots, labels, and squares of rows and lines of one micro-batch; on the device, without waiting for it."""
    ids = inputs["input_ids"]
    b, t = ids.shape
    if inputs.get("attention_mask") is not None and inputs["attention_mask"].ndim == 2:
        lengths = inputs["attention_mask"].sum(1)
    else:
        lengths = row_lengths(inputs, b, t)
    learnt = inputs["labels"] != -100 if "labels" in inputs else inputs["completion_mask"] if "completion_mask" in inputs else None
    return lengths.sum(), b * t, lengths.sum() if learnt is None else learnt.sum(), (lengths.long() ** 2).sum(), b * t * t


def row_lengths(inputs: dict, b: int, t: int) -> torch.Tensor:
    """Read the lengths of packed rows from whichever form the collator gives them in."""
    if inputs.get("cu_seq_lens_q") is not None:
        return inputs["cu_seq_lens_q"].diff()
    if inputs.get("packed_seq_lengths") is not None:  # unsloth
        return inputs["packed_seq_lengths"]
    if inputs.get("position_ids") is not None:
        places = inputs["position_ids"].flatten()
        starts = torch.nonzero(places == 0).flatten()
        return torch.cat([starts, starts.new_tensor([len(places)])]).diff()
    return torch.full((b,), t)


def free_memory() -> None:
    """Give back what an earlier trainer held, and count peaks anew. (On a CPU the peak is the whole process's.)"""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> tuple[float, float]:
    if not torch.cuda.is_available():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
        return peak, peak
    context = device_gib() - torch.cuda.memory_reserved() / GIB
    return torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB + context


def device_gib() -> float:
    """Give what of the device is in use now, by any process."""
    if not torch.cuda.is_available():
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / GIB


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matmul_flops(side: int, warm_up: int = 3, times: int = 10) -> float:
    """Measure the rate of bfloat16 matrix products on random numbers, in FLOP/s: what MFU and HFU are shares of."""
    on = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(side, side, device=on, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(warm_up):
        a @ b
    synchronize()
    started = time.perf_counter()
    for _ in range(times):
        a @ b
    synchronize()
    return times * 2 * side**3 / (time.perf_counter() - started)
