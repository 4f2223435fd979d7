"""Compiled loops of near_duplicates: 5-gram hashes, MinHash signatures, groups of equal bands, exact Jaccard similarity.

Integers only, so the results are the same on every machine. Texts come as `points`, their code points one after another,
and `starts`, where each begins (and, last, where the last one ends). n texts, p pairs.
"""

import numpy as np

from tunegate.curate.compiled import compiled

PERMUTATIONS = 128
BANDS = 32
WIDTH = 5  # characters in a shingle
SEED = 1
CLOSE_GROUP = 8

# The multipliers are those of splitmix64 (Steele, Lea, Flood 2014) and of the golden ratio.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
S27, S30, S31, S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)


@compiled
def _mix(x):
    x = (x ^ (x >> S30)) * MIX_1
    x = (x ^ (x >> S27)) * MIX_2
    return x ^ (x >> S31)


@compiled
def _stream(count, seed):
    out = np.empty(count, dtype=np.uint64)
    state = np.uint64(seed)
    for i in range(count):
        state += GOLDEN
        out[i] = _mix(state)
    return out


def permutations() -> tuple[np.ndarray, np.ndarray]:
    """Give odd multipliers and increments, uint32 [128]; our own generator, as NumPy's may change with its version."""
    numbers = (_stream(2 * PERMUTATIONS, SEED) >> S32).astype(np.uint32)
    return numbers[:PERMUTATIONS] | np.uint32(1), numbers[PERMUTATIONS:]


@compiled
def _hash_shingles(points, start, stop, out):
    """Hash the 5-grams of points[start:stop] into `out`, repeated ones too, and give their number; a shorter text is its own.

    A polynomial of width and code points, modulo 2 ** 64, mixed. From one 5-gram to the next it takes two multiplications.
    """
    width = min(stop - start, WIDTH)
    x = np.uint64(width)  # so that a short text differs from the same text after NUL characters
    for k in range(start, start + width):
        x = x * GOLDEN + np.uint64(points[k])
    out[0] = _mix(x)
    leaving = GOLDEN * GOLDEN * GOLDEN * GOLDEN * GOLDEN
    stays = np.uint64(WIDTH) * leaving * (np.uint64(1) - GOLDEN)  # the width's own share, which rolling on would multiply
    for k in range(start, stop - WIDTH):
        x = x * GOLDEN + (np.uint64(points[k + WIDTH]) - np.uint64(points[k]) * leaving + stays)
        out[k - start + 1] = _mix(x)
    return max(1, stop - start - WIDTH + 1)


@compiled
def sign(points, starts, a, b, out):
    """Write MinHash signatures, uint32 [n, 128]: the smallest a h + b modulo 2 ** 32 over the upper halves h of the 5-gram hashes.

    Linear permutations (Bohman, Cooper, Frieze 2000) of what is mixed already. In 32 bits a processor computes eight at a time.
    """
    longest = 1
    for i in range(len(starts) - 1):
        longest = max(longest, starts[i + 1] - starts[i])
    hashes = np.empty(longest + 3, dtype=np.uint64)
    least = np.empty(PERMUTATIONS, dtype=np.uint32)
    for i in range(len(starts) - 1):
        least[:] = np.uint32(0xFFFFFFFF)
        count = _hash_shingles(points, starts[i], starts[i + 1], hashes)
        hashes[count : count + 3] = hashes[0]  # again: the smallest stays the smallest, and four at a time need no rest
        for w in range(0, count, 4):
            h0, h1 = np.uint32(hashes[w] >> S32), np.uint32(hashes[w + 1] >> S32)
            h2, h3 = np.uint32(hashes[w + 2] >> S32), np.uint32(hashes[w + 3] >> S32)
            for k in range(PERMUTATIONS):
                one = min(np.uint32(a[k] * h0 + b[k]), np.uint32(a[k] * h1 + b[k]))
                other = min(np.uint32(a[k] * h2 + b[k]), np.uint32(a[k] * h3 + b[k]))
                least[k] = min(least[k], min(one, other))
        out[i] = least


@compiled
def band_keys(signatures):
    """Hash each band of signatures into 32 bits: uint32 [bands, n]. Two bands that differ and agree here are one pair more to compare."""
    rows = PERMUTATIONS // BANDS
    keys = np.empty((BANDS, len(signatures)), dtype=np.uint32)
    for i in range(len(signatures)):
        for band in range(BANDS):
            x = np.uint64(0)
            for k in range(band * rows, (band + 1) * rows):
                x = (x + np.uint64(signatures[i, k])) * MIX_1
                x ^= x >> S32
            keys[band, i] = np.uint32(x >> S32)
    return keys


