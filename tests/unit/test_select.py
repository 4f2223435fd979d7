"""Selection: a band, and inside it variety of task types, difficulty and clusters; the same for any order of the rows."""

import random
from collections import Counter

import pytest

from tunegate import rows as row_form
from tunegate.curate import select
from tunegate.recipe import Curate, Quality


def rows_of(count: int, task_type: str = "", cluster_rows: int = 1) -> list[dict]:
    made = []
    for n in range(count):
        turns = [{"role": "user", "content": f"{task_type} question {n}"}, {"role": "assistant", "content": f"answer {n}"}]
        made.append({**row_form.make_row(turns, task_type), "cluster": f"{task_type}{n // cluster_rows}"})
    return made


def difficulty(rows: list[dict], step: float = 0.01) -> dict[str, float]:
    return {row["id"]: 0.1 + step * n for n, row in enumerate(rows)}


def test_the_band_leaves_out_each_end_and_low_scores():
    rows = rows_of(105)
    ifd = difficulty(rows, 0.0085)  # the last is at 0.984
    ifd |= {rows[102]["id"]: 1.0, rows[103]["id"]: 1.7}
    del ifd[rows[50]["id"]]  # too short to score: it stays
    scores = {row["id"]: 3 for row in rows} | {rows[60]["id"]: 2, rows[0]["id"]: 1}
    dropped = select.outside_band(rows, ifd, scores, Quality(ifd={"drop_lowest": 0.05}))
    assert dropped == {
        60: "judge's score below 3", 0: "judge's score below 3",
        102: "IFD 1 or more: the question does not help to the answer", 103: "IFD 1 or more: the question does not help to the answer",
        **{n: "among the lowest 5% of IFD of its task type" for n in range(1, 6)},  # of 100 scored rows that are left
    }  # fmt: skip


def test_the_lowest_go_by_task_type_so_that_an_easy_type_stays():
    easy, hard = rows_of(20, "easy"), rows_of(40, "hard")
    ifd = difficulty(easy, 0.001) | {id_: score + 0.5 for id_, score in difficulty(hard, 0.001).items()}
    dropped = select.outside_band(easy + hard, ifd, {}, Quality(ifd={"drop_lowest": 0.29}))
    assert sorted(dropped) == [0, 1, 2, 3, 4, *range(20, 31)]


def test_nothing_is_dropped_where_nothing_was_measured():
    assert select.outside_band(rows_of(10), {}, {}, Quality()) == {}


def test_fewer_rows_are_shared_by_task_types_thirds_and_clusters():
    rows = rows_of(300, "a", cluster_rows=3) + rows_of(90, "b") + rows_of(5, "rare")
    ifd = difficulty(rows, 0.001)
    config = Curate(max_train_rows=125)
    dropped = select.over_max_rows(rows, ifd, config)
    kept = [i for i in range(len(rows)) if i not in dropped]
    assert set(dropped.values()) == {"over max_train_rows (125)"} and len(kept) == 125
    assert Counter(rows[i]["task_type"] for i in kept) == {"a": 60, "b": 60, "rare": 5}
    assert len({rows[i]["cluster"] for i in kept if rows[i]["task_type"] == "a"}) == 60
    assert [sum(place // 100 == third for place in kept if place < 300) for third in range(3)] == [20, 20, 20]
    assert [sum((place - 300) // 30 == third for place in kept if 300 <= place < 390) for third in range(3)] == [20, 20, 20]


def test_a_cluster_in_two_thirds_is_taken_from_once_before_any_twice():
    rows = rows_of(6)
    for i, cluster in enumerate(["x", "p", "x", "q", "x", "r"]):
        rows[i]["cluster"] = cluster
    for seed in range(10):
        order = select.by_variety(rows, list(range(6)), difficulty(rows), seed)
        assert len({rows[i]["cluster"] for i in order[:3]}) == 3 and sorted(i // 2 for i in order[:3]) == [0, 1, 2]
        assert sorted(order) == list(range(6))


def test_rows_without_ifd_get_their_share():
    rows = rows_of(100)
    order = select.by_variety(rows, list(range(100)), difficulty(rows[:90]), 0)
    assert [sum(i >= 90 for i in order[:cut]) for cut in (10, 20, 50)] == [1, 2, 5]


@pytest.mark.parametrize("measured", [True, False])
def test_the_order_of_the_rows_does_not_matter_and_the_seed_does(measured):
    rows = rows_of(60, "a", 4) + rows_of(60, "b", 2)
    ifd = difficulty(rows, 0.001) if measured else {}

    def kept(given: list[dict], seed: int = 0) -> set[str]:
        dropped = select.over_max_rows(given, ifd, Curate(max_train_rows=50, seed=seed))
        return {row["id"] for i, row in enumerate(given) if i not in dropped}

    assert kept(rows) == kept(random.Random(4).sample(rows, len(rows))) != kept(rows, seed=1)


def test_enough_room_keeps_all():
    assert select.over_max_rows(rows_of(10), {}, Curate(max_train_rows=10)) == {}
    assert select.over_max_rows(rows_of(10), {}, Curate()) == {}
