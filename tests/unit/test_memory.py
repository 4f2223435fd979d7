"""Parameters and memory against figures that are published or were counted on the real models."""

import pytest

from tunegate.errors import BadInput
from tunegate.memory import GIB, read_shape, refuse_if_too_large, training_bytes
from tunegate.recipe import Lora, Prefer, Sft

LLAMA_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256,
}  # fmt: skip
SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


def test_parameters_are_those_of_the_real_models():
    assert read_shape(LLAMA_8B).parameters == 8_030_261_248
    assert read_shape(SMOLLM2).parameters == 134_515_008


def test_adapter_parameters_are_those_that_peft_counts():
    assert read_shape(LLAMA_8B).adapter_parameters(Lora()) == 41_943_040
    assert read_shape(LLAMA_8B).adapter_parameters(Lora(target_modules=["q_proj", "v_proj"])) == 6_815_744


def test_a_model_that_is_not_built_like_llama_has_no_shape():
    assert read_shape({"model_type": "mamba", "hidden_size": 8}) is None


def test_checkpointing_and_four_bits_save_memory():
    shape, sft, prefer = read_shape(LLAMA_8B), Sft(), Prefer()
    whole = training_bytes(shape, sft, prefer, 1024)
    assert training_bytes(shape, sft.model_copy(update={"gradient_checkpointing": True}), prefer, 1024) < whole / 3
    in_16_bit = training_bytes(shape, sft.model_copy(update={"load_in_4bit": False}), prefer, 1024)
    assert (in_16_bit - whole) / GIB == pytest.approx(9.65, abs=0.05)  # 7.0 billion weights at 2 bytes instead of 0.516


def test_what_does_not_fit_names_what_would():
    with pytest.raises(BadInput, match=r"about 52.4 GiB .* is 24\. What would fit: sft.gradient_checkpointing: true \(11.3 GiB\)"):
        refuse_if_too_large(read_shape(LLAMA_8B), Sft(), Prefer(), 1024, 24)
    assert refuse_if_too_large(read_shape(LLAMA_8B), Sft(), Prefer(), 1024, 80) < 80
