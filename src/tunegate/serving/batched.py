"""Continue prompts in one batch with transformers' `generate`: what they all begin with is read once, and a row leaves when it ends.

`generate` alone reads every prompt whole, and computes every row until the last one has ended.
"""

import os.path
from collections.abc import Iterator
from copy import copy

STEPS = 8  # tokens between two looks at which rows have ended; arbitrary


def continue_prompts(model, prompts: list[list[int]], config) -> Iterator[tuple[int, list[int]]]:
    """Yield the place of each prompt and the ids that follow it, its stop token included, in the order in which rows end.

    Args:
        config: transformers' GenerationConfig; `max_new_tokens`, `eos_token_id` (a list) and `pad_token_id` are set.
    """
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache(config=model.config)
    # Layers with a window count places, and padding between the shared beginning and the rest would take some of theirs.
    plain = all(type(layer) is DynamicLayer for layer in cache.layers)
    shared = _shared(prompts) if plain else 0
    ids, mask = (torch.tensor(lines, device=model.device) for lines in _padded(prompts, shared, config.pad_token_id))
    config, left, width, rows = copy(config), config.max_new_tokens, ids.shape[1], torch.arange(len(prompts), device=model.device)
    if shared:
        with torch.no_grad():
            model(input_ids=ids[:1, :shared], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(prompts))
    while len(rows):
        config.max_new_tokens = min(left, STEPS) if plain else left
        ids = model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, generation_config=config)
        left -= config.max_new_tokens
        ended = torch.isin(ids[:, width:], torch.tensor(config.eos_token_id, device=ids.device)).any(dim=1) | (left == 0)
        for place, answer in zip(rows[ended].tolist(), ids[ended, width:].tolist(), strict=True):
            yield place, _through_stop(answer, config.eos_token_id)
        if ended.any():
            stay = torch.nonzero(~ended).flatten()
            ids, mask, rows = ids[stay], mask[stay], rows[stay]
            if len(stay):
                cache.batch_select_indices(stay)
        mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)


def _shared(prompts: list[list[int]]) -> int:
    """Count the ids that all prompts begin with; each keeps one of its own to go on from."""
    return min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1) if len(prompts) > 1 else 0


def _padded(prompts: list[list[int]], shared: int, pad: int) -> tuple[list[list[int]], list[list[int]]]:
    """Give ids and attention mask of one length, padded between the shared beginning and the rest."""
    longest = max(map(len, prompts))
    gaps = [longest - len(prompt) for prompt in prompts]
    ids = [prompt[:shared] + [pad] * gap + prompt[shared:] for prompt, gap in zip(prompts, gaps, strict=True)]
    return ids, [[1] * shared + [0] * gap + [1] * (longest - shared - gap) for gap in gaps]


def _through_stop(ids: list[int], stop_ids: list[int]) -> list[int]:
    end = next((place for place, token in enumerate(ids) if token in stop_ids), len(ids))
    return ids[: end + 1]
