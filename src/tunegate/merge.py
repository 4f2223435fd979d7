"""Merge what was trained into the 16-bit base, tensor by tensor, and check that nothing changed on the way.

LoRA: W' = W + scale · (alpha / r) · B A, computed in float32 and rounded once to the base's dtype (Hu et al. 2021, §4.1).
DoRA: the rows of that, each brought to its learnt length (Liu et al. 2024, eq. 5). All weights: W + scale · (trained - W),
which is WiSE-FT (Wortsman et al. 2022) where scale is below 1. An adapter was trained against the 4-bit base; merging into
those weights would re-quantise the update away, so the 16-bit base is used, and the distance between what was trained and
what will be served is measured.
"""

import json
import shutil
from pathlib import Path

from tunegate.errors import BadInput, Refused
from tunegate.recipe import Merge
from tunegate.steps import Inputs, Result, say

MAX_MERGE_KL = 0.01  # nats; adapter beside the base against the merged weights, both bfloat16: rounding only
PARITY_PROMPTS = (
    "Turn on the kitchen lights.", "What is the capital of France?", "Write one sentence about the sea.",
    "List three even numbers.", "Explain in one line why the sky is blue.", "Set a timer for five minutes.",
)  # fmt: skip


def merge_step(config: dict, inputs: Inputs, output: Path) -> Result:
    summary = merge(Merge.model_validate(config["merge"]), inputs["base"], inputs["adapter"], output / "model")
    line = f"{summary['tensors_merged']} of {summary['tensors']} tensors"
    if "kl_merge_nats" in summary:
        line += f", KL to the adapter {summary['kl_merge_nats']:.1e} nats"
    return Result(summary, metrics={k: float(v) for k, v in summary.items()}, line=line)


