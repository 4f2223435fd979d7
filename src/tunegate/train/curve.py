"""Carry the running averages of a trainer's log over a restart.

Trainer logs the mean loss of the steps since the last log, and TRL means of its own figures and a count of all tokens; none of
these is in a checkpoint of theirs, so the first loss logged after a resume would average fewer steps than it says.
"""

import torch
from transformers import TrainerCallback

METRICS = ("_metrics", "_stored_metrics")  # where TRL's trainers gather their figures: all but ORPO's, and ORPO's
TOKENS = "_total_train_tokens"


class Curve(TrainerCallback):
    """Give what was gathered since the last log, for a checkpoint, and put it back when training goes on from there.

    Args:
        found: what an earlier attempt gave; none where training starts anew.
    """

    def __init__(self, trainer, found: dict | None):
        self.trainer, self.found = trainer, found

    def gathered(self) -> dict:
        """All processes must call this: what they log is the mean over them."""
        trainer = self.trainer
        loss = trainer._tr_loss.detach().clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(loss)
            loss /= torch.distributed.get_world_size()
        return {
            "loss": float(loss),
            "logged_step": trainer._globalstep_last_logged,
            "tokens": getattr(trainer, TOKENS, 0),
            "metrics": {name: [float(value) for value in values] for name, values in self._metrics().items()},
        }

    def on_train_begin(self, args, state, control, **kwargs):
        if not self.found:
            return
        trainer = self.trainer
        trainer._tr_loss.fill_(self.found["loss"])
        trainer._globalstep_last_logged = self.found["logged_step"]
        if hasattr(trainer, TOKENS):
            setattr(trainer, TOKENS, self.found["tokens"])
        for name, values in self.found["metrics"].items():
            self._metrics()[name].extend(values)

    def _metrics(self) -> dict[str, list[float]]:
        return next(getattr(self.trainer, name) for name in METRICS if hasattr(self.trainer, name))["train"]
