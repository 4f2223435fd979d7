"""Models of real shapes with random weights, made on the device one matrix at a time, and rows of random tokens to train them on.

Speed and memory depend on shapes and lengths alone, so no weights need be downloaded. A matrix is drawn in 16 bits and quantised
before the next one is drawn: a model of 70 billion weights never exists in more than its 4 bits.
"""

import json
from pathlib import Path

import numpy as np
import torch

import tunegate.train.model  # noqa: F401  it makes varlen attention known, and libraries quiet
from tunegate.predict.shape import Shape, read_shape

# From the config.json of Llama-3.1-8B and -70B and Llama-3.2-1B; "tiny" is for CPUs.
LLAMA = {
    "model_type": "llama", "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "max_position_embeddings": 131072,
}  # fmt: skip
CONFIGS = {
    "8b": LLAMA | {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "70b": LLAMA | {
        "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "1b": LLAMA | {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128256, "tie_word_embeddings": True,
    },
    "tiny": LLAMA | {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 512, "max_position_embeddings": 4096,
    },
}  # fmt: skip
STD = 0.02  # of the weights, as transformers draws Llama's

UNKNOWN, TURN, END, USER, ASSISTANT = "<unk>", "<turn>", "<end>", "user", "assistant"
SPECIAL = 5  # ids before the first word
TEMPLATE = (
    "{% for message in messages %}<turn> {{ message['role'] }} {{ message['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<turn> assistant {% endif %}"
)
TURN_TOKENS = 3  # that the template puts around a turn

# Lengths of instruction rows are close to log-normal. Median and spread are arbitrary, of the order of the open instruction sets.
MEDIAN, SIGMA = 300, 0.8


def shape_of(size: str) -> Shape:
    return read_shape(CONFIGS[size])


def device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def build(size: str, attention: str, quantised: str | None = "nf4", double: bool = True, dtype=torch.bfloat16, compute=torch.bfloat16,
          seed: int = 0):  # fmt: skip
    """Make a Llama with random weights on the device, as from_pretrained would hand it over.

    Args:
        quantised: what the linear layers of the blocks are held in: "nf4", "fp4", or None for `dtype`.
        dtype: of everything else, and of what is quantised before it is.
        compute: what bitsandbytes multiplies in.
    """
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
    from transformers.quantizers import AutoHfQuantizer

    config = LlamaConfig(**CONFIGS[size], dtype=dtype, pad_token_id=2, bos_token_id=1, eos_token_id=2)
    config._attn_implementation = attention
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(dtype)
    quantizer = None
    if quantised:
        quantizer = AutoHfQuantizer.from_config(
            BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type=quantised, bnb_4bit_use_double_quant=double, bnb_4bit_compute_dtype=compute
            ),
            pre_quantized=False,
        )  # fmt: skip
        quantizer.preprocess_model(model, device_map={"": str(device())})
    generator = torch.Generator(device()).manual_seed(seed)
    _fill(model, dtype, generator)
    if quantizer:
        quantizer.postprocess_model(model)
        model.hf_quantizer = quantizer
    model.hf_device_map = {"": device()}
    return model


def _fill(model, dtype, generator) -> None:
    for module in model.modules():
        for name, empty in list(module.named_parameters(recurse=False)):
            module._parameters[name] = _drawn(module, empty, dtype, generator)
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # see tunegate.train.model.load_base
    model.tie_weights()
    # Its frequencies are a buffer that is computed, not stored, and on the meta device there was nothing to compute.
    with device():
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)


def _drawn(module, empty, dtype, generator):
    if empty.ndim == 1:  # a norm
        return torch.nn.Parameter(torch.ones(empty.shape, dtype=dtype, device=device()), requires_grad=False)
    if type(module).__name__ != "Linear4bit":
        value = torch.empty(empty.shape, dtype=dtype, device=device()).normal_(0, STD, generator=generator)
        return torch.nn.Parameter(value, requires_grad=False)
    import bitsandbytes

    value = torch.empty(module.out_features, module.in_features, dtype=dtype, device=device()).normal_(0, STD, generator=generator)
    # Moving it to its device is what quantises it.
    return bitsandbytes.nn.Params4bit(value, requires_grad=False, **empty.__dict__).to(device())


def make_tokenizer(size: str):
    """Make a tokenizer of as many words as the model knows: w5, w6 … are the tokens 5, 6 …"""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [UNKNOWN, TURN, END, USER, ASSISTANT, *(f"w{i}" for i in range(SPECIAL, CONFIGS[size]["vocab_size"]))]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token=UNKNOWN, bos_token=TURN, eos_token=END, pad_token=END)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def draw_lengths(tokens: int, longest: int, seed: int = 0, median: float = MEDIAN) -> list[int]:
    """Draw log-normal lengths, cut off at `longest`, until they add up to `tokens`."""
    random, drawn = np.random.default_rng(seed), []
    while sum(drawn) < tokens:
        drawn.append(int(np.clip(random.lognormal(np.log(median), SIGMA), 16, longest)))
    return drawn


def make_examples(size: str, lengths: list[int], seed: int = 0) -> list[dict]:
    """Make finished rows, ids and labels; the loss is on all tokens."""
    random = np.random.default_rng(seed)
    rows = [random.integers(SPECIAL, CONFIGS[size]["vocab_size"], length).tolist() for length in lengths]
    return [{"input_ids": ids, "labels": list(ids)} for ids in rows]


def make_pairs(size: str, count: int, longest: int, seed: int = 0, median: float = MEDIAN) -> list[dict]:
    """Make pairs whose conversations have log-normal lengths of at most `longest` tokens; a third of each is its prompt."""
    random, pairs = np.random.default_rng(seed), []

    def words(tokens: float) -> str:
        return " ".join(f"w{i}" for i in random.integers(SPECIAL, CONFIGS[size]["vocab_size"], max(1, int(tokens) - TURN_TOKENS)))

    def turn(role: str, tokens: float) -> list[dict]:
        return [{"role": role, "content": words(tokens)}]

    for _ in range(count):
        asked, *said = np.clip(random.lognormal(np.log(median), SIGMA, 3), 24, longest) * (1 / 3, 2 / 3, 2 / 3)
        pairs.append({"prompt": turn("user", asked), "chosen": turn("assistant", said[0]), "rejected": turn("assistant", said[1])})
    return pairs


def save(model, tokenizer, directory: Path) -> None:
    """Write the model as it is, in 4 bits where it is so, for a peer that loads it in another interpreter."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def save_examples(examples: list[dict], path: Path) -> None:
    path.write_text("".join(json.dumps(example) + "\n" for example in examples), encoding="utf-8")
