"""Say how training goes: a line at least every ten seconds, a loss log for the report, curves for MLflow."""

import math
import time

from transformers import TrainerCallback

from tunegate import tracking
from tunegate.errors import Refused
from tunegate.steps import say


class Progress(TrainerCallback):
    """Print, keep and track the trainer's logs; stop a run whose loss is no longer a number.

    Attributes:
        log: one {"step", "loss", "learning_rate", …} a logging step, for the report's charts.
    """

    def __init__(self, name: str, every_seconds: float = 8.0):
        self.name, self.every = name, every_seconds
        self.log: list[dict] = []
        self.started = self.said = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = self.said = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        now = time.monotonic()
        if now - self.said >= self.every or state.global_step == state.max_steps:
            self.said = now
            done, all_ = state.global_step, state.max_steps
            left = (now - self.started) / done * (all_ - done)
            loss = f", loss {self.log[-1]['loss']:.3f}" if self.log else ""
            say(f"      {self.name}: step {done}/{all_}{loss}, {left:.0f} s left")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        values = {k: float(v) for k, v in logs.items() if k != "epoch" and _is_number(v)}
        if not math.isfinite(values["loss"]):
            raise Refused(
                f"Training diverged: the loss at step {state.global_step} is {values['loss']}. "
                f"Lower {self.name}.learning_rate or raise {self.name}.warmup_steps; nothing was saved."
            )
        self.log.append({"step": state.global_step, **values})
        tracking.log_metrics(self.name, {_with_unit(k): v for k, v in values.items()}, state.global_step)


def _is_number(value) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _with_unit(name: str) -> str:
    return {"loss": "loss_nats_per_token", "grad_norm": "gradient_norm"}.get(name, name).replace("/", "_")
