"""Find similar texts among many: MinHash signatures propose pairs, their exact Jaccard similarity decides.

Texts are compared by their sets of character 5-grams. 128 hash functions in 32 bands of 4 propose a pair of Jaccard s with
probability 1 - (1 - s^4)^32 (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4): 0.9998 at 0.7, 0.97 at 0.57.
5-grams are compared by 64-bit hashes: among a million different ones, two are taken for one with a probability of 3e-8.

All proposed pairs are compared in groups (texts that agree in a band) of up to 64, and in larger ones while a band's pairs are
fewer than PAIRS_PER_BAND and PAIRS_PER_TEXT allow. Beyond that a group costs COMPARISONS per text: texts are compared with
representatives, then with those that they are not yet connected with. So of very large clusters not all pairs are given, but
enough to hold them together.

Not covered: thresholds below about 0.55, where bands of 4 miss many pairs; hundreds of thousands of texts that share about
half of their 5-grams, where a large group falls apart into more parts than the comparisons reach.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

SHINGLE_CHARACTERS = 5
BATCH_CHARACTERS = 4_000_000  # of text hashed at once: 16 MB as code points
SMALL_GROUP = 64  # texts; all their pairs are compared
PAIRS_PER_BAND = 100_000  # a group of 450 alone is complete; arbitrary
PAIRS_PER_TEXT = 1
COMPARISONS = 64  # per text of a larger group
PAIRS_AT_ONCE = 20_000_000  # proposals kept before repeated ones are dropped: 160 MB


def shingles(text: str) -> set[str]:
    """Give the character 5-grams of a text; a shorter text is its own."""
    return {text[i : i + SHINGLE_CHARACTERS] for i in range(max(1, len(text) - SHINGLE_CHARACTERS + 1))}


def jaccard(a: str, b: str) -> float:
    left, right = shingles(a), shingles(b)
    return len(left & right) / len(left | right)


def signatures(texts: list[str]) -> np.ndarray:
    """Give the MinHash signatures of texts, uint32 [n, 128]; each depends on its own text only."""
    from tunegate.curate import kernels

    out = np.empty((len(texts), kernels.PERMUTATIONS), dtype=np.uint32)
    kernels.sign(*_code_points(texts), *kernels.permutations(), out)
    return out


def band_keys(texts: list[str], workers: int = 1) -> np.ndarray:
    """Give the hashes of the bands of texts' signatures, uint32 [32, n]: 128 bytes a text are kept, where a signature takes 512.

    Args:
        workers: threads; the result does not depend on their number. The compiled loops leave the interpreter free.
    """
    from tunegate.curate import kernels

    keys = np.empty((kernels.BANDS, len(texts)), dtype=np.uint32)

    def of_batch(batch: list[str]) -> np.ndarray:
        return kernels.band_keys(*_code_points(batch), *kernels.permutations())

    with ThreadPoolExecutor(workers) as pool:
        stop = 0
        for own in (pool.map if workers > 1 else map)(of_batch, batches(texts)):
            start, stop = stop, stop + own.shape[1]
            keys[:, start:stop] = own
    return keys


def similar_pairs(texts: list[str], threshold: float, keys: np.ndarray | None = None) -> list[tuple[int, int, float]]:
    """Give (i, j, Jaccard) with i < j for the pairs at or above `threshold`, sorted by j, then i.

    Equal texts are paired with the first of them only, and other texts with that first one.

    Args:
        keys: the band keys of `texts`, where they are known already.
    """
    first: dict[str, int] = {}
    places = [i for i, text in enumerate(texts) if first.setdefault(text, i) == i]
    equal = [(first[text], i, 1.0) for i, text in enumerate(texts) if first[text] != i]
    distinct = [texts[i] for i in places]
    left, right = candidate_pairs(distinct, threshold, None if keys is None else keys.take(places, axis=1))
    i, j, similarity = verified(distinct, left, right, threshold)
    order = np.lexsort((i, j))
    own = np.array(places, dtype=np.int64)
    pairs = list(zip(own[i[order]].tolist(), own[j[order]].tolist(), similarity[order].tolist(), strict=True))
    return sorted(pairs + equal, key=lambda pair: (pair[1], pair[0])) if equal else pairs


def candidate_pairs(texts: list[str], threshold: float, keys: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Propose pairs i < j of different texts that agree in a whole band of their signatures, sorted by i, then j.

    Args:
        keys: the band keys of `texts`, where they are known already.
    """
    from tunegate.curate import kernels

    if not texts:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    keys = band_keys(texts) if keys is None else keys
    found = bytearray()  # pairs i << 32 | j; it grows in place, where joining arrays in the end would take their memory twice
    kept = 0  # bytes of what has no repeated pairs
    joined = np.arange(len(texts))  # the forest of what pairs of large groups have connected
    for band, own in enumerate(keys):
        places, bounds = kernels.groups(own)
        sizes = bounds[:, 1] - bounds[:, 0]
        small = sizes <= _largest_complete(sizes, len(texts))
        for start, stop in bounds[~small]:
            found += _large_group(texts, places[start:stop], keys[(band + 1) % len(keys)], threshold, joined).data
        found += kernels.pairs_of_groups(places, bounds[small], joined).data
        if len(found) - kept > 8 * PAIRS_AT_ONCE:
            left, right = kernels.distinct_pairs(np.frombuffer(found, dtype=np.uint64), len(texts))
            found = bytearray((left << 32 | right).data)
            kept = len(found)
    left, right = kernels.distinct_pairs(np.frombuffer(found, dtype=np.uint64), len(texts))
    return left.view(np.int64), right.view(np.int64)


