"""The check of a split: every pair that straddles is found, exactly at the threshold, by other means than MinHash."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunegate import rows
from tunegate.curate import join, leakage, near_duplicates
from tunegate.curate.leakage import straddling_pairs

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices(LETTERS, k=6)) for _ in range(count))


def grams(text: str) -> set[str]:
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))}


def brute_force(texts: list[str], side: list[str], threshold: float) -> list[tuple[int, int]]:
    sets = [grams(text) for text in texts]
    pairs = [(i, j) for i in range(len(texts)) for j in range(i + 1, len(texts)) if side[i] != side[j]]
    return [(i, j) for i, j in pairs if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold]


def test_the_two_ways_to_compare_agree_with_brute_force():
    rng = random.Random(3)
    texts = []
    for _ in range(60):
        text = words(rng, 6)
        texts += [text, text.replace(text[10], "é"), text[: rng.randrange(20, 40)], text + " more", "ab", "abc", text[:5]]
    texts = sorted(set(texts))
    side = [str(i % 3) for i in range(len(texts))]
    exact = brute_force(texts, side, 0.7)
    assert len(exact) > 60
    assert straddling_pairs(texts, side, 0.7) == exact
    assert sorted((i, j) for i, j, _ in near_duplicates.similar_pairs(texts, 0.7) if side[i] != side[j]) == exact


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.text(st.sampled_from("ab é中𝒜\0"), max_size=14), st.sampled_from(["train", "dev", "test"])), max_size=25),
    st.sampled_from([0.1, 0.3, 0.7, 0.8, 1.0]),
)
def test_any_texts_give_what_brute_force_gives(pairs, threshold):
    texts, side = [text for text, _ in pairs], [name for _, name in pairs]
    assert straddling_pairs(texts, side, threshold) == brute_force(texts, side, threshold)


@pytest.mark.parametrize("shared, threshold", [(7, 0.7), (14, 0.7), (21, 0.7), (35, 0.7), (49, 0.7), (8, 0.8), (63, 0.9), (29, 0.58)])
def test_a_planted_leak_at_the_threshold_itself_is_found(shared, threshold):
    """`shared` 5-grams of the one text are all of the other's: a Jaccard similarity of exactly `threshold`."""
    rng = random.Random(shared)
    longer = "".join(chr(0x4E00 + n) for n in rng.sample(range(5_000), round(shared / threshold) + 4))
    texts = [words(rng, 9) for _ in range(50)] + [longer[: shared + 4], longer]
    side = ["train"] * 51 + ["test"]
    assert straddling_pairs(texts, side, threshold) == [(50, 51)]
    assert straddling_pairs(texts, side, threshold + 1e-6) == []


def test_more_characters_than_fit_64_bits(monkeypatch):
    alphabet = [chr(c) for c in range(0x3400, 0xD7A3)][:30_000]
    rng = random.Random(8)
    texts = ["".join(rng.choices(alphabet, k=20)) for _ in range(2_000)]
    texts += [text + alphabet[n] for n, text in enumerate(texts[:40])]
    side = ["train"] * 2_000 + ["test"] * 40
    assert straddling_pairs(texts, side, 0.7) == [(n, 2_000 + n) for n in range(40)]
    monkeypatch.setattr(join, "TEXTS_AT_ONCE", 7)
    assert straddling_pairs(texts, side, 0.7) == [(n, 2_000 + n) for n in range(40)]


def test_one_side_or_nothing_has_no_leak():
    assert straddling_pairs([], [], 0.7) == straddling_pairs(["a text", "a text"], ["train", "train"], 0.7) == []
    assert join.similar_to([], ["a"], 0.7) == join.similar_to(["a"], [], 0.7) == []


def test_held_texts_are_found_in_others():
    assert join.similar_to(["nothing of the kind", "turn on the lamp!", "ab"], ["ab", "turn on the lamp"], 0.7) == [(1, 1), (2, 0)]


def test_rows_that_share_a_template_do_not_slow_the_check():
    """A template stands in every row, so none of its 5-grams is among the rarest."""
    rng = random.Random(4)
    template = words(rng, 8)
    texts = [f"{template} {words(rng, 5)}" for _ in range(6_000)]
    texts[5_999] = texts[17] + " x"
    assert straddling_pairs(texts, ["train"] * 3_000 + ["test"] * 3_000, 0.7) == [(17, 5_999)]


def test_files_are_read_again(tmp_path):
    for part, question in (
        ("train", "set the lamp to 50 percent"),
        ("dev", "when does the train leave"),
        ("test", "set the lamp to 50 percent!"),
    ):
        turns = [{"role": "system", "content": part}, {"role": "user", "content": question}, {"role": "assistant", "content": "certainly"}]
        rows.write_rows(tmp_path / f"{part}.jsonl", [rows.make_row(turns)])
    assert leakage.count_straddling_files(tmp_path, {"train": "train", "dev": "dev", "test": "test"}, 0.7) == 1
    assert leakage.count_straddling_files(tmp_path, {"train": "train", "dev": "dev"}, 0.7) == 0
    one_side = {"train": "train", "dev": "dev", "test": "train"}
    assert leakage.count_straddling_files(tmp_path, one_side, 0.7) == 0
