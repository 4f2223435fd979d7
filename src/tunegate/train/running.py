"""Run a trainer so that nothing is lost: divide the batch, resume from the newest whole checkpoint, save, stop in time."""

import contextlib
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import set_seed

from tunegate import tracking
from tunegate.errors import BadInput, Interrupted
from tunegate.recipe import Training
from tunegate.steps import say
from tunegate.store import Store
from tunegate.train import batch as batches
from tunegate.train.batch import Batch, Measured, first_process, processes
from tunegate.train.callbacks import KeepBest, LossGuard
from tunegate.train.checkpoints import Checkpoints, Pusher, document, read_seal
from tunegate.train.curve import Curve
from tunegate.train.model import device, gpu_bytes, keeping_freed_memory
from tunegate.train.progress import Progress
from tunegate.train.saving import Saving

GRACE_SECONDS = 45.0  # to push a last checkpoint when asked to stop; a pod has 600, a spot node 30 to 120. Arbitrary


@dataclass
class Attempt:
    """Where one attempt at a training keeps its checkpoints and settings; empty: nowhere, it starts anew each time."""

    store: Store | None = None
    run: str = ""
    limit: int = 2
    price_per_hour: float = 0.0
    checkpoints: Checkpoints | None = field(init=False, default=None)

    def __post_init__(self):
        if self.store is not None:
            self.checkpoints = Checkpoints(self.store, self.run, self.limit)

    @property
    def settings(self) -> dict | None:
        """How an earlier attempt divided the batch, if it did so among as many processes."""
        found = self.store.read_json(document(self.run, "settings")) if self.store is not None else None
        return found if found and found["processes"] == processes() else None

    def keep_settings(self, batch: Batch, checkpointing: bool, rows_together: int) -> None:
        """Write down how the batch was divided: a later attempt takes the same, or what a supervisor made of it."""
        if self.store is not None and first_process():
            self.store.write_json(document(self.run, "settings"), {
                "rows": batch.rows, "accumulation": batch.accumulation, "checkpointing": checkpointing, "rows_together": rows_together,
                "processes": processes(),
            })  # fmt: skip


@dataclass
class Ran:
    """What a training did."""

    trainer: object
    batch: Batch
    seconds: float  # over all attempts
    seconds_now: float  # of this one
    log: list[dict]
    stopped: str
    blocked: float
    resumed_from: int
    checkpointing: bool | str
    best_step: int = 0

    @property
    def summary(self) -> dict:
        said = {
            "steps": self.trainer.state.global_step,
            "seconds_train": round(self.seconds, 1),
            "per_device_train_batch_size": self.batch.rows,
            "gradient_accumulation_steps": self.batch.accumulation,
            "processes": processes(),
            "gradient_checkpointing": self.checkpointing,
            "seconds_blocked_by_checkpoints": round(self.blocked, 3),
            "resumed_from_step": self.resumed_from,
            "log": self.log,
        }
        if self.stopped == "budget":
            said["stopped"] = f"the budget ended training at step {self.trainer.state.global_step} of {self.trainer.state.max_steps}"
        if self.best_step:
            said["best_step"] = self.best_step
        return said


