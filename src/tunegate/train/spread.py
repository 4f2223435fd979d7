"""Decide which GPUs hold a model that is not trained: this process' own, or all of the machine where that is too small.

Not run on several GPUs: what is tested is the decision; transformers and accelerate divide the layers.
"""

import math
import os
from pathlib import Path

import torch
from safetensors import safe_open

from tunegate.errors import BadInput
from tunegate.train.batch import ROOM
from tunegate.train.model import gpu_bytes, place


def device_map(base: Path) -> dict[str, str] | str:
    """Give transformers' device_map for the 16-bit weights of `base`."""
    if not torch.cuda.is_available():
        return {"": place()}
    own = int(os.environ.get("LOCAL_RANK", "0"))
    free = [gpu_bytes() if gpu == own else torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())]
    return chosen(sixteen_bit_bytes(base), free, own)


def sixteen_bit_bytes(base: Path) -> int:
    """Count the weights of a model by the headers of its files, at two bytes each."""
    count = 0
    for shard in base.glob("*.safetensors"):
        with safe_open(shard, "pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118 - no mapping
    return 2 * count


def chosen(needed: float, free: list[float], own: int) -> dict[str, str] | str:
    """Choose the own GPU where the weights fit into a part of it, else all of them ("auto").

    Args:
        free: bytes that can be had of each GPU of this machine.
        own: which of them is this process'.

    Raises:
        BadInput: all of them together are too small.
    """
    if needed <= ROOM * free[own]:
        return {"": f"cuda:{own}"}
    if needed <= ROOM * sum(free):
        return "auto"
    raise BadInput(
        f"The merged model has {needed / 2**30:.1f} GiB in 16 bits, and {len(free)} GPUs have {sum(free) / 2**30:.1f} GiB free together, "
        f"of which {ROOM:.0%} are used. Raise resources.gpus, or set prefer.method: none."
    )
