"""Parameters are those that were counted on the real models."""

import pytest
from predicted_models import SHAPES

from tunegate.predict.shape import read_shape
from tunegate.recipe import Lora


def test_parameters_are_those_of_the_real_models():
    assert SHAPES["Llama-3.1-8B"].parameters == 8_030_261_248
    assert SHAPES["SmolLM2-135M"].parameters == 134_515_008


@pytest.mark.parametrize(
    "model, count",
    [("Qwen3-0.6B", 10.1), ("Llama-2-7B", 40.0), ("Llama-3.1-8B", 41.9), ("Qwen3-8B", 43.6), ("Llama-3.1-70B", 207.1)],
)
def test_adapters_of_rank_16_on_all_linear_layers(model, count):
    assert round(SHAPES[model].adapter_parameters(Lora()) / 1e6, 1) == count


def test_adapter_parameters_are_those_that_peft_counts():
    shape = SHAPES["Llama-3.1-8B"]
    assert shape.adapter_parameters(Lora()) == 41_943_040
    assert shape.adapter_parameters(Lora(target_modules=["q_proj", "v_proj"])) == 6_815_744


def test_dora_adds_one_magnitude_for_each_output():
    shape = SHAPES["Llama-3.1-8B"]
    plain, dora = (shape.adapter_parameters(Lora(target_modules="q_proj", use_dora=flag)) for flag in (False, True))
    assert dora - plain == 32 * 4096


def test_a_model_that_is_not_built_like_llama_has_no_shape():
    assert read_shape({"model_type": "mamba", "hidden_size": 8}) is None