def run(name: str, config: Training, attempt: Attempt, build: Callable, patience: int | None = None) -> Ran:
    """Train what `build` makes to its end, or as far as its budget goes.

    Args:
        build: (batch, checkpointing: False, True or "selective") -> a transformers.Trainer.
        patience: evaluations without a lower loss on dev, after which training stops; its best weights are then the result.

    Raises:
        Interrupted: it was asked to stop; a checkpoint of that step is in the store, if there is one.
        Refused: the loss was no number, or exploded.
    """
    trainer, batch, checkpointing = _divided(config, attempt, build)
    found = attempt.checkpoints.newest() if attempt.checkpoints else None
    sealed = read_seal(found[1]) if found else {"seconds": 0.0, "processes": processes(), "curve": None}
    if sealed["processes"] != processes() and first_process():
        say(f"      {name}: the checkpoint is of {sealed['processes']} processes, and these are {processes()}: random numbers will differ")
    before = sealed["seconds"]
    pusher = Pusher(attempt.checkpoints) if attempt.checkpoints and first_process() else None
    guard, progress, curve = LossGuard(name, config.max_bad_steps), Progress(name), Curve(trainer, sealed["curve"])
    enabled = attempt.checkpoints is not None
    saving = Saving(pusher, attempt.run, config.save_minutes, _hours(config, attempt), before, enabled=enabled)
    saving.loss_is_good, saving.gathered = guard.good, curve.gathered
    saving.listen()
    best = KeepBest(patience, found[1] if found else None) if patience else None
    saving.forgive_a_full_disk(trainer, best)
    for callback in filter(None, (guard, progress, curve, best, saving)):  # saving comes last: it takes what the others left
        trainer.add_callback(callback)
    trainer.args.logging_steps = _logging_steps(trainer, batch, config)
    set_seed(config.seed)  # measuring has drawn from it
    try:
        with keeping_freed_memory():
            trainer.train(resume_from_checkpoint=str(found[1]) if found else None)
        guard.end(trainer.model)
        if saving.stopped == "asked":
            _say_interrupted(name, trainer, saving, pusher)
    finally:
        if pusher:
            pusher.close()
        tracking.flush()
    seconds = saving.seconds
    if best is not None:
        best.restore(trainer.model)
    return Ran(
        trainer, batch, seconds, seconds - before, progress.log, saving.stopped, saving.blocked, found[0] if found else 0,
        checkpointing, best.step if best else 0,
    )  # fmt: skip


def _logging_steps(trainer, batch: Batch, config: Training) -> int:
    """Log each step of a short training, and every tenth of a long one."""
    steps = len(trainer.train_dataset) * config.num_train_epochs / (batch.rows * batch.accumulation * processes())
    return int(min(10, max(1, steps / 100)))


def _hours(config: Training, attempt: Attempt) -> float | None:
    limits = [config.max_hours]
    if config.max_cost is not None:
        if not attempt.price_per_hour:
            raise BadInput("max_cost is set and resources.hourly_price is 0. Set the price of an hour, or max_hours instead.")
        limits.append(config.max_cost / attempt.price_per_hour)
    return min((limit for limit in limits if limit is not None), default=None)


def _say_interrupted(name: str, trainer, saving: Saving, pusher: Pusher | None) -> None:
    step, all_ = trainer.state.global_step, trainer.state.max_steps
    if pusher is None and first_process():
        raise Interrupted(f"{name} was asked to stop at step {step} of {all_}. It has no store to save to: nothing was kept.")
    if pusher is not None and not pusher.wait(GRACE_SECONDS):
        raise Interrupted(f"{name} was asked to stop at step {step} of {all_}; its checkpoint was not stored in {GRACE_SECONDS:.0f} s.")
    if saving.kept != step:
        raise Interrupted(f"{name} was asked to stop at step {step} of {all_}. The checkpoint before is the last. {saving.lost}")
    raise Interrupted(f"{name} was asked to stop at step {step} of {all_}, and saved a checkpoint. Started again it goes on.")


def _divided(config: Training, attempt: Attempt, build: Callable):
    """Build the trainer with its batch divided: as an earlier attempt did, as the recipe says, or as measured."""
    settings = attempt.settings
    checkpointing = config.gradient_checkpointing if config.gradient_checkpointing != "auto" else False
    batch = batches.given(config, processes())
    if settings:
        batch = Batch(settings["rows"], settings["accumulation"])
        checkpointing = checkpointing or settings["checkpointing"]
    trainer = build(batch or Batch(config.rows_together, 1), checkpointing)
    if batch is None:
        rows = batches.share(config, processes())
        try:
            batch = batches.fastest(rows, Measure(trainer), config.rows_together)
        except BadInput:
            if checkpointing or config.gradient_checkpointing != "auto":
                raise
            checkpointing = True
            trainer.model.gradient_checkpointing_enable()
            trainer.model.enable_input_require_grads()
            batch = batches.fastest(rows, Measure(trainer), config.rows_together)
        batch = _agreed(batch)
        take(trainer, batch)
    attempt.keep_settings(batch, bool(checkpointing), config.rows_together)
    return trainer, batch, checkpointing


