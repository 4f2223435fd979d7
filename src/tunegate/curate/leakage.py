"""Check a split by comparing all texts of one part with all of another: exact, and by other means than the clusters.

Nothing here comes from near_duplicates: 5-grams are cut from arrays of code points, and nothing is hashed or sampled.
"""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from tunegate import rows

WINDOW = 5
TEXTS_AT_ONCE = 500


def count_straddling_files(directory: Path, parts: tuple[str, ...], threshold: float) -> int:
    """Read the files of a split again and count the pairs of rows in different parts that are as similar as `threshold`."""
    texts, side = [], []
    for part in parts:
        for row in rows.read_rows(directory / f"{part}.jsonl"):
            texts.append(rows.similarity_text(row))
            side.append(part)
    return len(straddling_pairs(texts, side, threshold))


def straddling_pairs(texts: list[str], side: list[str], threshold: float) -> list[tuple[int, int]]:
    """Give the pairs of places on different sides whose texts reach `threshold` in Jaccard similarity."""
    incidence = five_grams(texts)
    sizes = np.asarray(incidence.sum(axis=1)).ravel()
    places = {name: np.flatnonzero(np.array(side) == name) for name in sorted(set(side))}
    found = []
    for a, b in combinations(places.values(), 2):
        few, many = (a, b) if len(a) < len(b) else (b, a)
        for some in _slices(many):
            shared = (incidence[few] @ incidence[some].T).toarray()
            union = sizes[few][:, None] + sizes[some][None, :] - shared
            # In integers' products, so that a pair exactly at the threshold is not lost to rounding.
            i, j = np.nonzero(shared >= threshold * union - 1e-9)
            found += zip(few[i].tolist(), some[j].tolist(), strict=True)
    return found


def five_grams(texts: list[str]) -> csr_matrix:
    """Make the incidence matrix of texts and the 5-grams in them; a text of fewer than 5 characters has one, itself."""
    grams, owners = [], []
    for owner, text in enumerate(texts):
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        points = np.pad(points, (0, max(0, WINDOW - len(points))))
        windows = np.lib.stride_tricks.sliding_window_view(points, WINDOW)
        grams.append(windows)
        owners.append(np.full(len(windows), owner))
    stacked = np.ascontiguousarray(np.concatenate(grams) if grams else np.empty((0, WINDOW), dtype=np.uint32))
    _, columns = np.unique(stacked.view(f"V{4 * WINDOW}").ravel(), return_inverse=True)
    place = np.concatenate(owners) if owners else np.empty(0, dtype=np.int64)
    matrix = csr_matrix((np.ones(len(columns), dtype=np.int32), (place, columns)), (len(texts), int(columns.max(initial=-1)) + 1))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def _slices(places: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(places), TEXTS_AT_ONCE):
        yield places[start : start + TEXTS_AT_ONCE]
