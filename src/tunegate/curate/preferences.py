"""Check preference pairs: {"prompt": [turns], "chosen": [turn], "rejected": [turn]}.

Pairs that teach nothing or the wrong thing are dropped with their reason; what only the whole shows (columns that are
reversed, a choice by length) is said in a warning, because a person must decide.

Not covered: whether the chosen answer is better. A prefix shorter than PREFIX_CHARACTERS is no sign of an answer that was
cut off: "1" and "12" are two answers.
"""

import re
from collections import defaultdict

from tunegate import rows as row_form
from tunegate.curate.near_duplicates import similar_pairs
from tunegate.curate.stages import near_equal
from tunegate.digests import canonical_json
from tunegate.recipe import Curate

STAGE = "preferences"
PREFIX_CHARACTERS = 20  # arbitrary
MAX_LONGER_SHARE = 0.6  # of pairs in which the chosen answer is the longer; a model trained on more learns length; arbitrary
REFUSAL = re.compile(  # of a normalised answer; written from what chat models say, in English only
    r"^(i'm|i am) (very |really )?(sorry|afraid)\b|^sorry\b|^(i'm|i am) (not able|unable) to\b"
    r"|^(i|we) (can't|cannot|can not|won't|will not)\b|^as an? (ai|artificial intelligence|language model)\b"
)

Text = tuple[str, str, str]  # prompt (with its roles), chosen and rejected, normalised


def curate_preferences(
    pairs: list[dict], held_prompts: list[list[dict]], config: Curate, sft_rows: list[dict] = ()
) -> tuple[list[dict], list[dict], list[str]]:
    """Give the pairs to train on, the others with stage and reason, and warnings; in an order that the pairs alone decide.

    Args:
        held_prompts: the turns before the answer of every row of dev and test.
        sft_rows: rows whose answers are known to be right; a pair that rejects one of them is suspect.
    """
    pairs = sorted(pairs, key=canonical_json)
    texts = [_text(pair) for pair in pairs]
    reasons: dict[int, str] = {}
    for i, (_, chosen, rejected) in enumerate(texts):
        if reason := _teaches_nothing(chosen, rejected):
            reasons[i] = reason
    for check in (lambda left: _held(pairs, left, held_prompts, config), lambda left: _same(texts, left),
                  lambda left: _contradictions(texts, left), lambda left: _near(texts, left, config)):  # fmt: skip
        reasons |= check([i for i in range(len(pairs)) if i not in reasons])
    kept = [pair for i, pair in enumerate(pairs) if i not in reasons]
    rejected = [{**pairs[i], "stage": STAGE, "reason": reason} for i, reason in sorted(reasons.items())]
    return kept, rejected, [warning for warning in (_reversed(kept, sft_rows), _refusals(kept), _length_bias(kept)) if warning]


def dedupe_mined(pairs: list[dict]) -> list[dict]:
    """Keep of mined pairs of one prompt those whose answers differ from every pair kept before."""
    kept_texts = defaultdict(list)
    kept = []
    for pair in pairs:
        prompt, chosen, rejected = _text(pair)
        if not any(near_equal(chosen, other[0]) and near_equal(rejected, other[1]) for other in kept_texts[prompt]):
            kept_texts[prompt].append((chosen, rejected))
            kept.append(pair)
    return kept


def interval(count: int, of: int) -> tuple[float, float]:
    """Give the Wilson 95 % interval of a share."""
    from scipy.stats import binomtest

    found = binomtest(count, of).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def _text(pair: dict) -> Text:
    prompt = "\n".join(f"{turn['role']}: {row_form.normalise(turn['content'])}" for turn in pair["prompt"])
    return prompt, _answer(pair, "chosen"), _answer(pair, "rejected")


def _answer(pair: dict, column: str) -> str:
    return "\n".join(row_form.normalise(turn["content"]) for turn in pair[column])


def _teaches_nothing(chosen: str, rejected: str) -> str:
    if chosen == rejected:
        return "chosen equals rejected"
    if min(len(chosen), len(rejected)) >= PREFIX_CHARACTERS:
        if rejected.startswith(chosen):
            return "chosen is the beginning of rejected"
        if chosen.startswith(rejected):
            return "rejected is the beginning of chosen"
    return ""


