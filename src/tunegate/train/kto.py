"""What KTO learns from: single answers, wanted or not; how the two kinds are weighed, and in which order the answers come.

Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization".
"""

from collections import Counter
from random import Random

from tunegate.digests import canonical_json
from tunegate.errors import BadInput
from tunegate.train.batch import by_length

MOST = 4 / 3  # of (desirable weight × desirable answers) / (undesirable weight × undesirable answers); the paper's range is 1 to 4/3


def singles(pairs: list[dict]) -> list[dict]:
    """Make of each pair one wanted and one unwanted answer."""
    return [
        {name: pair[name] for name in ("prompt", "tools") if name in pair} | {"completion": pair[side], "label": side == "chosen"}
        for pair in pairs
        for side in ("chosen", "rejected")
    ]


def weights(answers: list[dict]) -> dict[str, float]:
    """Give TRL's desirable_weight and undesirable_weight: 1 for the larger kind, and for the other as little more as the paper asks.

    Raises:
        BadInput: all answers are of one kind.
    """
    counts = Counter(answer["label"] for answer in answers)
    if len(counts) < 2:
        raise BadInput(
            f"All {len(answers):,} labelled answers for KTO have the label {str(next(iter(counts))).lower()}, and it learns from the "
            "contrast with others. Bring answers of both kinds or preference pairs, or set prefer.pairs: mined."
        )
    ratio = counts[True] / counts[False]
    return {"desirable_weight": max(1.0, 1 / ratio), "undesirable_weight": max(1.0, ratio / MOST)}


def order(answers: list[dict], lengths: list[int], batch: int, seed: int) -> list[int]:
    """Order answers in couples with different prompts, and couples so that a batch holds those of like length.

    KTO's KL term is estimated with prompts that get the answer of another row; TRL takes that of a neighbour. The other half of
    the same pair is an answer to the same prompt, and would tell nothing about how far the model has moved.

    Args:
        batch: answers to an optimizer step; even.

    Not covered: a prompt with more than half of the answers; some couples then share it.
    """
    prompts = [canonical_json(answer["prompt"]) for answer in answers]
    shuffled = Random(seed).sample(range(len(answers)), len(answers))
    rank = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts[i] for i in shuffled))}
    grouped = sorted(shuffled, key=lambda i: rank[prompts[i]])
    half = len(grouped) // 2
    # Half of all apart, two are of one prompt only if it has more than half.
    couples = list(zip(grouped[:half], grouped[half : 2 * half], strict=True))
    places = by_length([max(lengths[a], lengths[b]) for a, b in couples], batch // 2, seed)
    return [i for place in places for i in couples[place]] + grouped[2 * half :]
