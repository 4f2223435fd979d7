"""What one training step works on: the model, the batch on one device, and how its blocks are computed.

Memory and speed are both read off this, so that they cannot disagree about what is predicted.
"""

from dataclasses import dataclass
from typing import Literal

from tunegate.predict.devices import Device
from tunegate.predict.shape import Shape
from tunegate.recipe import Prefer, Sft, Training

Checkpointing = Literal[False, "selective", True]
NEVER, SELECTIVE, ALWAYS = False, "selective", True


@dataclass(frozen=True)
class Work:
    """One step of sft or prefer on one device. Letters: T tokens of the micro-batch, s of one sequence."""

    shape: Shape
    sft: Sft  # says how the base is held and what is trained, of prefer too
    max_length: int
    rows: int  # of the micro-batch
    sequences: int = 1  # to a row: chosen and rejected are two
    packed: bool = True  # the rows of a micro-batch lie behind one another, as one sequence
    checkpointing: Checkpointing = NEVER
    attention: str = "varlen"  # eager and sdpa look at every pair of tokens; varlen and flash_attention_2 skip what is masked
    reference: Literal["none", "computed", "held"] = "none"  # held: with a frozen copy of what is trained
    on_cpu: bool = False
    devices: int = 1
    sharded: bool = False  # weights and optimizer divided among the devices (FSDP), not repeated on each (DDP)

    @property
    def tokens(self) -> int:
        return self.rows * self.sequences * self.max_length

    @property
    def attended(self) -> int:
        """Tokens that one token is compared with: of the whole packed micro-batch, unless the kernel knows where rows end."""
        return self.tokens if self.packed and self.attention in ("eager", "sdpa") else self.max_length

    @property
    def dense_attention(self) -> bool:
        """Whether masked pairs are computed too. On a CPU varlen lays rows side by side and computes all pairs of each."""
        return self.attention in ("eager", "sdpa") or self.holds_scores

    @property
    def holds_scores(self) -> bool:
        return self.attention == "eager" or (self.attention == "varlen" and self.on_cpu)

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return self.shape.parameters if self.sft.method == "full" else self.shape.adapter_parameters(self.sft.lora)


def sft_work(shape: Shape, sft: Sft, max_length: int, device: Device) -> Work:
    """Describe a step of supervised fine-tuning, with one row and without checkpointing unless the recipe says."""
    attention = sft.attention(cuda=not device.is_cpu)
    return Work(
        shape, sft, max_length, _rows(sft), 1, sft.packing, _checkpointing(sft), attention, on_cpu=device.is_cpu
    )  # fmt: skip


def prefer_work(shape: Shape, sft: Sft, prefer: Prefer, max_length: int, device: Device) -> Work | None:
    """Describe a step of preference training; its rows are padded, not packed. None where there is none."""
    if prefer.method == "none":
        return None
    attention = sft.model_copy(update={"packing": False}).attention(cuda=not device.is_cpu)
    precomputed = prefer.precompute_ref_log_probs is True or (
        prefer.precompute_ref_log_probs == "auto" and prefer.num_train_epochs > 1
    )  # fmt: skip
    reference = "none" if prefer.method == "orpo" else "none" if precomputed and prefer.method == "dpo" else "held"
    return Work(
        shape, sft, max_length, _rows(prefer), 1 if prefer.method == "kto" else 2, False, _checkpointing(prefer), attention,
        reference, on_cpu=device.is_cpu,
    )  # fmt: skip


def row_choices(training: Training, devices: int) -> list[int]:
    """Give the micro-batches that the trainer may choose from, smallest first: the divisors of one device's part of a step."""
    if training.per_device_train_batch_size != "auto":
        return [training.per_device_train_batch_size]
    part = max(1, (training.train_batch_size or training.TRAIN_BATCH_SIZE) // devices)
    return [rows for rows in range(1, part + 1) if part % rows == 0 and rows % training.rows_together == 0] or [training.rows_together]


def checkpointing_choices(training: Training) -> list[Checkpointing]:
    """Give the ways of keeping activations that the trainer may choose from, fastest first."""
    return [NEVER, ALWAYS] if training.gradient_checkpointing == "auto" else [training.gradient_checkpointing]


def _rows(training: Training) -> int:
    return training.rows_together if training.per_device_train_batch_size == "auto" else training.per_device_train_batch_size


def _checkpointing(training: Training) -> Checkpointing:
    return NEVER if training.gradient_checkpointing == "auto" else training.gradient_checkpointing
