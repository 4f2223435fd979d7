"""Load the base model for training, and save adapters that say nothing of the machine they were trained on."""

import ctypes
import gc
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from tunegate.errors import BadInput
from tunegate.predict.unsuited import refuse_quantised
from tunegate.recipe import Lora, Sft
from tunegate.train.attention import register
from tunegate.train.sharding import sharded

# Environment and logs of a training child: lines for people, nothing asked of a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
# PEFT reads this property by the name that transformers has just given up.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")


register()


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_tokenizer(base: Path):
    """Load the tokenizer of a model directory.

    Raises:
        BadInput: it has no chat template, so a conversation has no agreed form.
    """
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise BadInput(f"The base model in {base} has no chat template. Use an instruct model, or add chat_template.jinja to it.")
    return tokenizer


def load_base(base: Path, config: Sft | None = None, attention: str = "", device_map: dict | str | None = None):
    """Load the base in bfloat16, or, to train on, as `config` says (in NF4 with double quantisation by default).

    Args:
        attention: transformers' name of an implementation; by default the one that trains fastest here.
        device_map: as in transformers; by default all of it is on this process' device, or sharded.

    Raises:
        BadInput: its weights are quantised already.
    """
    refuse_quantised(json.loads((base / "config.json").read_text(encoding="utf-8")), str(base))
    quantization = None
    if config is not None and config.load_in_4bit:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=config.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=config.bnb_4bit_use_double_quant,
            # bitsandbytes computes in float32 unless told otherwise.
            bnb_4bit_compute_dtype=torch.bfloat16,
            # FSDP shards what has the type of the other weights.
            bnb_4bit_quant_storage=torch.bfloat16 if sharded() else torch.uint8,
        )
    attention = attention or (config or Sft(packing=False)).attention(device() == "cuda")
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32 if config is not None and config.method == "full" else torch.bfloat16,
        quantization_config=quantization, device_map=device_map or (None if sharded() else {"": place()}),
        attn_implementation=attention,
        local_files_only=True, use_safetensors=True, trust_remote_code=False,
    )  # fmt: skip
    for module in model.modules():
        # On CPUs with AVX512-BF16 bitsandbytes 0.50 repacks a 4-bit weight the first time it is used without a gradient, for a
        # kernel that has none; training after an evaluation would then go on with gradients that are silently wrong.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def gpu_bytes() -> float:
    """Give the memory of its GPU that this process has or can still get, others on it having theirs; infinity without a GPU."""
    return torch.cuda.mem_get_info(place())[0] + torch.cuda.memory_reserved(place()) if device() == "cuda" else math.inf


def release_memory() -> None:
    """Give back to the GPUs what a training held that is over, in all of its processes, before any of them goes on."""
    gc.collect()  # a trainer is part of circles
    if device() == "cuda":
        torch.cuda.empty_cache()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def place() -> str:
    """Name the device of this process: under torchrun each has a GPU of its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device() == "cuda" else "cpu"


def lora_config(lora: Lora):
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.target_modules, use_dora=lora.use_dora,
        use_rslora=lora.use_rslora, task_type="CAUSAL_LM",
    )  # fmt: skip


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let glibc keep freed memory for the next step, as long as training on a CPU lasts.

    By default every large tensor is mapped and unmapped anew, and the kernel clears its pages each time: a third of a
    training step of the demo went there. Not for generation: its cache grows with each token, so no freed place ever fits
    again, and memory grows to three times the need. Constants: mallopt(3), M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD.
    """
    libc = ctypes.CDLL(None) if device() == "cpu" and sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    for name, value in ((-4, 0), (-1, 2**31 - 1), (-2, 256 * 2**20)):
        libc.mallopt(name, value)
    try:
        yield
    finally:
        for name, value in ((-4, 65536), (-1, 128 * 2**10), (-2, 128 * 2**10)):  # the defaults
            libc.mallopt(name, value)
        libc.malloc_trim(0)


def keep_attention(model) -> None:
    """Have activation checkpointing keep what attention gave, and compute the rest again ("selective").

    TRL 1.16 arranges that on the PeftModel around a model, where transformers 5.23 does not look, and its own key then
    reaches torch, which refuses it. It knows PyTorch's attention and flash-attn by name, and not `varlen`, which is computed again.
    """
    from trl.models import enable_selective_activation_checkpointing

    warnings.filterwarnings("ignore", message="`gradient_checkpointing_enable` is deprecated")
    enable_selective_activation_checkpointing(model)


def train_in_float32(model) -> None:
    """Hold the trainable weights in float32.

    TRL casts a QLoRA adapter to bfloat16, which keeps 8 bits of mantissa: an update smaller than about 1/256 of a weight
    is then rounded away, and at DPO's learning rates nearly all of them are. Autocast still computes in bfloat16.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def save_sharded(trainer, output: Path) -> None:
    """Gather what is trained from all processes, and write it in the first: all of them must call this."""
    for config in getattr(trainer.model, "peft_config", {}).values():
        config.base_model_name_or_path = "base"
    trainer.save_model(str(output))
    if trainer.args.process_index == 0:
        for name in ("README.md", "training_args.bin"):
            (output / name).unlink(missing_ok=True)


def save_adapter(model, tokenizer, output: Path) -> None:
    """Write adapter_model.safetensors, adapter_config.json and the tokenizer; no pickle, no path of this machine."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = "base"
    # Only the adapter: PEFT would look for the base model, to see whether its vocabulary grew.
    model.save_pretrained(output, selected_adapters=["default"], save_embedding_layers=False)
    (output / "README.md").unlink(missing_ok=True)  # PEFT's empty card template
    tokenizer.save_pretrained(output)


def save_model(model, tokenizer, output: Path) -> None:
    """Write all weights, in bfloat16: what method full trains, and what is served."""
    model.to(torch.bfloat16).save_pretrained(output, safe_serialization=True)
    tokenizer.save_pretrained(output)
