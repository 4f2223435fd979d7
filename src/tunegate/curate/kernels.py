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
CACHED_PAIRS = 8_192  # 64 kB

# The multipliers are those of splitmix64 (Steele, Lea, Flood 2014) and of the golden ratio.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
S27, S30, S31, S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
LOW_11, LOW_32 = np.uint64(2**11 - 1), np.uint64(2**32 - 1)


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
def _room(starts):
    """Give an array for the 5-gram hashes of the longest text, and three more."""
    longest = 1
    for i in range(len(starts) - 1):
        longest = max(longest, starts[i + 1] - starts[i])
    return np.empty(longest + 3, dtype=np.uint64)


@compiled
def _sign(points, start, stop, a, b, hashes, least):
    """Write the signature of one text: the smallest a h + b modulo 2 ** 32 over the upper halves h of the 5-gram hashes.

    Linear permutations (Bohman, Cooper, Frieze 2000) of what is mixed already. In 32 bits a processor computes eight at a time.
    """
    least[:] = np.uint32(0xFFFFFFFF)
    count = _hash_shingles(points, start, stop, hashes)
    hashes[count : count + 3] = hashes[0]  # again: the smallest stays the smallest, and four at a time need no rest
    for w in range(0, count, 4):
        h0, h1 = np.uint32(hashes[w] >> S32), np.uint32(hashes[w + 1] >> S32)
        h2, h3 = np.uint32(hashes[w + 2] >> S32), np.uint32(hashes[w + 3] >> S32)
        for k in range(PERMUTATIONS):
            one = min(np.uint32(a[k] * h0 + b[k]), np.uint32(a[k] * h1 + b[k]))
            other = min(np.uint32(a[k] * h2 + b[k]), np.uint32(a[k] * h3 + b[k]))
            least[k] = min(least[k], min(one, other))


@compiled
def sign(points, starts, a, b, out):
    """Write MinHash signatures, uint32 [n, 128]."""
    hashes, least = _room(starts), np.empty(PERMUTATIONS, dtype=np.uint32)
    for i in range(len(starts) - 1):
        _sign(points, starts[i], starts[i + 1], a, b, hashes, least)
        out[i] = least


@compiled
def band_keys(points, starts, a, b):
    """Hash each band of signatures into 32 bits: uint32 [bands, n]. Two bands that differ and agree here are one pair more to compare.

    The signatures are those of `sign`, but are not written to memory.
    """
    rows = PERMUTATIONS // BANDS
    keys = np.empty((BANDS, len(starts) - 1), dtype=np.uint32)
    hashes, least = _room(starts), np.empty(PERMUTATIONS, dtype=np.uint32)
    for i in range(len(starts) - 1):
        _sign(points, starts[i], starts[i + 1], a, b, hashes, least)
        for band in range(BANDS):
            x = np.uint64(0)
            for k in range(band * rows, (band + 1) * rows):
                x = (x + np.uint64(least[k])) * MIX_1
                x ^= x >> S32
            keys[band, i] = np.uint32(x >> S32)
    return keys


@compiled
def _radix_sort(numbers, other, shifts):
    """Sort uint64 numbers by the 11 bits above each of `shifts`, the least significant first.

    Gives the array that then holds them, `numbers` or `other`, and where each value of the last 11 bits ends in it.
    """
    stops = np.zeros((len(shifts), 2048), dtype=np.int64)
    for x in numbers:
        for n in range(len(shifts)):
            stops[n, x >> np.uint64(shifts[n]) & LOW_11] += 1
    for n in range(len(shifts)):
        stop = stops[n]
        total = 0
        for digit in range(2048):
            total, stop[digit] = total + stop[digit], total
        for x in numbers:
            digit = x >> np.uint64(shifts[n]) & LOW_11
            other[np.uint64(stop[digit])] = x
            stop[digit] += 1
        numbers, other = other, numbers
    return numbers, stops[-1]