def _held(pairs: list[dict], left: list[int], held_prompts: list[list[dict]], config: Curate) -> dict[int, str]:
    questions = {i: row_form.similarity_text({"messages": pairs[i]["prompt"]}) for i in left}
    held = {row_form.similarity_text({"messages": prompt}) for prompt in held_prompts}
    texts = sorted(held) + sorted(set(questions.values()) - held)
    near = {texts[j] for i, j, _ in similar_pairs(texts, config.cluster_jaccard) if i < len(held) <= j}
    return {i: "prompt resembles one of dev or test" for i, question in questions.items() if question in held | near}


def _same(texts: list[Text], left: list[int]) -> dict[int, str]:
    first: dict[Text, int] = {}
    return {i: "exact duplicate of a pair" for i in left if first.setdefault(texts[i], i) != i}


def _contradictions(texts: list[Text], left: list[int]) -> dict[int, str]:
    """Drop both of two pairs that choose against each other: which is right cannot be told from here."""
    known = {texts[i] for i in left}
    return {i: "chooses what another pair rejects" for i in left if (texts[i][0], texts[i][2], texts[i][1]) in known}


def _near(texts: list[Text], left: list[int], config: Curate) -> dict[int, str]:
    """Drop pairs of which prompt, chosen and rejected are all near-equal to those of a kept earlier pair."""
    dropped: dict[int, str] = {}
    for a, b, _ in similar_pairs(["\n".join(texts[i]) for i in left], config.duplicate_jaccard):
        i, j = left[a], left[b]
        if i not in dropped and j not in dropped and all(map(near_equal, texts[i], texts[j])):
            dropped[j] = "near-duplicate of a pair"
    return dropped


def _reversed(kept: list[dict], sft_rows: list[dict]) -> str:
    right = defaultdict(set)
    for row in sft_rows:
        right[row_form.similarity_text({"messages": row["messages"][:-1]})].add(row_form.normalise(row_form.answer(row)))
    chosen = rejected = 0
    for pair in kept:
        answers = right.get(row_form.similarity_text({"messages": pair["prompt"]}), set())
        chosen += _answer(pair, "chosen") in answers
        rejected += _answer(pair, "rejected") in answers
    if not rejected or interval(rejected, chosen + rejected)[0] <= 0.5:
        return ""
    return (
        f"Chosen and rejected may be reversed: of {chosen + rejected:,} answers in pairs that are also a training answer to the same "
        f"prompt, {rejected:,} are in the column rejected. Look at a few pairs, and map the columns the other way round with data.columns."
    )


def _refusals(kept: list[dict]) -> str:
    refused = [[REFUSAL.match(_answer(pair, column).replace("’", "'")) is not None for column in ("chosen", "rejected")] for pair in kept]
    one = [chosen for chosen, rejected in refused if chosen != rejected]
    if not one or interval(sum(one), len(one))[0] <= 0.5:
        return ""
    return (
        f"Chosen and rejected may be reversed: of {len(one):,} pairs with one answer that refuses, {sum(one):,} choose the refusal. "
        "That is right for safety data only. Look at a few pairs."
    )


def _length_bias(kept: list[dict]) -> str:
    lengths = [(len(_answer(pair, "chosen")), len(_answer(pair, "rejected"))) for pair in kept]
    longer = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    if not longer:
        return ""
    low, high = interval(sum(longer), len(longer))
    if low <= MAX_LONGER_SHARE and high >= 1 - MAX_LONGER_SHARE:
        return ""
    side = "longer" if low > MAX_LONGER_SHARE else "shorter"
    return (
        f"The chosen answer is the {side} one too often: the share of pairs with the longer one chosen is {sum(longer) / len(longer):.0%} "
        f"(95 % interval {low:.0%} to {high:.0%}; {1 - MAX_LONGER_SHARE:.0%} to {MAX_LONGER_SHARE:.0%} would do). A model trained on these "
        f"pairs learns to be {side}. Bring pairs of like length, or of the other kind."
    )
