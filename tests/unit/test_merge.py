"""Merging: the same weights as PEFT's own merge, and a clear no to what does not fit."""

import json
import shutil

import pytest

from tunegate.errors import BadInput
from tunegate.recipe import Merge


def make_adapter(base, directory, **kind):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, **kind))
    for name, value in model.named_parameters():
        if "magnitude" in name:
            value.data *= 1 + 0.1 * torch.rand_like(value)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory):
    return make_adapter(tiny_base, tmp_path_factory.mktemp("adapter"))


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


@pytest.mark.parametrize("kind", [{"use_rslora": True}, {"use_dora": True}], ids=["rslora", "dora"])
def test_other_kinds_merge_as_peft_merges_them(kind, tiny_base, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tunegate.merge import merge

    adapter = make_adapter(tiny_base, tmp_path / "adapter", **kind)
    assert merge(Merge(), tiny_base, adapter, tmp_path / "model")["kl_merge_nats"] < 0.01
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), adapter).merge_and_unload()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    for (name, a), (_, b) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        torch.testing.assert_close(a, b.float(), rtol=2**-8, atol=1e-6, msg=name)  # bfloat16's rounding, once


def test_an_adapter_with_trained_biases_is_refused(tiny_base, adapter, tmp_path):
    from tunegate.merge import merge

    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    config = json.loads((other / "adapter_config.json").read_text()) | {"bias": "all"}
    (other / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="neither LoRA nor DoRA"):
        merge(Merge(), tiny_base, other, tmp_path / "model")


def test_a_model_trained_whole_is_taken_or_met_half_way(tiny_base, tmp_path):
    from safetensors.torch import load_file, save_file

    from tunegate.merge import merge

    trained = tmp_path / "trained"
    shutil.copytree(tiny_base, trained)
    base = load_file(trained / "model.safetensors")
    moved = {name: (value * 1.5 if "q_proj" in name else value) for name, value in base.items()}
    save_file(moved, trained / "model.safetensors")
    assert merge(Merge(), tiny_base, trained, tmp_path / "whole")["tensors"] == len(base)
    merge(Merge(adapter_scale=0.5), tiny_base, trained, tmp_path / "half")
    whole, half = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert all(bool((whole[n] == moved[n]).all()) for n in base)
    assert bool((half[name] == ((base[name].float() + moved[name].float()) / 2).to(half[name].dtype)).all())
    assert (tmp_path / "whole" / "chat_template.jinja").is_file()
    with pytest.raises(BadInput, match="neither an adapter nor a model"):
        merge(Merge(), tiny_base, tmp_path, tmp_path / "none")
