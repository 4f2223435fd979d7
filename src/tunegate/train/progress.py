"""Say how training goes: a line at least every ten seconds, a loss log for the report, curves for MLflow."""

import math
import time

from transformers import TrainerCallback

from tunegate import tracking
from tunegate.steps import say


class Progress(TrainerCallback):
    """Print, keep and track the trainer's logs.

    Attributes:
        log: one {"step", "loss", "learning_rate", …} a logged step, for the report's charts; after a resume, those before it too.
            What is no number is left out: JSON has no name for it, and a loss that stays so ends the training.
    """

    def __init__(self, name: str, every_seconds: float = 8.0):
        self.name, self.every = name, every_seconds
        self.log: list[dict] = []
        self.started = self.said = 0.0
        self.first_step = self.first_tokens = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = self.said = time.monotonic()
        self.first_step = state.global_step
        self.log = [{"step": entry["step"], **kept} for entry in state.log_history if "loss" in (kept := _finite(_numbers(entry)))]
        self.first_tokens = self.log[-1].get("num_tokens", 0) if self.log else 0
        if self.first_step:
            # What the process before this one could not send to MLflow is in the checkpoint.
            tracking.log_history(
                self.name, [{"step": e["step"]} | {_with_unit(k): v for k, v in e.items() if k != "step"} for e in self.log]
            )
            say(f"      {self.name}: going on from step {self.first_step} of {state.max_steps}")

    def on_step_end(self, args, state, control, **kwargs):
        now = time.monotonic()
        if args.process_index == 0 and (now - self.said >= self.every or state.global_step == state.max_steps):
            self.said = now
            done, all_ = state.global_step, state.max_steps
            left = (now - self.started) / (done - self.first_step) * (all_ - done)
            loss = f", loss {self.log[-1]['loss']:.3f}" if self.log else ""
            say(f"      {self.name}: step {done}/{all_}{loss}{self._speed(now)}, {left:.0f} s left")

    def _speed(self, now: float) -> str:
        tokens = self.log[-1].get("num_tokens", 0) - self.first_tokens if self.log else 0
        return f", {tokens / (now - self.started):.0f} tokens/s" if tokens > 0 else ""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs:
            return
        values = _numbers(logs)
        if "loss" in (kept := _finite(values)):
            self.log.append({"step": state.global_step, **kept})
        if args.process_index == 0 and ("loss" in values or "eval_loss" in values):
            tracking.log_metrics(self.name, {_with_unit(k): v for k, v in values.items()}, state.global_step)


def _numbers(logs: dict) -> dict[str, float]:
    values = {}
    for name, value in logs.items():
        try:
            values[name] = float(value)
        except (TypeError, ValueError):
            continue
    return {name: value for name, value in values.items() if name not in ("epoch", "step")}


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _with_unit(name: str) -> str:
    units = {"loss": "loss_nats_per_token", "eval_loss": "dev_loss_nats_per_token", "grad_norm": "gradient_norm"}
    return units.get(name, name).replace("/", "_")
