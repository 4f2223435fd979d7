"""The devices that a prediction is made for: memory, arithmetic, bandwidth, and a price to compare them by.

Rates are of dense bfloat16 matrix products, without sparsity, from NVIDIA's data sheets (A10G: the A10 as AWS has it, 70 TFLOP/s).
Memory is what PyTorch reports as a device's total, a little less than the name says. Prices are arbitrary round figures of the
order that clouds ask; a recipe gives its own.
"""

import time
from dataclasses import dataclass
from functools import cache

GIB = 2**30

# The share of a data sheet's rate that training with Hugging Face's libraries reaches, recomputation counted as work, one figure
# for each class of device. Data centre: LLaMA-Factory's wiki (2024-04), Llama-2-7B on an A100-40: 33 % in 4 bits, 40 % in 16.
# Cards whose memory is faster for each FLOP of theirs get nearer to it: torchtune on an RTX 4090 reaches 69 %, but compiled,
# which we do not do; 50 % is that less the 20 to 30 % that compilation gives.
DATA_CENTRE = 0.4
WORKSTATION = 0.5
# The demo on two idle Zen 4 cores: SmolLM2-135M at 228 tokens/s, 170 GFLOP/s. Their width allows some 470 at an assumed 3.7 GHz.
PROCESSOR = 0.4

# One instruction of AVX512_BF16 or AMX does twice the multiplications of float32's. Without either, bfloat16 is widened to
# float32 first; half its rate is a guess.
NATIVE_BF16 = 2.0
WIDENED_BF16 = 0.5
SIDE = 1024  # of the matrices that are multiplied to learn this CPU's rate
TRIALS = 5


@dataclass(frozen=True)
class Device:
    """A kind of device as a prediction sees it."""

    kind: str
    memory_gib: float
    tflops: float  # dense bfloat16
    bandwidth: float | None  # TB/s; None: its part in the time is in `utilisation`
    utilisation: float
    hourly_price: float  # for one device; arbitrary

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"

    @property
    def memory(self) -> float:
        """In bytes."""
        return self.memory_gib * GIB


GPUS = {
    device.kind: device
    for device in (
        Device("L4", 22.0, 121, 0.300, WORKSTATION, 0.7),
        Device("A10G", 22.1, 70, 0.600, WORKSTATION, 1.0),
        Device("RTX-4090", 23.6, 165, 1.008, WORKSTATION, 0.5),
        Device("A100-40", 39.4, 312, 1.555, DATA_CENTRE, 1.5),
        Device("A100-80", 79.1, 312, 2.039, DATA_CENTRE, 2.0),
        Device("H100", 79.1, 989, 3.350, DATA_CENTRE, 3.0),
        Device("H200", 139.8, 989, 4.800, DATA_CENTRE, 4.0),
    )
}


@cache
def this_cpu() -> Device:
    """Describe the CPU that plan runs on; its rate is measured, in about a tenth of a second.

    The rate moves with what else runs here, so nothing that a digest or a metric holds may depend on it. Memory is the machine's;
    where plan runs in a container, neither that nor its own limit need be what training will have: resources.gpu_memory_gib says.
    """
    import numpy as np
    import psutil

    matrix = np.ones((SIDE, SIDE), np.float32)
    seconds = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    factor = NATIVE_BF16 if _has_bf16() else WIDENED_BF16
    tflops = factor * 2 * SIDE**3 / min(seconds) / 1e12
    return Device("cpu", psutil.virtual_memory().total / GIB, tflops, None, PROCESSOR, 0.1)


def _has_bf16() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
