"""The ledger of a sealed test: who was measured on it, in order, whoever writes at the same moment."""

import threading

import pytest

from tunegate import ledger
from tunegate.store import open_store

TEST, OTHER = "a" * 64, "b" * 64


@pytest.fixture(params=["directory", "s3"])
def store(request, tmp_path):
    return open_store(str(tmp_path / "store")) if request.param == "directory" else request.getfixturevalue("s3")


def test_candidates_are_numbered_in_the_order_they_came(store):
    assert ledger.use(store, TEST, "first") is None
    assert [ledger.record(store, TEST, model) for model in ("first", "second", "third")] == [1, 2, 3]
    assert [ledger.use(store, TEST, model) for model in ("first", "second", "third", "fourth")] == [1, 2, 3, None]
    assert ledger.record(store, OTHER, "third") == 1, "another test has a ledger of its own"


def test_measuring_a_model_again_is_no_further_look(store):
    for model in ("first", "second", "first", "second", "first"):
        ledger.record(store, TEST, model)
    assert store.list("ledger") == [f"ledger/{TEST}/1.json", f"ledger/{TEST}/2.json"]
    assert ledger.use(store, TEST, "first") == 1


def test_evaluations_at_the_same_moment_get_different_numbers(store):
    found, start = {}, threading.Barrier(6)

    def evaluate(model):
        start.wait()
        found[model] = ledger.record(open_store(store.uri), TEST, model.rpartition("-")[0])

    threads = [threading.Thread(target=evaluate, args=(f"model{i % 3}-{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted({found[f"model{i}-{i}"] for i in range(3)}) == [1, 2, 3]
    assert all(found[f"model{i}-{i}"] == found[f"model{i}-{i + 3}"] for i in range(3)), "one model, one number"
    assert len(store.list("ledger")) == 3
