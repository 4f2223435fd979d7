"""Answer prompts in process, to mine preference pairs and to compare adapters on dev. (Gated results come from a server.)"""

import time
from pathlib import Path

import torch

from tunegate import rows, tasks
from tunegate.recipe import Task
from tunegate.steps import say
from tunegate.train.examples import rendered
from tunegate.train.model import load_base
from tunegate.train.spread import device_map

TOKENS_AT_ONCE = 32  # after so many new tokens, rows that have ended leave the batch; most answers are shorter


def merged_model(base: Path, adapter: Path):
    """Load the base in bfloat16 with the adapter merged in: the weights that will be served, not the 4-bit ones.

    Raises:
        BadInput: they fit neither on this process' GPU nor on all of this machine.
    """
    from peft import PeftModel

    loaded = load_base(base, attention="sdpa", device_map=device_map(base))
    return PeftModel.from_pretrained(loaded, adapter).merge_and_unload().eval()


@torch.inference_mode()
def answers(model, tokenizer, prompts: list[list[dict]], max_new_tokens: int, *, tools: list[list | None] | None = None, samples: int = 1,
            temperature: float = 0.0, seed: int = 0, batch_rows: int = 64, name: str = "generate") -> list[list[str]]:  # fmt: skip
    """Answer each prompt `samples` times; temperature 0 is greedy. Shape: [prompts][samples].

    Args:
        tools: those that each prompt offers.
    """
    torch.manual_seed(seed)
    tools = tools or [None] * len(prompts)
    given = [rendered(prompt, tokenizer, offered) for prompt, offered in zip(prompts, tools, strict=True)]
    # Prompts of one length together: a batch is as wide as its longest row.
    order = sorted(range(len(prompts)), key=lambda i: len(given[i]))
    per_batch = max(1, batch_rows // samples)
    out: list[list[str]] = [[] for _ in prompts]
    said = time.monotonic()
    for start in range(0, len(order), per_batch):
        chosen = order[start : start + per_batch]
        made = _continued(model, tokenizer, [given[i] for i in chosen for _ in range(samples)], max_new_tokens, temperature)
        for j, i in enumerate(chosen):
            out[i] = [_text(tokenizer, ids, tools[i]) for ids in made[j * samples : (j + 1) * samples]]
        if time.monotonic() - said >= 8 or start + per_batch >= len(order):
            said = time.monotonic()
            say(f"      {name}: {min(start + per_batch, len(order))}/{len(order)} prompts answered")
    return out


def _text(tokenizer, ids: list[int], tools: list | None) -> str:
    """Decode an answer without the control tokens; where there are tools only without its end, for such a token may mark a call."""
    if not tools:
        return tokenizer.decode(ids, skip_special_tokens=True)
    return tokenizer.decode(ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids)


def _continued(model, tokenizer, given: list[list[int]], max_new_tokens: int, temperature: float) -> list[list[int]]:
    """Continue token lists until each ends its turn; a batch that waits for its last row is slow, so it goes on without those done."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {"do_sample": False}
    made: list[list[int]] = [[] for _ in given]
    left, room = list(range(len(given))), max_new_tokens
    while left and room > 0:
        batch = tokenizer.pad({"input_ids": [given[i] + made[i] for i in left]}, padding_side="left", return_tensors="pt").to(model.device)
        tokens = model.generate(**batch, max_new_tokens=min(room, TOKENS_AT_ONCE), pad_token_id=tokenizer.pad_token_id, **sampling)
        new = tokens[:, batch["input_ids"].shape[1] :].tolist()
        for i, line in zip(left, new, strict=True):
            end = line.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in line else len(line)
            made[i] += line[:end]
        left = [i for i in left if made[i][-1] != tokenizer.eos_token_id]
        room -= TOKENS_AT_ONCE
    return made


def dev_score(model, tokenizer, data: Path, task: Task) -> float:
    """Give the mean score of greedy answers to the prompts of dev.jsonl."""
    dev = list(rows.read_rows(data / "dev.jsonl"))
    asked, tools = [rows.chat(row, task.system) for row in dev], [rows.tools(row) for row in dev]
    texts = answers(model, tokenizer, asked, task.max_new_tokens, tools=tools, name="prefer: dev")
    return sum(tasks.score(task, t[0], row) for t, row in zip(texts, dev, strict=True)) / len(dev)
