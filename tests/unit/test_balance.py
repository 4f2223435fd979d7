"""Balance: no task type above its share, as many rows as that allows, and thirds of difficulty alike in what stays."""

import random
from collections import Counter

import pytest
from test_select import difficulty, rows_of

from tunegate.curate.balance import _cap, over_share
from tunegate.errors import BadInput
from tunegate.recipe import Curate


def test_a_type_above_its_share_is_cut_and_its_thirds_stay_alike():
    rows = rows_of(300, "many") + rows_of(60, "some") + rows_of(40, "few")
    ifd = difficulty(rows, 0.001)
    dropped = over_share(rows, ifd, Curate(balance={"max_share": 0.5}))
    kept = [i for i in range(len(rows)) if i not in dropped]
    assert Counter(rows[i]["task_type"] for i in kept) == {"many": 100, "some": 60, "few": 40}
    assert sorted(sum(i // 100 == third for i in kept if i < 300) for third in range(3)) == [33, 33, 34]
    assert set(dropped.values()) == {"task type 'many' over balance.max_share (50%)"}
    blind = over_share(rows, ifd, Curate(balance={"max_share": 0.5, "difficulty": False}))
    assert len(blind) == len(dropped) and set(blind) == set(over_share(rows, {}, Curate(balance={"max_share": 0.5})))


def test_the_cap_is_the_largest_that_holds():
    rng = random.Random(2)
    for _ in range(200):
        sizes = [rng.randrange(1, 60) for _ in range(rng.randrange(2, 7))]
        share = rng.uniform(1 / len(sizes), 1)
        holds = [cap for cap in range(max(sizes) + 1) if min(max(sizes), cap) <= share * sum(min(size, cap) for size in sizes) + 1e-9]
        assert _cap(sizes, share) == max(holds)


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does():
    rows = rows_of(80, "a") + rows_of(20, "b")

    def gone(given: list[dict], seed: int = 0) -> set[str]:
        return {given[i]["id"] for i in over_share(given, difficulty(rows), Curate(seed=seed, balance={"max_share": 0.6}))}

    assert gone(rows) == gone(rows[::-1]) != gone(rows, seed=1)
    assert len(gone(rows)) == 50


def test_no_cap_drops_nothing():
    assert over_share(rows_of(9, "a"), {}, Curate()) == {}
    assert over_share([], {}, Curate(balance={"max_share": 0.1})) == {}
    assert over_share(rows_of(9, "a") + rows_of(9, "b"), {}, Curate(balance={"max_share": 0.5})) == {}


def test_a_share_that_no_rows_can_satisfy_is_refused():
    with pytest.raises(BadInput, match="max_share is 0.4, but .* only these task types: 'a', 'b'. One of 2 has 50% or more"):
        over_share(rows_of(9, "a") + rows_of(9, "b"), {}, Curate(balance={"max_share": 0.4}))
    with pytest.raises(BadInput, match="only these task types: ''. One of 1 has 100% or more.*or give the rows a task_type"):
        over_share(rows_of(9), {}, Curate(balance={"max_share": 0.4}))
