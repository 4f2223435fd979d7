"""Find similar texts among many: MinHash signatures propose pairs, their exact Jaccard similarity decides.

Texts are compared by their sets of character 5-grams. 128 hash functions in 32 bands of 4 propose a pair of Jaccard s with
probability 1 - (1 - s^4)^32 (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4): 0.9998 at 0.7, 0.97 at 0.57.

Not covered: thresholds below about 0.55, where bands of 4 miss many pairs; data in which thousands of rows share most of
their text, where the pairs alone are too many.
"""

import zlib
from itertools import chain

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

SHINGLE_CHARACTERS = 5
PERMUTATIONS = 128
BANDS = 32
SEED = 1
PAIRS_AT_ONCE = 50_000


def shingles(text: str) -> set[str]:
    """Give the character 5-grams of a text; a shorter text is its own."""
    return {text[i : i + SHINGLE_CHARACTERS] for i in range(max(1, len(text) - SHINGLE_CHARACTERS + 1))}


def jaccard(a: str, b: str) -> float:
    left, right = shingles(a), shingles(b)
    return len(left & right) / len(left | right)


def similar_pairs(texts: list[str], threshold: float) -> list[tuple[int, int, float]]:
    """Give (i, j, Jaccard) with i < j for the pairs at or above `threshold`, sorted by j, then i."""
    if len(texts) < 2:
        return []
    vocabulary: dict[str, int] = {}
    # Sorted, because the order of a set of strings differs from process to process.
    columns = [[vocabulary.setdefault(shingle, len(vocabulary)) for shingle in sorted(shingles(text))] for text in texts]
    found = _candidates(columns, list(vocabulary))
    sizes = np.array([len(row) for row in columns])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    ones = np.ones(starts[-1], dtype=np.int32)
    incidence = csr_matrix((ones, np.fromiter(chain.from_iterable(columns), np.int64, starts[-1]), starts), (len(texts), len(vocabulary)))
    incidence.sort_indices()
    pairs = []
    for start in range(0, len(found), PAIRS_AT_ONCE):
        i, j = np.divmod(found[start : start + PAIRS_AT_ONCE], len(texts))
        shared = np.asarray(incidence[i].multiply(incidence[j]).sum(axis=1)).ravel()
        similarity = shared / (sizes[i] + sizes[j] - shared)
        keep = similarity >= threshold
        pairs += zip(i[keep].tolist(), j[keep].tolist(), similarity[keep].tolist(), strict=True)
    return sorted(pairs, key=lambda pair: (pair[1], pair[0]))


def connected(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Give for each of `count` places the smallest place it is connected with through `pairs`."""
    i, j = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(i), dtype=np.int8), (i, j)), (count, count))
    labels = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first[inverse].tolist()


def _candidates(columns: list[list[int]], vocabulary: list[str]) -> np.ndarray:
    """Propose pairs whose signatures agree in a whole band, as sorted numbers i * count + j with i < j."""
    from datasketch import MinHash

    # crc32 is the same on every machine; Python's own hash of text is not.
    hashes = np.array([zlib.crc32(shingle.encode()) for shingle in vocabulary], dtype=np.uint64)
    signatures = np.empty((len(columns), PERMUTATIONS), dtype=np.uint64)
    for row, sketch in enumerate(MinHash.generator((hashes[c].tolist() for c in columns), num_perm=PERMUTATIONS, seed=SEED, hashfunc=int)):
        signatures[row] = sketch.hashvalues
    found = np.sort(np.concatenate([_pairs_of_equals(band) for band in np.split(signatures, BANDS, axis=1)]))
    return found[np.diff(found, prepend=-1) > 0]  # np.unique hashes, and takes ten times as long here


def _pairs_of_equals(band: np.ndarray) -> np.ndarray:
    """Number the pairs of equal rows of a matrix."""
    count = len(band)
    order = np.lexsort(band.T)
    changes = np.any(band[order[1:]] != band[order[:-1]], axis=1)
    groups = np.split(order, np.flatnonzero(changes) + 1)
    pairs = [np.empty(0, dtype=np.int64)]
    for group in groups:
        if len(group) > 1:
            group = np.sort(group)
            i, j = np.triu_indices(len(group), k=1)
            pairs.append(group[i] * count + group[j])
    return np.concatenate(pairs)
