"""KTO without a model: what it learns from, how the two kinds are weighed, which rows stand together, and what is refused."""

import re

import pytest

from tunegate import rows
from tunegate.errors import BadInput
from tunegate.predict.work import row_choices
from tunegate.recipe import Prefer, Task
from tunegate.store import open_store
from tunegate.train import batch, kto, supervise
from tunegate.train.checkpoints import document
from tunegate.train.pairs import given_examples

TASK = Task(checker="exact", system="Answer in one word.")
SYSTEM = {"role": "system", "content": TASK.system}


def said(content: str) -> list[dict]:
    return [{"role": "assistant", "content": content}]


def answers(wanted: int, unwanted: int, prompts: int = 1000) -> list[dict]:
    labels = [True] * wanted + [False] * unwanted
    return [
        {"prompt": [{"role": "user", "content": f"question {n % prompts}"}], "completion": said(f"answer {n}"), "label": label}
        for n, label in enumerate(labels)
    ]


@pytest.fixture
def data(tmp_path):
    """Make curate's data: two pairs, three labelled answers, or what of both is asked for."""

    def make(pairs: int = 2, labelled: int = 3):
        asked = [{"role": "user", "content": "yes or no?"}]
        if pairs:
            rows.write_rows(
                tmp_path / "preferences.jsonl", [rows.make_preference(asked, said("yes"), said(f"no {n}")) for n in range(pairs)]
            )
        if labelled:
            rows.write_rows(tmp_path / "labelled.jsonl", [rows.make_labelled(asked, said(f"{n}"), n % 2 == 0) for n in range(labelled)])
        return tmp_path

    return make


@pytest.mark.parametrize(
    "wanted, unwanted, desirable, undesirable",
    [(10, 10, 1, 1), (4, 3, 1, 1), (30, 10, 1, 2.25), (10, 30, 3, 1), (99, 1, 1, 74.25), (1, 99, 99, 1), (9, 10, 10 / 9, 1)],
)
def test_the_weights_bring_the_two_kinds_into_the_papers_range(wanted, unwanted, desirable, undesirable):
    found = kto.weights(answers(wanted, unwanted))
    assert found == pytest.approx({"desirable_weight": desirable, "undesirable_weight": undesirable})
    assert 1 - 1e-9 <= desirable * wanted / (undesirable * unwanted) <= 4 / 3 + 1e-9


def test_answers_of_one_kind_are_refused():
    with pytest.raises(BadInput, match="All 7 labelled answers for KTO have the label false"):
        kto.weights(answers(0, 7))


@pytest.mark.parametrize("count, prompts", [(40, 40), (40, 20), (40, 2), (41, 5), (2, 2), (3, 3)])
def test_the_rows_of_a_couple_have_different_prompts(count, prompts):
    made = answers(count, 0, prompts)
    order = kto.order(made, [n % 7 for n in range(count)], 8, seed=0)
    assert sorted(order) == list(range(count)) and order == kto.order(made, [n % 7 for n in range(count)], 8, seed=0)
    couples = [(made[a]["prompt"], made[b]["prompt"]) for a, b in zip(order[::2], order[1::2], strict=False)]
    assert len(couples) == count // 2 and all(one != other for one, other in couples)


def test_batches_hold_couples_of_like_length():
    lengths = [5, 900] * 32
    order = kto.order(answers(64, 0), lengths, 8, seed=3)
    longest = [
        [max(lengths[a], lengths[b]) for a, b in zip(order[i : i + 8 : 2], order[i + 1 : i + 8 : 2], strict=True)] for i in range(0, 64, 8)
    ]
    assert sum(len(set(batch)) > 1 for batch in longest) <= 1 and longest[0][0] == 900


def test_kto_learns_from_both_answers_of_pairs_and_from_labelled_ones(data):
    found, origin = given_examples(Prefer(method="kto"), data(), TASK)
    assert origin == "given: 2 pairs, 3 labelled answers"
    assert [(a["completion"][0]["content"], a["label"]) for a in found] == [
        ("yes", True), ("no 0", False), ("yes", True), ("no 1", False), ("0", True), ("1", False), ("2", True)
    ]  # fmt: skip
    assert all(a["prompt"][0] == SYSTEM and set(a) == {"prompt", "completion", "label"} for a in found)


@pytest.mark.parametrize("pairs, labelled, count", [(2, 0, 4), (0, 3, 3)])
def test_kto_takes_either_alone(data, pairs, labelled, count):
    assert len(given_examples(Prefer(method="kto", pairs="given"), data(pairs, labelled), TASK)[0]) == count


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_other_methods_take_pairs_only(data, method):
    found, origin = given_examples(Prefer(method=method), data(), TASK)
    assert origin == "given" and [set(pair) for pair in found] == [{"prompt", "chosen", "rejected"}] * 2


def test_labelled_answers_alone_are_refused_by_other_methods_or_left(data, capsys):
    directory = data(pairs=0)
    with pytest.raises(
        BadInput, match=re.escape("holds labelled answers, from which dpo cannot learn, but no preference pairs.")
    ) as caught:
        given_examples(Prefer(pairs="given"), directory, TASK)
    assert "Set prefer.method: kto" in str(caught.value)
    assert given_examples(Prefer(), directory, TASK) is None
    assert "dpo cannot learn from the 3 labelled answers" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_without_either_pairs_are_mined_or_the_recipe_refused(data, method):
    assert given_examples(Prefer(method=method), data(0, 0), TASK) is None
    assert given_examples(Prefer(method=method, pairs="mined"), data(), TASK) is None


def test_given_asks_for_something(data):
    with pytest.raises(BadInput, match="holds neither labelled answers nor preference pairs. Add some to data.sources"):
        given_examples(Prefer(method="kto", pairs="given"), data(0, 0), TASK)


@pytest.mark.parametrize("sizes", [{"per_device_train_batch_size": 1}, {"per_device_train_batch_size": 3}, {"train_batch_size": 5}])
def test_a_micro_batch_without_a_second_row_is_refused(sizes):
    with pytest.raises(ValueError, match="compares each row with another of its micro-batch, so .* must be even, and it is"):
        Prefer(method="kto", **sizes)
    Prefer(method="dpo", **sizes)


def test_the_smallest_micro_batch_is_two():
    config = Prefer(method="kto", train_batch_size=8)
    tried = []

    def slower_and_slower(size: int) -> batch.Measured:
        tried.append(size)
        return batch.Measured(True, 1 / size)

    assert batch.fastest(8, slower_and_slower, config.rows_together) == batch.Batch(2, 4) and tried == [2, 4]
    assert row_choices(config, 1) == [2, 4, 8]
    with pytest.raises(BadInput, match="8 devices cannot share in multiples of 2 rows. Choose a multiple of 16"):
        batch.share(config, 8)
    with pytest.raises(BadInput, match="Not even 2 rows at a time fit into"):
        batch.fastest(8, lambda size: batch.Measured(False), config.rows_together)


@pytest.mark.parametrize("rows_together, after", [(1, (1, 4, False)), (2, (2, 2, True))])
def test_out_of_memory_does_not_halve_a_couple(tmp_path, rows_together, after):
    store = open_store(str(tmp_path / "store"))
    settings = {"rows": 2, "accumulation": 2, "checkpointing": False, "rows_together": rows_together}
    store.write_json(document("x", "settings"), settings)
    assert supervise._with_less_memory(store, "x")
    found = store.read_json(document("x", "settings"))
    assert (found["rows"], found["accumulation"], found["checkpointing"]) == after
