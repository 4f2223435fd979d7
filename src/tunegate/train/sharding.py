"""Decide whether the GPUs of a training hold all weights each (DDP), or a part of them each (FSDP).

Not run yet: this needs two GPUs, because accelerate shards on none of the backends of a CPU. What is tested is the decision.

Preference training is never sharded, and plan refuses a recipe whose preference training would need it: it compares with a frozen
copy of the adapter, which TRL scores, before FSDP has divided anything, where the reference is precomputed.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

from tunegate.errors import BadInput
from tunegate.predict.devices import Device
from tunegate.predict.memory import peak_bytes
from tunegate.predict.shape import read_shape
from tunegate.predict.work import sft_work
from tunegate.recipe import Sft
from tunegate.steps import say

FLAG = "ACCELERATE_USE_FSDP"  # what transformers and accelerate look at, too


def sharded() -> bool:
    """Say whether this training divides the weights among its processes."""
    return os.environ.get(FLAG) == "true"


def hold_whole() -> None:
    """Tell the libraries that this training does not shard, whatever the environment says."""
    os.environ[FLAG] = "false"


def decide(config: Sft, max_length: int, base: Path, processes: int, memory_bytes: float) -> bool:
    """Shard where the recipe says so, or where whole weights would not fit; tell the libraries, before they load anything.

    Args:
        memory_bytes: of one GPU; infinite on a CPU, which never shards by itself.

    Raises:
        BadInput: sharding is asked for and there is one process; or it meets early stopping, whose best weights no process holds.
    """
    wanted = config.fsdp
    if wanted is True and processes == 1:
        raise BadInput("sft.fsdp is true, and this training has one GPU. Ask for more (resources.gpus, nodes), or set it to auto.")
    if wanted == "auto":
        wanted = processes > 1 and not _fits_whole(config, max_length, base, processes, memory_bytes)
    if wanted and config.early_stopping_patience:
        raise BadInput(
            "sft.early_stopping_patience keeps the best weights, which a sharded training (FSDP) holds nowhere whole. Remove it."
        )
    os.environ[FLAG] = "true" if wanted else "false"
    if wanted:
        say(f"      sft: the weights are divided among {processes} GPUs (FSDP)")
    return bool(wanted)


def arguments(checkpointing: bool | str) -> dict:
    """Give transformers.TrainingArguments for sharding; FSDP recomputes activations in its own way."""
    if not sharded():
        return {}
    return {
        "fsdp": True,
        "fsdp_config": {"version": 2, "activation_checkpointing": bool(checkpointing), "state_dict_type": "FULL_STATE_DICT"},
        "activation_checkpointing": False,
        "activation_checkpointing_kwargs": None,
    }


def _fits_whole(config: Sft, max_length: int, base: Path, processes: int, memory_bytes: float) -> bool:
    shape = read_shape(json.loads((base / "config.json").read_text(encoding="utf-8")))
    if shape is None:  # not predicted; out of memory is then said by the training itself
        return True
    work = sft_work(shape, config, max_length, Device("gpu", memory_bytes / 2**30, 1.0, None, 1.0, 0.0))
    return peak_bytes(replace(work, devices=processes)) <= memory_bytes