def verified(texts: list[str], left: np.ndarray, right: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the proposed pairs that reach `threshold`, and their Jaccard similarity, in their order: left, right, similarity."""
    from tunegate.curate import kernels

    similarity = np.empty(len(left), dtype=np.float64)
    for start, stop in _blocks(texts, left, right):
        i, j = left[start:stop], right[start:stop]
        needed = np.unique(np.concatenate((i, j)))
        flat, begins = kernels.shingle_sets(*_code_points([texts[n] for n in needed]))
        similarity[start:stop] = kernels.similarities(flat, begins, np.searchsorted(needed, i), np.searchsorted(needed, j), threshold)
    keep = similarity >= threshold
    return left[keep], right[keep], similarity[keep]


def batches(texts: list[str]) -> Iterator[list[str]]:
    """Cut a list of texts into parts of about BATCH_CHARACTERS each; an empty list is one part."""
    sizes = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)) + 64  # many empty texts are work too
    edges = [0, *(np.flatnonzero(np.diff(np.cumsum(sizes) // BATCH_CHARACTERS)) + 1).tolist()]
    for start, stop in zip(edges, [*edges[1:], len(texts)], strict=True):
        yield texts[start:stop]


def connected(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Give for each of `count` places the smallest place it is connected with through `pairs`."""
    i, j = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(i), dtype=np.int8), (i, j)), (count, count))
    labels = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first[inverse].tolist()


def _code_points(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Lay texts out as one array of code points; text i is points[starts[i]:starts[i + 1]]."""
    starts = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)), out=starts[1:])
    return np.frombuffer("".join(texts).encode("utf-32-le"), dtype="<u4"), starts


def _largest_complete(sizes: np.ndarray, count: int) -> int:
    """Give the size up to which all pairs of a group are compared."""
    limit = PAIRS_PER_BAND + PAIRS_PER_TEXT * count
    if (sizes * (sizes - 1) // 2).sum() <= limit:
        return int(sizes.max(initial=SMALL_GROUP))
    sizes = np.sort(sizes)
    affordable = np.cumsum(sizes * (sizes - 1) // 2) <= limit
    return max(SMALL_GROUP, int(sizes[affordable.argmin()]) - 1)


def _large_group(texts: list[str], members: np.ndarray, next_keys: np.ndarray, threshold: float, joined: np.ndarray) -> np.ndarray:
    """Compare some pairs of a large group, unless its texts are connected already, and note in `joined` what they connect."""
    from tunegate.curate import kernels

    if kernels.is_joined(joined, members):
        return np.empty(0, dtype=np.uint64)
    flat, begins = kernels.shingle_sets(*_code_points([texts[i] for i in members]))
    alike = np.argsort(next_keys[members], kind="stable")
    i, j = np.divmod(kernels.pairs_of_large_group(flat, begins, alike, threshold, COMPARISONS), len(members))
    for a, b in zip(members[i], members[j], strict=True):
        kernels.unite(joined, a, b)
    return (members[i] << 32 | members[j]).astype(np.uint64)


def _blocks(texts: list[str], left: np.ndarray, right: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cut pairs, sorted by their left place, so that each block's texts fit into memory."""
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)) + 64
    # A left text counts once, a right text each time: the most that a block can hold.
    weights = lengths[right] + np.where(np.diff(left, prepend=-1) != 0, lengths[left], 0)
    block = np.cumsum(weights) // (8 * BATCH_CHARACTERS)
    edges = np.flatnonzero(np.diff(block, prepend=-1)).tolist() + [len(left)]
    yield from zip(edges[:-1], edges[1:], strict=True)
