"""Predict tokens per second: the arithmetic a token asks for, at the share of a device's rate that training reaches.

N are the weights of the blocks' linear layers, V those of the head. A forward pass takes 2 N, the gradients of the inputs 2 N
more, those of the weights, where they are trained, another 2 N, and recomputation in checkpointing 2 N. The head is fused: its
backward pass computes the logits anew. Kernels of causal attention take 2 of a head's width for each pair of tokens, those
that only mask 4; their backward pass takes 2.5 times that (FlashAttention recomputes the scores).
"""

from tunegate.predict.devices import Device
from tunegate.predict.work import ALWAYS, NEVER, Work

# A step of one block on a GPU starts some 240 kernels (each of 7 linear layers with its adapter and dequantisation 8 forward, the
# rest 25, twice that backward), one each 5 microseconds: what keeps a small model from filling a fast GPU. An order, not measured.
LAUNCH_SECONDS = 240 * 5e-6


def flops_per_token(work: Work) -> float:
    """Count what is executed for one token of a training step, recomputation included."""
    shape, full = work.shape, work.sft.method == "full"
    attention = shape.layers * shape.attention * (4 * work.attended if work.dense_attention else 2 * work.attended)
    forward = 2 * shape.linear_parameters + 2 * shape.head_parameters + attention
    blocks = (6 if full else 4) + (0 if work.checkpointing is NEVER else 2)
    total = blocks * shape.linear_parameters + (8 if full else 6) * shape.head_parameters
    total += (3.5 + (1 if work.checkpointing is ALWAYS else 0)) * attention
    if not full:
        total += 6 * work.trained
    return total + (forward if work.reference != "none" else 0)


def seconds_per_token(work: Work, device: Device) -> float:
    """Estimate the time of one token on one device: arithmetic and dequantisation, or starting kernels where that takes longer."""
    seconds = flops_per_token(work) / (device.tflops * 1e12 * device.utilisation)
    if work.sft.load_in_4bit and device.bandwidth:
        passes = (2 if work.checkpointing is NEVER else 3) + (1 if work.reference != "none" else 0)
        moved = work.shape.linear_parameters * (0.5625 + 2)  # bytes read in 4 bits and written in 16
        seconds += passes * moved / (device.bandwidth * 1e12) / work.tokens
    launches = 0.0 if device.is_cpu else work.shape.layers * LAUNCH_SECONDS / work.tokens
    return max(seconds, launches)


def tokens_per_second(work: Work, device: Device) -> float:
    """Estimate the rate of all devices together, which is taken to grow with their number."""
    return work.devices / seconds_per_token(work, device)
