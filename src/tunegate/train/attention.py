"""Attention over packed rows: each attends to itself alone, and nothing is computed between rows.

Registered with transformers as "varlen". On a GPU it is PyTorch's own FlashAttention for sequences of different lengths
(torch.nn.attention.varlen), so neither the flash-attn package nor a kernel from the hub is needed. On a CPU the rows are laid
side by side, padded to the longest, for the length of the attention only. SDPA instead would build a mask of all tokens by all
tokens and compute what the mask throws away.

Shapes: t tokens of all rows, n rows, l tokens in the longest, h heads, k heads of keys and values, d their width.
"""

import inspect

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

NAME = "varlen"


def varlen_attention(module, query, key, value, attention_mask=None, *, scaling=None, dropout=0.0, cu_seq_lens_q=None,
                     max_length_q=None, **kwargs):  # fmt: skip
    """Attend causally within each row. query [1, h, t, d], key and value [1, k, t, d]; gives [1, t, h, d] and no weights.

    Args:
        cu_seq_lens_q: where rows begin, and the end, [n + 1]; the collator of packed rows gives it.
    """
    if cu_seq_lens_q is None or query.shape[0] != 1:
        raise ValueError("varlen attention is for packed rows in one line, and these are not; use attn_implementation sdpa.")
    if kwargs.get("sliding_window") and kwargs["sliding_window"] < max_length_q:
        raise ValueError("varlen attention has no sliding window; use attn_implementation sdpa.")
    attend = _flash if query.is_cuda else _side_by_side
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [t, heads, d]
    return attend(q, k, v, cu_seq_lens_q, max_length_q, scaling).unsqueeze(0), None


def _flash(q, k, v, starts, longest, scaling):
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    how = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "enable_gqa" in known:
        how["enable_gqa"] = k.shape[1] != q.shape[1]
    elif k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    if "scale" in known:
        how["scale"] = scaling
    elif scaling is not None:
        q = q * (scaling * q.shape[-1] ** 0.5)  # it divides by the root of d itself
    return varlen_attn(q, k.contiguous(), v.contiguous(), starts, starts, longest, longest, **how)


def _side_by_side(q, k, v, starts, longest, scaling):
    lengths = starts.diff()
    row = torch.repeat_interleave(torch.arange(len(lengths), device=q.device), lengths)  # [t]
    place = torch.arange(q.shape[0], device=q.device) - starts[:-1][row]

    def laid(x):  # [t, heads, d] -> [n, heads, l, d]
        return x.new_zeros(len(lengths), longest, *x.shape[1:]).index_put((row, place), x).transpose(1, 2)

    q, k, v = laid(q), laid(k), laid(v)
    if k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = (q @ k.transpose(-1, -2)) * (scaling if scaling is not None else q.shape[-1] ** -0.5)  # [n, h, l, l]
    # Padding stands after a row's tokens, so what hides the future hides it as well.
    future = torch.ones(longest, longest, dtype=torch.bool, device=q.device).triu(1)
    weights = torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1, dtype=torch.float32).to(v.dtype)
    return (weights @ v).transpose(1, 2)[row, place]


def register() -> None:
    """Make attn_implementation="varlen" known to transformers."""
    AttentionInterface.register(NAME, varlen_attention)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
