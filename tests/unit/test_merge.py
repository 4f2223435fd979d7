"""Merging: the same weights as PEFT's own merge, and a clear no to what does not fit."""

import json
import shutil

import pytest

from tunegate.errors import BadInput
from tunegate.recipe import Merge


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False))
    directory = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(directory)
    return directory


def test_merged_weights_equal_pefts_merge(tiny_base, adapter, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tunegate.merge import merge

    summary = merge(Merge(), tiny_base, adapter, tmp_path / "model")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), adapter).merge_and_unload()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    for (name, a), (_, b) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        assert torch.equal(a.to(torch.bfloat16), b), name
    assert summary["tensors_merged"] == 14
    assert summary["kl_merge_nats"] < 0.01


def test_half_the_scale_goes_half_the_way(tiny_base, adapter, tmp_path):
    from safetensors import safe_open

    from tunegate.merge import merge

    merge(Merge(), tiny_base, adapter, tmp_path / "whole")
    merge(Merge(adapter_scale=0.5), tiny_base, adapter, tmp_path / "half")
    name = "model.layers.0.self_attn.q_proj.weight"
    base, half, whole = (
        safe_open(d / "model.safetensors", "pt").get_tensor(name).float() for d in (tiny_base, tmp_path / "half", tmp_path / "whole")
    )
    assert ((half - base) - (whole - base) / 2).abs().max() < 0.01 * (whole - base).abs().max()


def test_an_adapter_of_another_shape_is_refused(tiny_base, adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    from tunegate.merge import merge

    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    tensors = load_file(other / "adapter_model.safetensors")
    save_file({k.replace("layers.1", "layers.7"): v for k, v in tensors.items()}, other / "adapter_model.safetensors")
    with pytest.raises(BadInput, match="does not fit the base model"):
        merge(Merge(), tiny_base, other, tmp_path / "model")


def test_dora_is_refused(tiny_base, adapter, tmp_path):
    from tunegate.merge import merge

    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    config = json.loads((other / "adapter_config.json").read_text()) | {"use_dora": True}
    (other / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="not plain LoRA"):
        merge(Merge(), tiny_base, other, tmp_path / "model")
