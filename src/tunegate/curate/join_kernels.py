"""Compiled loops of the exact join. Texts come as digits (see join.py), one text after another, and where each begins."""

import numpy as np

from tunegate.curate.compiled import compiled

WINDOW = 5


@compiled
def gram_sets(digits, starts, base):
    """Give the sorted distinct 5-grams of all texts, one after another, and where each text's begin."""
    room = 0
    for i in range(len(starts) - 1):
        room += max(1, starts[i + 1] - starts[i] - WINDOW + 1)
    flat = np.empty(room, dtype=np.uint64)
    begins = np.zeros(len(starts), dtype=np.int64)
    end = 0
    for i in range(len(starts) - 1):
        first = end
        for w in range(max(1, starts[i + 1] - starts[i] - WINDOW + 1)):
            gram = np.uint64(0)
            for k in range(starts[i] + w, starts[i] + w + WINDOW):
                gram = gram * np.uint64(base) + (np.uint64(digits[k]) if k < starts[i + 1] else np.uint64(0))
            flat[end] = gram
            end += 1
        flat[first:end].sort()
        stop = end
        end = first
        for k in range(first, stop):
            if k == first or flat[k] != flat[end - 1]:
                flat[end] = flat[k]
                end += 1
        begins[i + 1] = end
    return flat[:end].copy(), begins


@compiled
def prefix(size, threshold):
    """Give how many of the rarest elements of a set must hold one that any similar set has too."""
    return size - int(np.ceil(threshold * size - 1e-9)) + 1  # less a trifle: 0.07 * 100 is a little more than 7


@compiled
def sort_each(flat, begins):
    for i in range(len(begins) - 1):
        flat[begins[i] : begins[i + 1]].sort()


@compiled
def postings(ranks, begins, count, threshold):
    """Index the rarest 5-grams: texts with the 5-gram of rank r are owners[heads[r]:heads[r + 1]]."""
    heads = np.zeros(count + 1, dtype=np.int64)
    for i in range(len(begins) - 1):
        for k in range(begins[i], begins[i] + prefix(begins[i + 1] - begins[i], threshold)):
            heads[ranks[k] + 1] += 1
    heads = np.cumsum(heads)
    owners = np.empty(heads[-1], dtype=np.int64)
    free = heads.copy()
    for i in range(len(begins) - 1):
        for k in range(begins[i], begins[i] + prefix(begins[i + 1] - begins[i], threshold)):
            owners[free[ranks[k]]] = i
            free[ranks[k]] += 1
    return heads, owners


@compiled
def probe(ranks, begins, sides, held_ranks, held_begins, held_sides, heads, owners, threshold):
    """Compare texts with the held texts that share one of their rarest 5-grams; a rank of -1 is a 5-gram that none has.

    Gives the places of the similar ones, [p] in texts and [p] in held; of texts on the same side none are.
    """
    left, right = np.empty(64, dtype=np.int64), np.empty(64, dtype=np.int64)
    found = 0
    met = np.full(len(held_begins) - 1, -1, dtype=np.int64)
    for i in range(len(begins) - 1):
        size = begins[i + 1] - begins[i]
        for k in range(begins[i], begins[i] + prefix(size, threshold)):
            if ranks[k] < 0:
                continue
            for p in range(heads[ranks[k]], heads[ranks[k] + 1]):
                j = owners[p]
                if met[j] == i or held_sides[j] == sides[i]:
                    continue
                met[j] = i
                held_size = held_begins[j + 1] - held_begins[j]
                if min(size, held_size) / max(size, held_size) < threshold:
                    continue
                a, b, shared = begins[i], held_begins[j], 0
                while a < begins[i + 1] and b < held_begins[j + 1]:
                    if ranks[a] == held_ranks[b]:
                        shared += 1
                        a += 1
                        b += 1
                    elif ranks[a] < held_ranks[b]:
                        a += 1
                    else:
                        b += 1
                # A quotient of whole numbers is rounded as the threshold itself was: 7 of 10 is 0.7.
                if shared / (size + held_size - shared) >= threshold:
                    if found == len(left):
                        left = np.concatenate((left, np.empty_like(left)))
                        right = np.concatenate((right, np.empty_like(right)))
                    left[found], right[found] = i, j
                    found += 1
    return left[:found].copy(), right[:found].copy()
