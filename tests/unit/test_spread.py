"""Whole 16-bit weights go on one GPU where they fit, else on all; a shared GPU has what others leave."""

import math

import pytest

from tunegate.errors import BadInput

GIB = 2**30


@pytest.mark.parametrize(
    "needed, free, own, wanted",
    [
        (16, [79], 0, {"": "cuda:0"}),
        (16, [2, 79], 1, {"": "cuda:1"}),
        (16, [17, 79], 0, "auto"),  # 17 GiB less the tenth that is left alone are too little
        (132, [79, 79], 0, "auto"),
    ],
)
def test_the_own_gpu_is_taken_before_all_of_them(needed, free, own, wanted):
    from tunegate.train.spread import chosen

    assert chosen(needed * GIB, [gib * GIB for gib in free], own) == wanted


def test_what_fits_nowhere_is_refused_with_what_to_do():
    from tunegate.train.spread import chosen

    with pytest.raises(BadInput, match=r"132.0 GiB in 16 bits, and 1 GPUs have 79.0 GiB free.*resources.gpus, or set prefer.method: none"):
        chosen(132 * GIB, [79 * GIB], 0)


def test_weights_are_counted_by_their_headers(tiny_base):
    from tunegate.train.model import load_base
    from tunegate.train.spread import device_map, sixteen_bit_bytes

    assert sixteen_bit_bytes(tiny_base) == 2 * sum(value.numel() for value in load_base(tiny_base).parameters())
    assert device_map(tiny_base) == {"": "cpu"}


def test_a_shared_gpu_has_what_others_leave(monkeypatch):
    import torch

    from tunegate.train.model import gpu_bytes

    assert gpu_bytes() == math.inf
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (10 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda gpu: 6 * GIB)
    assert gpu_bytes() == 16 * GIB
