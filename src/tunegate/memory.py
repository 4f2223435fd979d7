"""Predict parameters and GPU memory from a model's config.json, before a GPU is paid for.

Letters: h hidden size, f width of the MLP, L layers, a heads times head size, k key/value heads times head size,
v vocabulary. Covers models built like Llama (Mistral, Qwen, Gemma, SmolLM): gated MLP, grouped-query attention.
Not covered: mixtures of experts, vision towers, several GPUs.
"""

import math
from dataclasses import dataclass
from fnmatch import fnmatch

from tunegate.errors import BadInput
from tunegate.recipe import Lora, Prefer, Sft

GIB = 2**30
NF4_BYTES = 0.5 + 4 / 64  # one absmax in float32 per block of 64 weights
NF4_DOUBLE_BYTES = 0.5 + 0.127 / 8  # Dettmers et al. 2023, section 3: 0.127 bits per parameter instead of 0.5
ADAPTER_BYTES = 4 + 4 + 8  # weight, gradient and Adam's two moments in float32
HEAD_TILE_BYTES = 4096 * 32768 * 4  # TRL's fused head computes logits in tiles of 4096 tokens by 32768 words
CONTEXT_BYTES = 1.5 * GIB  # CUDA context, cuBLAS workspace, fragmentation; arbitrary


@dataclass(frozen=True)
class Shape:
    """The widths of a decoder's matrices."""

    hidden: int
    ffn: int
    layers: int
    attention: int
    key_value: int
    vocabulary: int
    tied: bool

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of one block, by their names in Llama."""
        h, f, a, k = self.hidden, self.ffn, self.attention, self.key_value
        return {
            "q_proj": (h, a), "k_proj": (h, k), "v_proj": (h, k), "o_proj": (a, h),
            "gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h),
        }  # fmt: skip

    @property
    def linear_parameters(self) -> int:
        return self.layers * sum(i * o for i, o in self.linear.values())

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.embedding_parameters + (2 * self.layers + 1) * self.hidden

    def adapter_parameters(self, lora: Lora) -> int:
        """Count the weights of a LoRA adapter: r (inputs + outputs) for each target layer."""
        wanted = lora.target_modules
        patterns = ["*"] if wanted == "all-linear" else [wanted] if isinstance(wanted, str) else wanted
        targets = [shape for name, shape in self.linear.items() if any(fnmatch(name, p) for p in patterns)]
        return lora.r * self.layers * sum(i + o for i, o in targets)


def read_shape(config: dict) -> Shape | None:
    """Read the shape from a parsed config.json; None where it is not built like Llama."""
    config = config.get("text_config", config)
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head = config.get("head_dim") or hidden // heads
        return Shape(
            hidden, config["intermediate_size"], config["num_hidden_layers"], heads * head,
            config.get("num_key_value_heads", heads) * head, config["vocab_size"], config.get("tie_word_embeddings", False),
        )  # fmt: skip
    except (KeyError, TypeError):
        return None


def training_bytes(shape: Shape, sft: Sft, prefer: Prefer, max_length: int) -> float:
    """Estimate the peak of the hungrier of sft and prefer, in bytes, on one GPU.

    Activations without checkpointing: (10 h + 3.5 f) values in bfloat16 for each layer and token, estimated from the
    tensors that a block keeps for its backward pass; with checkpointing one h for each layer and one whole block.
    """
    per_weight = 2.0 if not sft.load_in_4bit else NF4_DOUBLE_BYTES if sft.bnb_4bit_use_double_quant else NF4_BYTES
    weights = shape.linear_parameters * per_weight + shape.embedding_parameters * 2
    adapter = shape.adapter_parameters(sft.lora) * ADAPTER_BYTES
    rows = sft.per_device_train_batch_size
    if prefer.method != "none":
        rows = max(rows, 2 * prefer.per_device_train_batch_size)  # chosen and rejected
    block = (10 * shape.hidden + 3.5 * shape.ffn) * 2
    per_token = shape.layers * shape.hidden * 2 + block if sft.gradient_checkpointing else shape.layers * block
    return weights + adapter + rows * max_length * per_token + HEAD_TILE_BYTES + CONTEXT_BYTES


def refuse_if_too_large(shape: Shape, sft: Sft, prefer: Prefer, max_length: int, gpu_gib: float) -> float:
    """Return the predicted GiB, or refuse with the nearest settings that fit.

    Raises:
        BadInput: the prediction exceeds the GPU's memory.
    """
    need = training_bytes(shape, sft, prefer, max_length) / GIB
    if need <= gpu_gib:
        return need
    small_sft = {"per_device_train_batch_size": 1}
    small_prefer = prefer.model_copy(update=small_sft)
    remedies = [
        ("sft.load_in_4bit: true", sft.model_copy(update={"load_in_4bit": True}), prefer),
        ("sft.gradient_checkpointing: true", sft.model_copy(update={"gradient_checkpointing": True}), prefer),
        ("per_device_train_batch_size: 1 in sft and prefer", sft.model_copy(update=small_sft), small_prefer),
        (
            "sft.load_in_4bit: true, sft.gradient_checkpointing: true and per_device_train_batch_size: 1 in sft and prefer",
            sft.model_copy(update={"load_in_4bit": True, "gradient_checkpointing": True, **small_sft}), small_prefer,
        ),
    ]  # fmt: skip
    fitting = [(text, training_bytes(shape, s, p, max_length) / GIB) for text, s, p in remedies]
    fitting = [f"{text} ({gib:.1f} GiB)" for text, gib in fitting if gib <= gpu_gib]
    advice = f"What would fit: {' or '.join(fitting[:2])}" if fitting else "No setting of ours fits it"
    raise BadInput(
        f"Training needs about {need:.1f} GiB of GPU memory, and resources.gpu_memory_gib is {gpu_gib:g}. "
        f"{advice}; or a GPU of {math.ceil(need)} GiB."
    )