@compiled
def groups(keys):
    """Give places in the order of their keys, and the start and stop of each run of two or more equal ones, int64 [runs, 2].

    A radix sort by 11 bits at a time; it keeps the order of equal keys.
    """
    order, sorted_order = np.arange(len(keys)), np.empty(len(keys), dtype=np.int64)
    for shift in (0, 11, 22):
        starts = np.zeros(2049, dtype=np.int64)
        for key in keys:
            starts[((key >> np.uint32(shift)) & np.uint32(2047)) + np.uint32(1)] += 1
        starts = np.cumsum(starts)
        for i in order:
            digit = (keys[i] >> np.uint32(shift)) & np.uint32(2047)
            sorted_order[starts[digit]] = i
            starts[digit] += 1
        order, sorted_order = sorted_order, order
    bounds = np.empty((len(keys) // 2, 2), dtype=np.int64)
    runs = first = 0
    for p in range(1, len(keys) + 1):
        if p == len(keys) or keys[order[p]] != keys[order[first]]:
            if p - first > 1:
                bounds[runs] = first, p
                runs += 1
            first = p
    return order, bounds[:runs].copy()


@compiled
def find(parent, i):
    """Give the root of i in a forest, and shorten the way there."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled
def unite(parent, i, j):
    """Join two trees of a forest under the smaller root; tell whether they were two."""
    i, j = find(parent, i), find(parent, j)
    parent[max(i, j)] = min(i, j)
    return i != j


@compiled
def is_joined(parent, places):
    """Tell whether all places are in one tree."""
    for i in places:
        if find(parent, i) != find(parent, places[0]):
            return False
    return True


@compiled
def pairs_of_groups(order, bounds, joined):
    """Write all pairs of the members of each group order[bounds[g, 0]:bounds[g, 1]] as i * n + j with i < j.

    Of groups that are one tree of the forest `joined` already, only those of up to CLOSE_GROUP texts: a huge cluster, held
    together by its representatives, has too many of them.
    """
    total = 0
    wanted = np.ones(len(bounds), dtype=np.bool_)
    for g in range(len(bounds)):
        size = bounds[g, 1] - bounds[g, 0]
        if size > CLOSE_GROUP:
            wanted[g] = not is_joined(joined, order[bounds[g, 0] : bounds[g, 1]])
        total += wanted[g] * (size * (size - 1) // 2)
    out = np.empty(total, dtype=np.int64)
    n = 0
    for g in range(len(bounds)):
        if wanted[g]:
            for p in range(bounds[g, 0], bounds[g, 1]):
                for q in range(p + 1, bounds[g, 1]):
                    out[n] = order[p] * len(order) + order[q]
                    n += 1
    return out


@compiled
def shingle_sets(points, starts):
    """Give the sorted distinct 5-gram hashes of all texts, one after another, and where each text's begin."""
    room = 0
    for i in range(len(starts) - 1):
        room += max(1, starts[i + 1] - starts[i] - WIDTH + 1)
    flat = np.empty(room, dtype=np.uint64)
    begins = np.zeros(len(starts), dtype=np.int64)
    end = 0
    for i in range(len(starts) - 1):
        count = _hash_shingles(points, starts[i], starts[i + 1], flat[end:])
        flat[end : end + count].sort()
        first = end
        for k in range(end, end + count):
            if k == first or flat[k] != flat[end - 1]:
                flat[end] = flat[k]
                end += 1
        begins[i + 1] = end
    return flat[:end].copy(), begins


@compiled
def _similarity(flat, begins, i, j, threshold):
    """Give the Jaccard similarity of two texts, or 0 as soon as it is certain to be below `threshold`."""
    p, end_p, q, end_q = begins[i], begins[i + 1], begins[j], begins[j + 1]
    sizes = (end_p - p) + (end_q - q)
    shared = 0
    while p < end_p and q < end_q:
        best = shared + min(end_p - p, end_q - q)
        if best / (sizes - best) < threshold:
            return 0.0
        if flat[p] == flat[q]:
            shared += 1
            p += 1
            q += 1
        elif flat[p] < flat[q]:
            p += 1
        else:
            q += 1
    return shared / (sizes - shared)


@compiled
def similarities(flat, begins, left, right, threshold):
    """Give the Jaccard similarity of each pair, float64 [p]; 0 where it is below `threshold`."""
    out = np.empty(len(left), dtype=np.float64)
    for n in range(len(left)):
        out[n] = _similarity(flat, begins, left[n], right[n], threshold)
    return out


@compiled
def pairs_of_large_group(flat, begins, alike, threshold, per_member):
    """Compare about per_member * n pairs of a group of n texts at most; give those that are similar, as i * n + j with i < j.

    Half of the comparisons go to representatives: a text that no earlier representative resembles becomes one, and is compared
    with all. The rest go to texts that are not yet connected, nearest in the order `alike` first. A pair is given for each text
    and its first representative, and where it connects what was not connected: fewer than 2 n.
    """
    count = len(begins) - 1
    out = np.empty(2 * count, dtype=np.int64)
    found = spent = 0
    parent, met, chosen = np.arange(count), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    parts = count
    for i in range(count):
        if parts == 1 or spent >= per_member * count // 2:
            break
        if met[i]:
            continue
        chosen[i] = True
        spent += count
        for j in range(count):
            if not chosen[j] and (not met[j] or find(parent, i) != find(parent, j)):
                if _similarity(flat, begins, i, j, threshold) >= threshold:
                    met[j] = True
                    parts -= unite(parent, i, j)
                    out[found] = min(i, j) * count + max(i, j)
                    found += 1
    for gap in range(1, count):
        if parts == 1 or spent >= per_member * count:
            break
        spent += count
        for step in range(count - gap):
            i, j = alike[step], alike[step + gap]
            if find(parent, i) != find(parent, j) and _similarity(flat, begins, i, j, threshold) >= threshold:
                parts -= unite(parent, i, j)
                out[found] = min(i, j) * count + max(i, j)
                found += 1
    return out[:found].copy()
