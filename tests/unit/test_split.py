"""The split: groups stay whole, and a user's own test set is taken as it is while the data shrinks."""

import random
from collections import Counter

import pytest

from tunegate import rows
from tunegate.curate import split
from tunegate.errors import BadInput
from tunegate.recipe import Curate

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices(LETTERS, k=6)) for _ in range(count))


def row(question: str, answer: str, **more) -> dict:
    return rows.make_row([{"role": "user", "content": question}, {"role": "assistant", "content": answer}]) | more


def test_rows_of_one_group_stay_on_one_side():
    rng = random.Random(1)
    made = [row(words(rng, 8), words(rng, 2), group=f"conversation {n // 3}") for n in range(60)]
    made += [row(words(rng, 8), words(rng, 2)) for _ in range(60)] + [row(words(rng, 8), "x", group="")]
    rng.shuffle(made)
    made.sort(key=lambda r: r["id"])
    edges = split.group_edges(made)
    assert len(edges) == 40 and all(i < j and made[i]["group"] == made[j]["group"] for i, j in edges)
    grouped = split.with_clusters(made, edges)
    side = split.assign(grouped, Curate(dev_rows=15, test_rows=30))
    sides = {}
    for r, name in zip(grouped, side, strict=True):
        sides.setdefault(r.get("group") or r["id"], set()).add(name)
    assert all(len(names) == 1 for names in sides.values())
    assert {name for group, names in sides.items() if group.startswith("conversation") for name in names} >= {"train", "test"}
    assert all(r["cluster"] == min(o["id"] for o in grouped if o["cluster"] == r["cluster"]) for r in grouped)


def test_a_test_set_is_read_as_it_is(tmp_path):
    lamp = "Set the lamp in the kitchen to {} percent"
    made = [row(lamp.format(50), "done"), row(lamp.format(50), "done"), row(lamp.format(55), "done")]
    made.append(row("When does the train leave?", "At noon", task_type="time", group="trip"))
    made.append(row("And when does it arrive in the end?", "At one", group="trip"))
    rows.write_rows(tmp_path / "test.jsonl", made)
    read = split.read_test_set(tmp_path / "test.jsonl", 0.7, lambda row: "")
    assert sorted(r["id"] for r in read) == [r["id"] for r in read] == sorted(r["id"] for r in made)
    assert sorted(Counter(r["cluster"] for r in read).values()) == [2, 3]
    assert {(r["task_type"], r.get("group")) for r in read} == {("", None), ("time", "trip"), ("", "trip")}


@pytest.mark.parametrize(
    "lines, sentence",
    [
        ('{"messages": [{"role": "user", "content": "no answer"}]}\n', r"Row 1 of curate.test_set .* the last turn is not the assistant's"),
        ("\n", "has no rows"),
        ('{"text": "x"}\n', "is not a row"),
    ],
)
def test_a_bad_test_set_is_refused(tmp_path, lines, sentence):
    (tmp_path / "test.jsonl").write_text(lines)
    with pytest.raises(BadInput, match=sentence):
        split.read_test_set(tmp_path / "test.jsonl", 0.7, lambda row: "")


def test_only_the_data_shrinks_beside_a_test_set():
    rng = random.Random(2)
    test = [row("set the lamp in the kitchen to 50 percent", "done"), row(words(rng, 8), "yes", group="book")]
    data = [row(words(rng, 8), words(rng, 2)) for _ in range(30)]
    data += [
        row("set the lamp in the kitchen to 55 percent", "done"),
        row(words(rng, 8), "no", group="book"),
        row(words(rng, 8), "no", group="b"),
    ]
    assert split.resembling_test_set(data, test, 0.7) == {30: ("near-duplicate of the test set", 0), 31: ("same group as the test set", 1)}
    left = split.with_clusters([r for i, r in enumerate(data) if i not in (30, 31)], [])
    side = split.assign(left, Curate(dev_rows=10, test_rows=20, test_set="test.jsonl"))
    assert Counter(side) == {"train": 21, "dev": 10}
