"""What a trainer does beside training: save, stop in time, keep the best weights, and refuse to go on when the loss is gone."""

import math
import shutil
import signal
import statistics
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from tunegate.errors import Refused
from tunegate.steps import say
from tunegate.train.checkpoints import Pusher, seal

BEST = "best.safetensors"
EXPLODED = 2.0  # times the first loss, and a nat more: what no training comes back from. Arbitrary

FIRST = 5  # losses whose median is the first loss


class Saving(TrainerCallback):
    """Save a checkpoint every `minutes` and on SIGTERM, and stop in time where a budget of hours runs out.

    Only the first process has a pusher; all of them must save, and agree on when.

    Attributes:
        stopped: why training ended before its last step: "" or "asked" or "budget".
        blocked: seconds for which training waited for checkpoints.
        kept: the step of the last checkpoint.
    """

    def __init__(
        self, pusher: Pusher | None, run: str, minutes: float, max_hours: float | None, seconds_before: float = 0.0, *, enabled: bool = True
    ):
        self.pusher, self.run, self.minutes, self.enabled = pusher, run, minutes, enabled
        self.max_seconds = max_hours * 3600 if max_hours else math.inf
        self.before = seconds_before
        self.asked = False
        self.stopped, self.kept = "", 0
        self.blocked = self.longest = 0.0
        self.loss_is_good = lambda: True

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
            self.saving = time.monotonic()

    def on_save(self, args, state, control, model=None, **kwargs):
        self.saved = time.monotonic()
        directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        _gather_random_states(directory, args.process_index, args.world_size)
        self.kept = state.global_step
        if args.process_index == 0:
            if all_finite(model):
                seal(directory, self.run, state.global_step, args.world_size, self.seconds)
                self.pusher.offer(directory, state.global_step)
            else:
                say(f"      The weights at step {state.global_step} are not numbers: no checkpoint of them is kept.")
                self.kept = 0
                shutil.rmtree(directory)
        else:
            shutil.rmtree(directory, ignore_errors=True)
        self.blocked += time.monotonic() - self.saving


class LossGuard(TrainerCallback):
    """End a training whose loss, or gradient, is no number or explodes for `patience` logged steps in a row.

    The checkpoint before them stays; none is written of a step whose loss was bad.
    """

    def __init__(self, name: str, patience: int):
        self.name, self.patience = name, patience
        self.first: list[float] = []
        self.bad, self.seen = 0, ""

    def good(self) -> bool:
        return self.bad == 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.first = [entry["loss"] for entry in state.log_history if "loss" in entry][:FIRST]  # after a resume

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        loss, gradient = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        finite = math.isfinite(loss) and math.isfinite(gradient)
        if finite and len(self.first) < FIRST:
            self.first.append(loss)
        if finite and loss <= EXPLODED * abs(statistics.median(self.first)) + 1:
            self.bad = 0
            return
        self.bad += 1
        self.seen = f"at step {state.global_step} the loss is {loss:.3g} (gradient norm {gradient:.3g})"
        if self.bad >= self.patience:
            raise self._diverged(f"{self.seen}, bad for {self.bad} logged steps in a row")

    def end(self, model) -> None:
        """Refuse a training that ended with a bad loss, before there were enough of them to stop it, or with broken weights."""
        if self.bad:
            raise self._diverged(f"{self.seen}, and it ended so")
        if not all_finite(model):
            raise self._diverged("its weights are not all numbers")

    def _diverged(self, what: str) -> Refused:
        return Refused(
            f"Training diverged: {what}. Lower {self.name}.learning_rate or raise {self.name}.warmup_steps. "
            "The last good checkpoint, if there was one, is kept."
        )


class KeepBest(TrainerCallback):
    """Stop when the loss on dev has not fallen for `patience` evaluations; leave the trainer with the weights of the lowest."""

    def __init__(self, patience: int, checkpoint: Path | None = None):
        self.patience = patience
        self.lowest, self.since, self.step = math.inf, 0, 0
        self.weights: dict[str, torch.Tensor] = {}
        if checkpoint is not None and (checkpoint / BEST).is_file():
            self.weights = load_file(checkpoint / BEST)
            with safe_open(checkpoint / BEST, "pt") as file:
                found = file.metadata()
            self.lowest, self.since, self.step = float(found["loss"]), int(found["since"]), int(found["step"])

    def on_evaluate(self, args, state, control, metrics=None, model=None, **kwargs):
        loss = (metrics or {}).get("eval_loss", math.nan)
        if loss < self.lowest:
            self.lowest, self.since, self.step = loss, 0, state.global_step
            self.weights = {name: value.detach().cpu().clone() for name, value in model.named_parameters() if value.requires_grad}
            return
        self.since += 1
        if self.since >= self.patience:
            say(f"      dev loss has not fallen below {self.lowest:.4f} for {self.since} evaluations: training stops")
            control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.weights and args.process_index == 0 and directory.is_dir():
            save_file(self.weights, directory / BEST, {"loss": repr(self.lowest), "since": str(self.since), "step": str(self.step)})

    def restore(self, model) -> None:
        """Put the best weights back."""
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name in self.weights:
                    value.copy_(self.weights[name])


def _any_process(flags: list[bool]) -> list[bool]:
    """Let all processes of a training know what any of them wants: they must save and stop at the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flags
    on = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    shared = torch.tensor([int(flag) for flag in flags], device=on)
    torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in shared.tolist()]


def _gather_random_states(directory: Path, rank: int, processes: int) -> None:
    """Bring the random states of all processes, which may be on other machines, into the first one's checkpoint."""
    if processes == 1:
        return
    own = (directory / f"rng_state_{rank}.pth").read_bytes()
    states: list[bytes] | None = [b""] * processes if rank == 0 else None
    torch.distributed.gather_object(own, states)
    for other, state in enumerate(states or []):
        (directory / f"rng_state_{other}.pth").write_bytes(state)


def all_finite(model) -> bool:
    """Look at what this process holds of the trainable weights; a part of each where they are sharded."""
    trained = (value for value in model.parameters() if value.requires_grad)
    return all(bool(torch.isfinite(getattr(value, "_local_tensor", value)).all()) for value in trained)
