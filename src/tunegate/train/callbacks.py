"""What a trainer watches while it trains: that the loss is not gone, and which weights are the best. Saving has a file of its own."""

import math
import statistics
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from tunegate.errors import Refused
from tunegate.steps import say

BEST = "best.safetensors"
EXPLODED = 2.0  # times the first loss, and a nat more: what no training comes back from. Arbitrary

FIRST = 5  # losses whose median is the first loss


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

    def write(self, directory: Path) -> None:
        """Put the best weights so far into a checkpoint."""
        if self.weights:
            save_file(self.weights, directory / BEST, {"loss": repr(self.lowest), "since": str(self.since), "step": str(self.step)})

    def restore(self, model) -> None:
        """Put the best weights back."""
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name in self.weights:
                    value.copy_(self.weights[name])


def all_finite(model) -> bool:
    """Look at what this process holds of the trainable weights; a part of each where they are sharded."""
    trained = (value for value in model.parameters() if value.requires_grad)
    return all(bool(torch.isfinite(getattr(value, "_local_tensor", value)).all()) for value in trained)
