"""The stages that drop rows. Each gives {place of the row: (reason, place of the row it resembles or None)}."""

from collections import defaultdict

from tunegate import rows as row_form
from tunegate.curate.near_duplicates import jaccard
from tunegate.digests import canonical_json

Dropped = dict[int, tuple[str, int | None]]

SHORT_ANSWER_CHARACTERS = 20  # below this a changed word changes the answer, whatever its 5-grams share
NEAR_EQUAL = 0.8  # character 5-gram Jaccard; arbitrary, the same as that of near-duplicate rows


def exact_duplicates(rows: list[dict]) -> Dropped:
    """Drop rows whose similarity text an earlier row has."""
    first: dict[str, int] = {}
    dropped: Dropped = {}
    for i, row in enumerate(rows):
        kept = first.setdefault(row_form.similarity_text(row), i)
        if kept != i:
            dropped[i] = ("exact duplicate", kept)
    return dropped


def label_conflicts(rows: list[dict]) -> Dropped:
    """Drop all rows that give different answers to the same question, asked with the same tools: which is right cannot be told here."""
    same_prompt = defaultdict(list)
    for i, row in enumerate(rows):
        prompt = tuple((turn["role"], row_form.normalise(row_form.said(turn))) for turn in row["messages"][:-1])
        same_prompt[prompt, canonical_json(row_form.tools(row))].append(i)
    return {i: ("label conflict", next(j for j in places if j != i)) for places in same_prompt.values() if len(places) > 1 for i in places}


def near_duplicates(rows: list[dict], pairs: list[tuple[int, int, float]], threshold: float) -> Dropped:
    """Drop rows that resemble a kept earlier row and answer nearly the same; a similar question with another answer stays.

    Args:
        pairs: (earlier place, later place, Jaccard), sorted by the later place.
    """
    answers = [row_form.normalise(row_form.answer(row)) for row in rows]
    dropped: Dropped = {}
    for i, j, similarity in pairs:
        if similarity >= threshold and i not in dropped and j not in dropped and near_equal(answers[i], answers[j]):
            dropped[j] = ("near-duplicate", i)
    return dropped


def near_equal(a: str, b: str) -> bool:
    """Say whether two normalised answers are the same but for a detail; short ones only when they are equal."""
    if a == b or min(len(a), len(b)) < SHORT_ANSWER_CHARACTERS:
        return a == b
    return jaccard(a, b) >= NEAR_EQUAL


def contrastive(rows: list[dict], pairs: list[tuple[int, int, float]], threshold: float) -> list[tuple[int, int]]:
    """Give the pairs of rows that resemble each other and answer differently: a contrast to learn from, or one wrong label."""
    answers = [row_form.normalise(row_form.answer(row)) for row in rows]
    return [(i, j) for i, j, similarity in pairs if similarity >= threshold and not near_equal(answers[i], answers[j])]
