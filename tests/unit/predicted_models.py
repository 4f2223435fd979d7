"""config.json of published models, as far as a prediction reads it, and a shorthand for one setting."""

from tunegate.predict.devices import GPUS, Device
from tunegate.predict.shape import read_shape
from tunegate.predict.work import Work, prefer_work, sft_work
from tunegate.recipe import Lora, Prefer, Sft


def config(hidden, ffn, layers, heads, key_value_heads, vocabulary, **more):
    return {
        "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads, "vocab_size": vocabulary, **more,
    }  # fmt: skip


CONFIGS = {
    "SmolLM2-135M": config(576, 1536, 30, 9, 3, 49152, tie_word_embeddings=True),
    "Qwen3-0.6B": config(1024, 3072, 28, 16, 8, 151936, head_dim=128, tie_word_embeddings=True),
    "Llama-3.2-3B": config(3072, 8192, 28, 24, 8, 128256, head_dim=128, tie_word_embeddings=True),
    "Llama-2-7B": config(4096, 11008, 32, 32, 32, 32000),
    "Llama-3.1-8B": config(4096, 14336, 32, 32, 8, 128256),
    "Qwen3-8B": config(4096, 12288, 36, 32, 8, 151936, head_dim=128),
    "Llama-2-13B": config(5120, 13824, 40, 40, 40, 32000),
    "LLaMA-30B": config(6656, 17920, 60, 52, 52, 32000),
    "LLaMA-65B": config(8192, 22016, 80, 64, 64, 32000),
    "Llama-3.1-70B": config(8192, 28672, 80, 64, 8, 128256),
}
SHAPES = {name: read_shape(document) for name, document in CONFIGS.items()}
CPU = Device("cpu", 16.0, 0.2, None, 0.4, 0.1)  # one that no measurement moves


def work(model: str, rows: int, length: int, device: Device | str = "A100-80", rank: int = 16, dropout: float = 0.0, **settings) -> Work:
    """Describe a step of sft as published ones are: checkpointed, one setting each."""
    sft = Sft(**{"gradient_checkpointing": True, **settings, "per_device_train_batch_size": rows, "lora": Lora(r=rank, dropout=dropout)})
    return sft_work(SHAPES[model], sft, length, GPUS[device] if isinstance(device, str) else device)


def pairs(model: str, rows: int, length: int, sft: dict | None = None, device: Device | str = "A100-80", **settings) -> Work:
    prefer = Prefer(**{"gradient_checkpointing": True, **settings, "per_device_train_batch_size": rows})
    return prefer_work(SHAPES[model], Sft(**(sft or {})), prefer, length, GPUS[device] if isinstance(device, str) else device)