@compiled
def _perhaps_repeated(keys):
    """Give key << 32 | place of the keys that occur twice, and of a few others.

    Most keys of a band are alone. One bit for each of 16 n or more slots tells whether a key fell there, another whether a second
    one did: both fit into a processor's cache, where sorting all keys would not.
    """
    bits = 6
    while bits < 32 and 1 << bits < 16 * len(keys):
        bits += 1
    slots = np.uint32((1 << bits) - 1)
    once, twice = np.zeros(1 << (bits - 6), dtype=np.uint64), np.zeros(1 << (bits - 6), dtype=np.uint64)
    for key in keys:
        slot = key & slots
        bit = np.uint64(1) << np.uint64(slot & np.uint32(63))
        twice[slot >> np.uint32(6)] |= once[slot >> np.uint32(6)] & bit
        once[slot >> np.uint32(6)] |= bit
    out = np.empty(len(keys), dtype=np.uint64)
    n = 0
    for i in range(len(keys)):
        slot = keys[i] & slots
        out[n] = np.uint64(keys[i]) << S32 | np.uint64(i)  # always, and kept or not: a branch would be guessed wrong too often
        n += np.int64(twice[slot >> np.uint32(6)] >> np.uint64(slot & np.uint32(63)) & np.uint64(1))
    return out[:n]


@compiled
def groups(keys):
    """Give the places of keys that occur more than once, by key, then place, and the start and stop of each key's, int64 [runs, 2]."""
    found = _perhaps_repeated(keys)
    found, _ = _radix_sort(found, np.empty_like(found), (32, 43, 54))
    places, bounds = np.empty(len(found), dtype=np.int64), np.empty((len(found) // 2, 2), dtype=np.int64)
    runs = n = first = 0
    for p in range(1, len(found) + 1):
        if p == len(found) or found[p] >> S32 != found[first] >> S32:
            if p - first > 1:
                bounds[runs] = n, n + p - first
                for q in range(first, p):
                    places[n] = found[q] & LOW_32
                    n += 1
                runs += 1
            first = p
    return places[:n].copy(), bounds[:runs].copy()


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
def pairs_of_groups(places, bounds, joined):
    """Write all pairs i < j of the members of each group places[bounds[g, 0]:bounds[g, 1]] as i << 32 | j, uint64.

    Of groups that are one tree of the forest `joined` already, only those of up to CLOSE_GROUP texts: a huge cluster, held
    together by its representatives, has too many of them.
    """
    total = 0
    wanted = np.ones(len(bounds), dtype=np.bool_)
    for g in range(len(bounds)):
        size = bounds[g, 1] - bounds[g, 0]
        if size > CLOSE_GROUP:
            wanted[g] = not is_joined(joined, places[bounds[g, 0] : bounds[g, 1]])
        total += wanted[g] * (size * (size - 1) // 2)
    out = np.empty(total, dtype=np.uint64)
    n = 0
    for g in range(len(bounds)):
        if wanted[g]:
            for p in range(bounds[g, 0], bounds[g, 1]):
                for q in range(p + 1, bounds[g, 1]):
                    out[n] = np.uint64(places[p]) << S32 | np.uint64(places[q])
                    n += 1
    return out


@compiled
def distinct_pairs(pairs, count):
    """Sort pairs i << 32 | j of places below `count`, drop repeated ones, and give i and j as uint64 arrays; i is written over `pairs`.

    First into parts by the upper bits of i, about CACHED_PAIRS each, so that the rest of the sort stays in a processor's cache.
    """
    bits = parts = 0
    while count >> bits:
        bits += 1
    while parts < min(bits, 11) and len(pairs) >> parts > CACHED_PAIRS:
        parts += 1
    rest = [shift for shift in range(0, bits, 11)] + [shift for shift in range(32, 32 + bits - parts, 11)]
    parted, stops = _radix_sort(pairs, np.empty_like(pairs), (32 + bits - parts,))
    n = start = 0
    for stop in stops[: 1 << parts]:
        last = np.uint64(0)  # 0 << 32 | 0, which is no pair
        for pair in _radix_sort(parted[start:stop], pairs[start:stop], rest)[0]:
            if pair != last:
                pairs[n], parted[n] = pair >> S32, pair & LOW_32  # never ahead of what is read
                last = pair
                n += 1
        start = stop
    return pairs[:n], parted[:n]


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
