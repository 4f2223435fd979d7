"""Check preference pairs: {"prompt": [turns], "chosen": [turn], "rejected": [turn]}.

Pairs that teach nothing or the wrong thing are dropped with their reason; what only the whole shows (columns that are
reversed, a choice by length) is said in a warning, because a person must decide.

Not covered: whether the chosen answer is better. A prefix shorter than PREFIX_CHARACTERS is no sign of an answer that was
cut off: "1" and "12" are two answers.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from tunegate import rows as row_form
from tunegate.curate.near_duplicates import similar_pairs
from tunegate.curate.stages import near_equal
from tunegate.curate_names import REVERSED
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
Check = Callable[[list[int]], dict[int, str]]  # of places that are left, those that go, with the reason


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
    kept, rejected = sift(pairs, STAGE, [
        lambda left: {i: reason for i in left if (reason := _teaches_nothing(*texts[i][1:]))},
        lambda left: held(pairs, left, held_prompts, config), lambda left: same(texts, left, "a pair"),
        lambda left: _contradictions(texts, left), lambda left: near(texts, left, config, "a pair"),
    ])  # fmt: skip
    return kept, rejected, [warning for warning in (_reversed(kept, sft_rows), _refusals(kept), _length_bias(kept)) if warning]


def sift(entries: list[dict], stage: str, checks: list[Check]) -> tuple[list[dict], list[dict]]:
    """Give the entries that pass all checks, and the others with stage and reason; a check sees what those before it left."""
    reasons: dict[int, str] = {}
    for check in checks:
        reasons |= check([i for i in range(len(entries)) if i not in reasons])
    rejected = [{**entries[i], "stage": stage, "reason": reason} for i, reason in sorted(reasons.items())]
    return [entry for i, entry in enumerate(entries) if i not in reasons], rejected


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


def prompt_text(prompt: list[dict]) -> str:
    return "\n".join(f"{turn['role']}: {row_form.normalise(row_form.said(turn))}" for turn in prompt)


def answer_text(answer: list[dict]) -> str:
    return "\n".join(row_form.normalise(row_form.said(turn)) for turn in answer)


def _text(pair: dict) -> Text:
    return prompt_text(pair["prompt"]), answer_text(pair["chosen"]), answer_text(pair["rejected"])


def _teaches_nothing(chosen: str, rejected: str) -> str:
    if chosen == rejected:
        return "chosen equals rejected"
    if min(len(chosen), len(rejected)) >= PREFIX_CHARACTERS:
        if rejected.startswith(chosen):
            return "chosen is the beginning of rejected"
        if chosen.startswith(rejected):
            return "rejected is the beginning of chosen"
    return ""


def held(entries: list[dict], left: list[int], held_prompts: list[list[dict]], config: Curate) -> dict[int, str]:
    """Drop what asks nearly the same as a row of dev or test: an answer to it would give that row away."""
    questions = {i: row_form.similarity_text({"messages": entries[i]["prompt"]}) for i in left}
    asked = {row_form.similarity_text({"messages": prompt}) for prompt in held_prompts}
    texts = sorted(asked) + sorted(set(questions.values()) - asked)
    alike = {texts[j] for i, j, _ in similar_pairs(texts, config.cluster_jaccard) if i < len(asked) <= j}
    return {i: "prompt resembles one of dev or test" for i, question in questions.items() if question in asked | alike}


def same(texts: list[Text], left: list[int], what: str) -> dict[int, str]:
    first: dict[Text, int] = {}
    return {i: f"exact duplicate of {what}" for i in left if first.setdefault(texts[i], i) != i}


def _contradictions(texts: list[Text], left: list[int]) -> dict[int, str]:
    """Drop both of two pairs that choose against each other: which is right cannot be told from here."""
    known = {texts[i] for i in left}
    return {i: "chooses what another pair rejects" for i in left if (texts[i][0], texts[i][2], texts[i][1]) in known}


def near(texts: list[Text], left: list[int], config: Curate, what: str) -> dict[int, str]:
    """Drop those whose texts are each near-equal to those of a kept earlier one."""
    dropped: dict[int, str] = {}
    for a, b, _ in similar_pairs(["\n".join(texts[i]) for i in left], config.duplicate_jaccard):
        i, j = left[a], left[b]
        if i not in dropped and j not in dropped and all(map(near_equal, texts[i], texts[j])):
            dropped[j] = f"near-duplicate of {what}"
    return dropped


def known_right(answers: Iterable[tuple[list[dict], list[dict]]], sft_rows: list[dict]) -> int:
    """Count those of (prompt, answer) that are also a training answer to the same prompt."""
    right = defaultdict(set)
    for row in sft_rows:
        right[row_form.similarity_text({"messages": row["messages"][:-1]})].add(row_form.normalise(row_form.answer(row)))
    return sum(answer_text(answer) in right.get(row_form.similarity_text({"messages": prompt}), ()) for prompt, answer in answers)


def mostly(count: int, of: int) -> bool:
    """Say whether it is more than half, and not by chance."""
    return count > 0 and interval(count, of)[0] > 0.5


def _reversed(kept: list[dict], sft_rows: list[dict]) -> str:
    chosen, rejected = (known_right([(pair["prompt"], pair[side]) for pair in kept], sft_rows) for side in ("chosen", "rejected"))
    if not mostly(rejected, chosen + rejected):
        return ""
    return (
        f"{REVERSED}: of {chosen + rejected:,} answers in pairs that are also a training answer to the same "
        f"prompt, {rejected:,} are in the column rejected. Look at a few pairs, and map the columns the other way round with data.columns."
    )


def _refusals(kept: list[dict]) -> str:
    refused = [[bool(REFUSAL.match(answer_text(pair[column]).replace("’", "'"))) for column in ("chosen", "rejected")] for pair in kept]
    one = [chosen for chosen, rejected in refused if chosen != rejected]
    if not mostly(sum(one), len(one)):
        return ""
    return (
        f"{REVERSED}: of {len(one):,} pairs with one answer that refuses, {sum(one):,} choose the refusal. "
        "That is right for safety data only. Look at a few pairs."
    )


def _length_bias(kept: list[dict]) -> str:
    lengths = [(len(answer_text(pair["chosen"])), len(answer_text(pair["rejected"]))) for pair in kept]
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
