"""Near-duplicates: the same pairs as brute force, for short texts, many scripts and very large groups."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tunegate.curate import kernels, near_duplicates
from tunegate.curate.near_duplicates import band_keys, connected, jaccard, shingles, signatures, similar_pairs

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices(LETTERS, k=rng.randrange(2, 9))) for _ in range(count))


def edited(rng: random.Random, text: str, rate: float) -> str:
    """Put another letter in the place of a share of the characters."""
    return "".join(rng.choice(LETTERS) if rng.random() < rate else character for character in text)


def brute_force(texts: list[str], threshold: float) -> list[tuple[int, int, float]]:
    sets = [shingles(text) for text in texts]
    pairs = [(i, j, len(sets[i] & sets[j]) / len(sets[i] | sets[j])) for j in range(len(texts)) for i in range(j)]
    return [pair for pair in pairs if pair[2] >= threshold]


def test_random_near_duplicates_are_found_as_by_brute_force():
    rng = random.Random(7)
    for length in (12, 60):
        texts = [words(rng, length) for _ in range(80)]
        texts += [edited(rng, rng.choice(texts), rng.random() * 0.03) for _ in range(220)]
        texts = sorted(set(texts))
        exact = brute_force(texts, 0.7)
        found = similar_pairs(texts, 0.7)
        assert len(exact) > 100 and set(found) <= set(exact)
        assert len(found) >= 0.999 * len(exact)
        assert {pair for pair in exact if pair[2] >= 0.8} <= set(found)
        assert found == sorted(found, key=lambda pair: (pair[1], pair[0]))


def test_short_texts_other_scripts_and_astral_characters():
    texts = ["", "abc", "abcd", "abcde", "ab", "\0abc", "abc\0", "яблоко и груша на столе", "яблоко и груша на столе!", "𝒜𝒷𝒸𝒹𝑒𝒻𝑔𝒽𝒾𝒿𝓀"]
    texts += ["𝒜𝒷𝒸𝒹𝑒𝒻𝑔𝒽𝒾𝒿𝓀𝓁", "今日はとても良い天気ですから散歩に行きましょう", "今日はとても良い天気ですから散歩に行きましょうね"]
    texts += ["👩‍👩‍👧", "👩‍👩‍👦"]
    assert similar_pairs(texts, 0.8) == brute_force(texts, 0.8)
    assert [pair[:2] for pair in similar_pairs(texts, 0.8)] == [(7, 8), (9, 10), (11, 12)]
    assert similar_pairs([], 0.7) == similar_pairs(["x"], 0.7) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab é中𝒜"), max_size=12), max_size=20), st.sampled_from([0.7, 0.8, 1.0]))
def test_no_pair_is_invented_and_equal_texts_share_the_first(texts, threshold):
    found = similar_pairs(texts, threshold)
    assert all(i < j and value == jaccard(texts[i], texts[j]) >= threshold for i, j, value in found)
    groups = connected(len(texts), [pair[:2] for pair in found])
    assert all(groups[i] == groups[j] for j in range(len(texts)) for i in range(j) if texts[i] == texts[j])


def test_the_threshold_itself_counts():
    a, b = "abcdefghijklm", "abcdefghijklmnop"  # 9 and 12 5-grams, 9 of them shared
    assert jaccard(a, b) == 0.75
    assert similar_pairs([a, b], 0.75) == [(0, 1, 0.75)] and similar_pairs([a, b], 0.7500001) == []


def test_equal_texts_are_a_star_however_many():
    texts = ["one and the same row"] * 100_000 + ["one and the same row!"]
    pairs = similar_pairs(texts, 0.8)
    assert len(pairs) == 100_000 and {pair[0] for pair in pairs} == {0}
    assert set(connected(len(texts), [pair[:2] for pair in pairs])) == {0}


def test_large_groups_cost_little_and_stay_together(monkeypatch):
    """With no group above 8 compared in full, the clusters are still those of brute force."""
    monkeypatch.setattr(near_duplicates, "SMALL_GROUP", 8)
    monkeypatch.setattr(near_duplicates, "PAIRS_PER_BAND", 0)
    monkeypatch.setattr(near_duplicates, "PAIRS_PER_TEXT", 0)
    rng = random.Random(11)
    template = words(rng, 30)
    chain = [template]
    for _ in range(150):  # each resembles the one before it; the first and the last share little
        chain.append(edited(rng, chain[-1], 0.01))
    spread = [edited(rng, template, rng.random() * 0.06) for _ in range(150)]
    texts = sorted(set(chain + spread))
    exact = brute_force(texts, 0.7)
    found = similar_pairs(texts, 0.7)
    assert set(found) <= set(exact) and len(found) < len(exact)
    assert connected(len(texts), [p[:2] for p in found]) == connected(len(texts), [p[:2] for p in exact])


def test_a_cluster_of_thousands_of_different_rows_is_one():
    texts = [f"please set the lamp in the living room of this house to level {number}" for number in range(20_000)]
    pairs = similar_pairs(texts, 0.7)
    assert set(connected(len(texts), [pair[:2] for pair in pairs])) == {0}
    assert len(pairs) < 20 * len(texts)


def test_batches_and_threads_change_nothing(monkeypatch):
    rng = random.Random(3)
    texts = [words(rng, 20) for _ in range(200)]
    whole = signatures(texts)
    assert whole.shape == (200, 128) and whole.dtype == np.uint32
    assert np.array_equal(np.concatenate([signatures(texts[:50]), signatures(texts[50:])]), whole)
    texts += [edited(rng, text, 0.01) for text in texts]
    alone = similar_pairs(texts, 0.7)
    assert len(alone) > 150
    monkeypatch.setattr(near_duplicates, "BATCH_CHARACTERS", 2_000)
    monkeypatch.setattr(near_duplicates, "PAIRS_AT_ONCE", 100)
    assert np.array_equal(band_keys(texts, workers=3), band_keys(texts))
    assert similar_pairs(texts, 0.7) == similar_pairs(texts, 0.7, band_keys(texts, workers=3)) == alone
    assert similar_pairs(texts + texts, 0.7, band_keys(texts + texts)) == similar_pairs(texts + texts, 0.7)
    assert band_keys([]).shape == (32, 0)


def test_groups_are_those_of_sorting_all_keys():
    rng = np.random.default_rng(2)
    for count, different in ((0, 1), (1, 1), (2, 1), (5_000, 1), (5_000, 3), (5_000, 4_000), (200_000, 1_000_000)):
        keys = rng.integers(2**32, size=different, dtype=np.uint32)[rng.integers(different, size=count)]
        places, bounds = kernels.groups(keys)
        order = np.argsort(keys, kind="stable")
        _, starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)
        expected = [order[start : start + size].tolist() for start, size in zip(starts, sizes, strict=True) if size > 1]
        assert [places[start:stop].tolist() for start, stop in bounds] == expected


def test_distinct_pairs_are_sorted_and_split():
    rng = np.random.default_rng(4)
    for count, size in ((2, 0), (2, 3), (50, 400), (2_048, 30_000), (2_049, 30_000), (70_000, 200_000), (2**31 - 1, 100_000)):
        left = rng.integers(count - 1, size=size)
        right = left + 1 + (rng.random(size) * (count - 1 - left)).astype(np.int64)
        pairs = np.unique(left << 32 | right)
        i, j = kernels.distinct_pairs(np.concatenate((left << 32 | right, pairs[::-1])).astype(np.uint64), count)
        assert np.array_equal(i, pairs >> 32) and np.array_equal(j, pairs & 0xFFFFFFFF)


def test_signatures_are_the_same_on_every_machine():
    assert signatures(["", "tunegate", "中文 𝒜"])[:, 0].tolist() == [1026056002, 1276799617, 2999401766]


def test_agreement_of_signatures_estimates_the_similarity():
    rng = random.Random(5)
    errors = []
    for _ in range(300):
        a = words(rng, 40)
        b = edited(rng, a, rng.random() * 0.1)
        one, other = signatures([a, b])
        errors.append(float(np.mean(one == other)) - jaccard(a, b))
    assert abs(np.mean(errors)) < 0.01  # no bias; a single estimate has a standard deviation of up to 0.044
    assert np.std(errors) < 0.05


def test_connected_places_take_the_smallest():
    assert connected(6, [(4, 1), (5, 4), (2, 3)]) == [0, 1, 2, 2, 1, 1]
    assert connected(2, []) == [0, 1]
