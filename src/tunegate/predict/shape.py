"""Read the widths of a decoder's matrices from its config.json, and count its parameters.

Covers models built like Llama (Mistral, Qwen, Gemma, SmolLM): gated MLP, grouped-query attention.
Not covered: mixtures of experts, vision towers, the small vectors of biases and of norms inside attention.
"""

from dataclasses import dataclass
from fnmatch import fnmatch

from tunegate.recipe import Lora


@dataclass(frozen=True)
class Shape:
    """The widths of a decoder's matrices; `attention` is heads times head size, `key_value` the same for keys and values."""

    hidden: int
    ffn: int
    layers: int
    heads: int
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
    def block_parameters(self) -> int:
        return sum(i * o for i, o in self.linear.values())

    @property
    def linear_parameters(self) -> int:
        return self.layers * self.block_parameters

    @property
    def head_parameters(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def embedding_parameters(self) -> int:
        return self.head_parameters * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.embedding_parameters + (2 * self.layers + 1) * self.hidden

    def targets(self, lora: Lora) -> set[str]:
        """Name the linear layers of a block that get an adapter."""
        wanted = lora.target_modules
        patterns = ["*"] if wanted == "all-linear" else [wanted] if isinstance(wanted, str) else wanted
        return {name for name in self.linear if any(fnmatch(name, pattern) for pattern in patterns)}

    def adapter_parameters(self, lora: Lora) -> int:
        """Count the weights of an adapter: r (inputs + outputs) for each target layer, and DoRA's magnitude of each output."""
        layers = [self.linear[name] for name in self.targets(lora)]
        return self.layers * sum(lora.r * (i + o) + (o if lora.use_dora else 0) for i, o in layers)


def read_shape(config: dict) -> Shape | None:
    """Read the shape from a parsed config.json; None where it is not built like Llama."""
    config = config.get("text_config", config)
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head = config.get("head_dim") or hidden // heads
        return Shape(
            hidden, config["intermediate_size"], config["num_hidden_layers"], heads, heads * head,
            config.get("num_key_value_heads", heads) * head, config["vocab_size"], config.get("tie_word_embeddings", False),
        )  # fmt: skip
    except (KeyError, TypeError):
        return None