def merge(config: Merge, base: Path, adapter: Path, output: Path) -> dict:
    """Write base + adapter as 16-bit safetensors, with config, tokenizer and chat template, to `output`.

    Memory: one tensor at a time beside one shard being written.

    Raises:
        BadInput: the adapter is not plain LoRA, or does not fit the base (missing, unused or misshapen tensors).
        Refused: the merged model answers differently from base plus adapter.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    if not (adapter / "adapter_config.json").is_file():
        return _whole(config, base, adapter, output)
    lora = json.loads((adapter / "adapter_config.json").read_text())
    if lora.get("peft_type") != "LORA" or lora.get("bias", "none") != "none" or lora.get("modules_to_save"):
        raise BadInput(f"The adapter in {adapter} is neither LoRA nor DoRA, or trains more than these; such an adapter cannot be merged.")
    _copy_about(base, output)
    merged = total = 0
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as deltas:
        left = set(deltas.keys())
        for shard in sorted(base.glob("*.safetensors")):
            say(f"      merge: {shard.name}")
            tensors = {}
            with safe_open(shard, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - safe_open is not a mapping
                    weight = weights.get_tensor(name)
                    total += 1
                    stem = f"base_model.model.{name.removesuffix('.weight')}"
                    keys = (f"{stem}.lora_A.weight", f"{stem}.lora_B.weight")
                    if keys[0] in left:
                        lengths = f"{stem}.lora_magnitude_vector"
                        weight = _add(
                            weight, *(deltas.get_tensor(k) for k in keys), _scale(lora, name) * config.adapter_scale, name,
                            deltas.get_tensor(lengths) if lengths in left else None,
                        )  # fmt: skip
                        left -= {*keys, lengths}
                        merged += 1
                    tensors[name] = weight
                save_file(tensors, output / shard.name, metadata={"format": "pt"})
    if left or not merged:
        raise BadInput(
            f"The adapter does not fit the base model: {len(left)} of its tensors have no place, for instance {sorted(left)[:1]}."
        )
    summary = {"tensors": total, "tensors_merged": merged} | _parity(base, adapter, output, config.adapter_scale)
    if summary["kl_merge_nats"] > MAX_MERGE_KL:
        raise Refused(
            f"The merged model differs from base plus adapter by {summary['kl_merge_nats']:.3g} nats per token (limit {MAX_MERGE_KL}). "
            "The adapter was trained on another base, or the merge is broken; nothing was kept."
        )
    return summary


def _copy_about(base: Path, output: Path) -> None:
    """Copy what a model directory holds beside its weights: configuration, tokenizer, chat template."""
    output.mkdir(parents=True)
    for file in sorted(base.iterdir()):
        if file.is_file() and file.suffix in (".json", ".txt", ".model", ".jinja") and file.name != "MANIFEST.json":
            shutil.copyfile(file, output / file.name)


def _whole(config: Merge, base: Path, trained: Path, output: Path) -> dict:
    """Write a model whose weights were all trained, or what lies between it and the base."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    if not any(trained.glob("*.safetensors")):
        raise BadInput(f"{trained} holds neither an adapter nor a model. Give what sft or prefer wrote.")
    _copy_about(base, output)
    for index in output.glob("*.index.json"):
        index.unlink()  # the shards are those of the trained model
    for index in trained.glob("*.index.json"):
        shutil.copyfile(index, output / index.name)
    where = {}
    for shard in sorted(base.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as weights:
            where |= dict.fromkeys(weights.keys(), shard)
    total = 0
    for shard in sorted(trained.glob("*.safetensors")):
        say(f"      merge: {shard.name}")
        tensors = {}
        with safe_open(shard, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - safe_open is not a mapping
                if name not in where:
                    raise BadInput(f"The trained model in {trained} is not of this base: the base has no {name}.")
                with safe_open(where[name], framework="pt") as before:
                    start = before.get_tensor(name)
                tensors[name] = torch.lerp(start.float(), weights.get_tensor(name).float(), config.adapter_scale).to(start.dtype)
                total += 1
        save_file(tensors, output / shard.name, metadata={"format": "pt"})
    return {"tensors": total, "tensors_merged": total}


def _scale(lora: dict, name: str) -> float:
    rank = _pattern(lora.get("rank_pattern"), name, lora["r"])
    alpha = _pattern(lora.get("alpha_pattern"), name, lora["lora_alpha"])
    return alpha / (rank**0.5 if lora.get("use_rslora") else rank)


def _pattern(pattern: dict | None, name: str, default):
    module = name.removesuffix(".weight")
    return next((value for key, value in (pattern or {}).items() if module == key or module.endswith("." + key)), default)


def _add(weight, a, b, scale: float, name: str, lengths=None):
    """[out, in] + scale · [out, r] [r, in], in float32, back to the weight's dtype; rows of the given lengths [out] in DoRA."""
    if b.shape[0] != weight.shape[0] or a.shape[1] != weight.shape[1]:
        raise BadInput(f"The adapter does not fit the base model: {name} is {tuple(weight.shape)}, the update {b.shape[0], a.shape[1]}.")
    added = weight.float() + scale * (b.float() @ a.float())
    if lengths is not None:
        added *= (lengths.float() / added.norm(dim=1))[:, None]
    return added.to(weight.dtype)


def _parity(base: Path, adapter: Path, output: Path, adapter_scale: float) -> dict:
    """Compare next-token distributions: merged against base plus adapter, in 16 bit (must agree) and in 4 bit (is told)."""
    import torch
    from peft import PeftModel

    from tunegate.recipe import Sft
    from tunegate.train.model import load_base, load_tokenizer

    tokenizer = load_tokenizer(output)
    merged = load_base(output, attention="sdpa").eval()
    batches = [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
        for p in PARITY_PROMPTS
    ]

    @torch.no_grad()
    def log_probs(model) -> list:
        return [model(**batch.to(model.device)).logits[0].float().log_softmax(-1) for batch in batches]  # each [s, vocabulary]

    ours = log_probs(merged)
    del merged
    out = {}
    for name, config in (("kl_merge_nats", None), ("kl_trained_to_served_nats", Sft())):
        model = PeftModel.from_pretrained(load_base(base, config, attention="sdpa"), adapter).eval()
        for module in model.modules():
            if hasattr(module, "set_scale"):
                module.set_scale("default", adapter_scale)
        theirs = log_probs(model)
        divergence = [(t.exp() * (t - o)).sum(-1).mean() for t, o in zip(theirs, ours, strict=True)]
        out[name] = round(float(torch.stack(divergence).mean()), 6)
        if name == "kl_merge_nats":
            agree = [(t.argmax(-1) == o.argmax(-1)).float().mean() for t, o in zip(theirs, ours, strict=True)]
            out["top1_agreement"] = round(float(torch.stack(agree).mean()), 4)
        del model
    return out
