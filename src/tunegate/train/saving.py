"""Save a training as it goes: in time, in whole, and without costing it when that cannot be done."""

import math
import shutil
import signal
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from tunegate.steps import say
from tunegate.train.callbacks import KeepBest, all_finite
from tunegate.train.checkpoints import Pusher, seal
from tunegate.train.full_disk import full_disk


class Saving(TrainerCallback):
    """Save a checkpoint every `minutes` and on SIGTERM, and stop in time where a budget of hours runs out.

    Only the first process has a pusher; all of them must save, and agree on when.

    Attributes:
        stopped: why training ended before its last step: "" or "asked" or "budget".
        blocked: seconds for which training waited for checkpoints.
        kept: the step of the last checkpoint.
        lost: why there is none of the last step that should have had one.
    """

    def __init__(
        self, pusher: Pusher | None, run: str, minutes: float, max_hours: float | None, seconds_before: float = 0.0, *, enabled: bool = True
    ):
        self.pusher, self.run, self.minutes, self.enabled = pusher, run, minutes, enabled
        self.max_seconds = max_hours * 3600 if max_hours else math.inf
        self.before = seconds_before
        self.asked = False
        self.stopped, self.kept, self.lost = "", 0, ""
        self.blocked = self.longest = 0.0
        self.loss_is_good = lambda: True
        self.gathered = lambda: None  # by the log, see tunegate.train.curve

    @property
    def seconds(self) -> float:
        """Seconds trained so far, over all attempts."""
        return self.before + time.monotonic() - self.started

    def listen(self) -> None:
        """Take SIGTERM as the wish to save and go."""
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_) -> None:
        self.asked = True

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = self.saved = self.stepped = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        now = time.monotonic()
        self.longest = max(self.longest, now - self.stepped)
        self.stepped = now
        # The step under way and the last save must both end within the budget.
        over = self.seconds + 2 * self.longest >= self.max_seconds
        due = now - self.saved >= self.minutes * 60
        asked, over, due = _any_process([self.asked, over, due])
        if state.global_step >= state.max_steps:
            return
        if asked or over:
            self.stopped = "asked" if asked else "budget"
            control.should_training_stop = True
        if (asked or (due and not over)) and self.enabled:
            control.should_save = self.loss_is_good()
            self.lost = "" if control.should_save else "Its loss was bad."
            self.saving = time.monotonic()

    def forgive_a_full_disk(self, trainer, best: KeepBest | None) -> None:
        """Have a disk without room cost a checkpoint, and not the training; `best` writes its weights into each checkpoint."""
        save = trainer._save_checkpoint

        def attempt(*arguments):
            try:
                save(*arguments)
                if best is not None and trainer.args.process_index == 0:
                    best.write(_directory(trainer.args, trainer.state))
            except Exception as error:
                self.lost = full_disk(error)
                if not self.lost:
                    raise

        trainer._save_checkpoint = attempt

    def on_save(self, args, state, control, model=None, **kwargs):
        self.saved = time.monotonic()
        directory, first = _directory(args, state), args.process_index == 0
        gathered = self.gathered()
        (lost,) = _any_process([bool(self.lost)])
        if not lost:
            others = _random_states(directory, args.process_index, args.world_size)
            if first:
                self._complete(directory, state.global_step, args.world_size, others, gathered, model)
        if self.lost:
            then = "" if self.stopped else " Training goes on."
            say(f"      There is no checkpoint of step {state.global_step}. {self.lost}{then}")
        self.kept = 0 if lost or self.lost else state.global_step
        if first and self.kept:
            self.pusher.offer(directory, state.global_step)
        else:
            shutil.rmtree(directory, ignore_errors=True)
        self.blocked += time.monotonic() - self.saving

    def _complete(self, directory: Path, step: int, processes: int, others: list[bytes], gathered: dict | None, model) -> None:
        if not all_finite(model):
            self.lost = "Its weights are not all numbers."
            return
        try:
            for rank, random_state in enumerate(others):
                (directory / f"rng_state_{rank}.pth").write_bytes(random_state)
            seal(directory, self.run, step, processes, self.seconds, gathered)
        except OSError as error:
            self.lost = full_disk(error)
            if not self.lost:
                raise


def _any_process(flags: list[bool]) -> list[bool]:
    """Let all processes of a training know what any of them wants: they must save and stop at the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flags
    on = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    shared = torch.tensor([int(flag) for flag in flags], device=on)
    torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in shared.tolist()]


def _random_states(directory: Path, rank: int, processes: int) -> list[bytes]:
    """Bring the random states of all processes, which may be on other machines, to the first one; nothing where there is one."""
    if processes == 1:
        return []
    own = (directory / f"rng_state_{rank}.pth").read_bytes()
    states: list[bytes] | None = [b""] * processes if rank == 0 else None
    torch.distributed.gather_object(own, states)
    return states or []


def _directory(args, state) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
