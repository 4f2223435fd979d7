"""Divide the rows of an optimizer step: how many a device takes at once, and how often it does before it steps."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tunegate.errors import BadInput
from tunegate.recipe import Training
from tunegate.steps import say

ROOM = 0.9  # of a device's memory may be used: the rest is for fragments and rows longer than those measured. Arbitrary
WORTH = 1.05  # a larger micro-batch must be this much faster: more memory for less is a risk. Arbitrary


@dataclass(frozen=True)
class Batch:
    """`rows` rows at once on each device, `accumulation` times to an optimizer step."""

    rows: int
    accumulation: int

    def halved(self) -> "Batch":
        """Half the rows at once, twice as often: the same optimizer step in less memory. An odd number is not halved."""
        if self.rows % 2:
            raise BadInput(f"A micro-batch of {self.rows} rows cannot be halved.")
        return Batch(self.rows // 2, self.accumulation * 2)


@dataclass(frozen=True)
class Measured:
    """One try of a micro-batch: `fits` within the memory, at `speed` tokens per second."""

    fits: bool
    speed: float = 0.0


def first_process() -> bool:
    """Say whether this is the process that writes, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def given(config: Training, devices: int) -> Batch | None:
    """Give the batch that the recipe fixes; None where it is to be measured.

    Raises:
        BadInput: train_batch_size cannot be divided among so many devices.
    """
    rows, accumulation = config.per_device_train_batch_size, config.gradient_accumulation_steps
    if rows == "auto":
        share(config, devices)
        return None
    if accumulation != "auto":
        return Batch(rows, accumulation)
    part = share(config, devices)
    if part % rows:
        raise BadInput(f"train_batch_size gives each of {devices} devices {part} rows, which is no multiple of {rows} at once.")
    return Batch(rows, part // rows)


def whole(config: Training, devices: int) -> int:
    """Give the rows of an optimizer step over all devices."""
    if "auto" in (config.per_device_train_batch_size, config.gradient_accumulation_steps):
        return config.train_batch_size or config.TRAIN_BATCH_SIZE
    return config.per_device_train_batch_size * config.gradient_accumulation_steps * devices


def by_length(lengths: list[int], batch: int, seed: int) -> list[int]:
    """Order rows so that each batch holds rows of like length, and batches come in no order of length.

    Trainer's own group_by_length draws its order from the global random state, so a resumed run may see other rows than the
    one it continues; this order is fixed by the seed, the same in each epoch.
    """
    random = Random(seed)
    order = sorted(random.sample(range(len(lengths)), len(lengths)), key=lambda i: -lengths[i])  # equal lengths stay shuffled
    groups = [order[start : start + batch] for start in range(0, len(order), batch)]
    first, rest = groups[0], groups[1:]  # the longest first: what does not fit into memory fails at once
    full = [group for group in rest if len(group) == batch]
    partial = [group for group in rest if len(group) < batch]
    return [i for group in [first, *random.sample(full, len(full)), *partial] for i in group]


def share(config: Training, devices: int) -> int:
    """Give one device's rows of an optimizer step."""
    rows = whole(config, devices)
    least = devices * config.rows_together
    if rows % least:
        how = "equally" if config.rows_together == 1 else f"in multiples of {config.rows_together} rows"
        raise BadInput(f"train_batch_size is {rows}, which {devices} devices cannot share {how}. Choose a multiple of {least}.")
    return rows // devices


def fastest(rows: int, attempt: Callable[[int], Measured], least: int = 1) -> Batch:
    """Find the fastest micro-batch among the divisors of `rows`: try `least`, twice that … until one does not fit, or is not faster.

    Raises:
        BadInput: not even `least` rows fit.
    """
    best, speed = 0, 0.0
    size = least
    while rows % size == 0:
        started = time.monotonic()
        measured = attempt(size)
        if not measured.fits:
            break
        say(f"      micro-batch of {size}: {measured.speed:.0f} tokens/s ({time.monotonic() - started:.1f} s to measure)")
        if measured.speed < speed * WORTH:
            break
        best, speed = size, measured.speed
        size *= 2
    if not best:
        at_least = "one row at a time fits" if least == 1 else f"{least} rows at a time fit"
        raise BadInput(f"Not even {at_least} into the memory of this device. Shorten task.max_length, or load_in_4bit.")
    return Batch(best, rows // best)
