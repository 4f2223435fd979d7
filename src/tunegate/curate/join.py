"""Find all texts that resemble held texts, exactly: a set-similarity join by prefix filter, with no sampling.

Two sets with a Jaccard similarity of t or more share an element among the |x| - ceil(t |x|) + 1 rarest of each (Bayardo, Ma,
Srikant 2007, AllPairs), and neither is smaller than t times the other (Xiao et al. 2008, PPJoin). So only the rarest 5-grams
of the held texts are indexed, and what they find is compared in full. Memory is that of the held texts' 5-grams.

Nothing here comes from near_duplicates: it is what its results are checked by. A 5-gram is written as a number to the base
of the alphabet of all texts, which tells all apart up to 7,131 different characters; above that, two 5-grams are taken for
one with the odds of a 64-bit hash.
"""

import sys
from collections.abc import Iterator

import numpy as np

TEXTS_AT_ONCE = 2_000


def similar_to(texts: list[str], held: list[str], threshold: float) -> list[tuple[int, int]]:
    """Give (place in texts, place in held), sorted, of all pairs whose 5-gram Jaccard similarity is `threshold` (above 0) or more."""
    return join(texts, np.zeros(len(texts), dtype=np.int64), held, np.ones(len(held), dtype=np.int64), threshold)


def join(texts: list[str], sides: np.ndarray, held: list[str], held_sides: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Give the same of the pairs whose texts are on different sides; `sides` and `held_sides` are int64."""
    from tunegate.curate import join_kernels as kernels

    if not texts or not held:
        return []
    alphabet = _alphabet(texts + held)
    grams, begins = _gram_sets(held, *alphabet)
    known, places, counts = np.unique(grams, return_inverse=True, return_counts=True)
    rank = np.empty(len(known), dtype=np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(known))  # the rarest first
    ranks = rank[places]
    kernels.sort_each(ranks, begins)
    index = (ranks, begins, held_sides, *kernels.postings(ranks, begins, len(known), threshold))
    found = []
    for start, some in _slices(texts):
        own, own_begins = _gram_sets(some, *alphabet)
        at = np.minimum(np.searchsorted(known, own), len(known) - 1)
        own_ranks = np.where(known[at] == own, rank[at], -1)
        kernels.sort_each(own_ranks, own_begins)
        i, j = kernels.probe(own_ranks, own_begins, sides[start : start + len(some)], *index, threshold)
        found += zip((i + start).tolist(), j.tolist(), strict=True)
    return sorted(found)


def _alphabet(texts: list[str]) -> tuple[np.ndarray, int]:
    """Give a digit for each code point, from 1, and the base; 0 stands for what a text of fewer than 5 characters lacks."""
    characters: set[str] = set()
    for _, some in _slices(texts):
        characters.update("".join(some))
    digit = np.zeros(sys.maxunicode + 1, dtype=np.uint32)
    digit[[ord(character) for character in sorted(characters)]] = np.arange(1, len(characters) + 1)
    return digit, (len(characters) + 1) | 1  # odd: powers of an even base would lose characters beyond 64 bits


def _gram_sets(texts: list[str], digit: np.ndarray, base: int) -> tuple[np.ndarray, np.ndarray]:
    from tunegate.curate.join_kernels import gram_sets

    starts = np.concatenate(([0], np.cumsum([len(text) for text in texts], dtype=np.int64)))
    return gram_sets(digit[np.frombuffer("".join(texts).encode("utf-32-le"), dtype="<u4")], starts, base)


def _slices(texts: list[str]) -> Iterator[tuple[int, list[str]]]:
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        yield start, texts[start : start + TEXTS_AT_ONCE]