def _agreed(batch: Batch) -> Batch:
    """Take the smallest micro-batch that any process found: all must step together."""
    if processes() == 1:
        return batch
    rows = torch.tensor([batch.rows], device=device())
    torch.distributed.all_reduce(rows, op=torch.distributed.ReduceOp.MIN)
    return Batch(int(rows), batch.rows * batch.accumulation // int(rows))


def take(trainer, batch: Batch) -> None:
    """Give a built trainer another batch; Trainer copies these numbers when it is built."""
    trainer.args.per_device_train_batch_size = trainer._train_batch_size = batch.rows
    trainer.args.gradient_accumulation_steps = batch.accumulation
    trainer.accelerator.gradient_accumulation_steps = batch.accumulation


class Measure:
    """Time one micro-batch of the longest rows, forward and backward, and see whether it fits into memory."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.rows = trainer.train_dataset
        if trainer.args.remove_unused_columns:
            trainer._set_signature_columns_if_needed()
            self.rows = self.rows.select_columns([c for c in self.rows.column_names if c in trainer._signature_columns])
        lengths = [sum(len(v) for v in row.values() if isinstance(v, list)) for row in self.rows]
        self.longest = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        self.room = batches.ROOM * gpu_bytes()
        self.peaks: list[tuple[int, float]] = []  # size, bytes of this process at the peak (CPU only)

    def __call__(self, size: int) -> Measured:
        if not self._may_fit(size):
            return Measured(False)
        trainer = self.trainer
        chosen = [self.rows[i] for i in (self.longest * size)[:size]]
        metrics = {mode: dict(values) for mode, values in getattr(trainer, "_metrics", {}).items()}
        counted = getattr(trainer, "_total_train_tokens", 0)
        try:
            for _ in range(2):  # the first one warms up
                started = time.perf_counter()
                self._step(trainer.data_collator(chosen))
                seconds = time.perf_counter() - started
            fits = not torch.cuda.is_available() or torch.cuda.max_memory_allocated() <= self.room
        except (torch.OutOfMemoryError, MemoryError):
            return Measured(False)
        finally:
            trainer.model.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            for mode, values in metrics.items():
                trainer._metrics[mode].clear()
                trainer._metrics[mode].update(values)
            if hasattr(trainer, "_total_train_tokens"):
                trainer._total_train_tokens = counted
        self.peaks.append((size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
        tokens = sum(len(v) for row in chosen for name, v in row.items() if name.endswith("input_ids") or name.endswith("_ids"))
        return Measured(fits, tokens / seconds)

    def _step(self, collated: dict) -> None:
        trainer = self.trainer
        trainer.model.train()
        inputs = trainer._prepare_inputs(collated)
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _may_fit(self, size: int) -> bool:
        """On a CPU foresee the need: too much would not fail, it would have this process killed."""
        if torch.cuda.is_available() or len(self.peaks) < 2:
            return True
        (small, low), (large, high) = self.peaks[-2:]
        return (high - low) / (large - small) * (size - large) < batches.ROOM * _free_bytes()


def _free_bytes() -> int:
    """Give the memory left to this process: of the machine, or of its container where that has less."""
    import psutil

    free = psutil.virtual_memory().available
    place = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no limit reads "max"
        free = min(free, int((place / "memory.max").read_text()) - int((place / "memory.current").read_text()))
    return free
