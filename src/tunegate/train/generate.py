"""Answer prompts in process, to mine preference pairs and to compare adapters on dev. (Gated results come from a server.)"""

import time
from pathlib import Path

import torch

from tunegate.steps import say
from tunegate.train.model import load_base


def merged_model(base: Path, adapter: Path):
    """Load the base in bfloat16 with the adapter merged in: the weights that will be served, not the 4-bit ones."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(base), adapter).merge_and_unload().eval()


@torch.no_grad()
def answers(model, tokenizer, prompts: list[list[dict]], max_new_tokens: int, *, samples: int = 1, temperature: float = 0.0,
            seed: int = 0, batch_rows: int = 64, name: str = "generate") -> list[list[str]]:  # fmt: skip
    """Answer each prompt `samples` times; temperature 0 is greedy. Shape: [prompts][samples]."""
    torch.manual_seed(seed)
    per_batch = max(1, batch_rows // samples)
    # Prompts of one length together: a batch runs as long as its longest row.
    order = sorted(range(len(prompts)), key=lambda i: sum(len(turn["content"]) for turn in prompts[i]))
    out: list[list[str]] = [[] for _ in prompts]
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {"do_sample": False}
    said = time.monotonic()
    for start in range(0, len(order), per_batch):
        chosen = order[start : start + per_batch]
        batch = tokenizer.apply_chat_template(
            [prompts[i] for i in chosen], add_generation_prompt=True, return_tensors="pt", padding=True, padding_side="left",
            return_dict=True,
        ).to(model.device)  # fmt: skip
        tokens = model.generate(
            **batch, max_new_tokens=max_new_tokens, num_return_sequences=samples, pad_token_id=tokenizer.pad_token_id, **sampling
        )
        texts = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for j, i in enumerate(chosen):
            out[i] = texts[j * samples : (j + 1) * samples]
        if time.monotonic() - said >= 8 or start + per_batch >= len(order):
            said = time.monotonic()
            say(f"      {name}: {min(start + per_batch, len(order))}/{len(order)} prompts answered")
    return out
