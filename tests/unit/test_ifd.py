"""IFD: the loss of an answer with its question and with an empty one, the same numbers however often the scoring was interrupted."""

import json
import math
import time

import pytest
from tiny_model import command_rows

from tunegate import rows
from tunegate.curate import ifd, progress
from tunegate.curate.row_stages import Context
from tunegate.recipe import Curate, Ifd, Task

SETTINGS = Ifd(batch_tokens=256)
SYSTEM = "Answer with JSON."


def example(name: str, asked: int, answered: int) -> ifd.Example:
    return ifd.Example(name, list(range(asked + answered)), asked, [1, 2])


def test_batches_hold_like_lengths_within_their_tokens():
    made = [example(f"{n:03}", 5 + n % 7, 3 + n * 5 % 11) for n in range(60)] + [example("huge", 300, 40)]
    batches = ifd.plan_batches(made, 64)
    assert [[e.id for e in batch] for batch in ifd.plan_batches(made[::-1], 64)] == [[e.id for e in batch] for batch in batches]
    assert sorted(e.id for batch in batches for e in batch) == sorted(e.id for e in made)
    assert [e.id for e in batches[0]] == ["huge"]
    assert all(len(batch) * max(len(e.tokens) for e in batch) <= 64 for batch in batches[1:])
    padding = sum(len(batch) * len(batch[0].tokens) - sum(len(e.tokens) for e in batch) for batch in batches)
    assert padding < 0.1 * sum(len(e.tokens) for e in made)


def test_only_whole_batches_come_from_the_cache_and_the_rest_leaves_it(tmp_path):
    cache = tmp_path / "ifd.jsonl"
    batches = {"k1": [example("a", 1, 2), example("b", 1, 2)], "k2": [example("c", 1, 2), example("d", 1, 2)]}
    lines = [
        {"batch": "k1", "id": "a", "given": 0.5, "unasked": 1.25}, {"batch": "k1", "id": "b", "given": 2, "unasked": 1},
        {"batch": "k2", "id": "c", "given": 3, "unasked": 1}, {"batch": "old", "id": "d", "given": 3, "unasked": 1},
    ]  # fmt: skip
    cache.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"batch": "k2", "id": "d", "giv')
    assert ifd.read_cache(cache, batches) == {"k1": {"a": (0.5, 1.25), "b": (2, 1)}}
    assert [json.loads(line)["id"] for line in cache.read_text().splitlines()] == ["a", "b"]
    assert ifd.read_cache(tmp_path / "none.jsonl", batches) == {}


def test_progress_is_said_while_a_batch_runs_and_at_the_end(monkeypatch):
    monkeypatch.setattr(progress, "SAY_SECONDS", 0.01)
    said = []
    with progress.saying("ifd", 1_200, said.append) as counted:
        counted.done = 600
        deadline = time.monotonic() + 20
        while not any("600/1,200" in line for line in said) and time.monotonic() < deadline:
            time.sleep(0.01)
        counted.done = 1_200
    assert any(line.startswith("      ifd: 600/1,200 rows, ") for line in said) and said[-1].startswith("      ifd: 1,200/1,200 rows, ")


def test_it_is_off_without_being_asked_for_or_without_a_model(tmp_path):
    on = Curate(quality={"ifd": {"enabled": True}})
    assert ifd.off(Curate(), Context(Task(), tmp_path)) == "curate.quality.ifd.enabled is false"
    assert ifd.off(on, Context(Task())) == "it needs the base model, and none was given"
    assert ifd.off(on, Context(Task(), tmp_path)) == ""


@pytest.fixture(scope="module")
def made() -> list[dict]:
    short = rows.make_row([{"role": "user", "content": "turn on the fan"}, {"role": "assistant", "content": "yes"}])
    return [*command_rows(40), short]


@pytest.fixture(scope="module")
def scored(tiny_base, made) -> dict[str, float]:
    return ifd.score_ifd(made, tiny_base, SETTINGS, system=SYSTEM)


def plain_ifd(base, row: dict) -> float:
    """Compute IFD for one row as the definition says: no batch, no padding, all logits."""
    import torch

    from tunegate.train.model import load_base, load_tokenizer

    model, tokenizer = load_base(base).eval(), load_tokenizer(base)
    prompt = rows.chat(row, SYSTEM)
    asked, unasked = (
        tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        for turns in (prompt, [prompt[0], {"role": "user", "content": ""}])
    )
    answer = tokenizer(rows.answer(row), add_special_tokens=False)["input_ids"]

    def perplexity(before: list[int]) -> float:
        ids = torch.tensor([before + answer]).to(model.device)
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1].float(), ids[0, 1:], reduction="none")
        return math.exp(losses[-len(answer) :].mean())

    return perplexity(asked) / perplexity(unasked)


def test_scores_are_those_of_the_definition_on_a_real_model(tiny_base, made, scored):
    assert set(scored) == {row["id"] for row in made[:-1]}  # the last answer is too short to be scored
    for row in made[:40:8]:
        assert scored[row["id"]] == pytest.approx(plain_ifd(tiny_base, row), rel=0.05)  # a batch rounds otherwise: bfloat16 keeps 8 bits


def test_an_interrupted_scoring_goes_on_to_the_same_numbers_on_a_real_model(tiny_base, made, scored, tmp_path):
    cache = tmp_path / "ifd.jsonl"
    assert ifd.score_ifd(made, tiny_base, SETTINGS, cache, system=SYSTEM) == scored
    whole = cache.read_bytes()
    assert len(whole.splitlines()) == 40
    cache.write_bytes(whole[: len(whole) * 2 // 3])
    said = []
    assert ifd.score_ifd(made[::-1], tiny_base, SETTINGS, cache, said.append, system=SYSTEM) == scored
    assert said[-1].startswith("      ifd: 40/40 rows, ")
    assert cache.read_bytes() == whole
    # What another question was asked with, or another set of rows, is not taken from it.
    other = ifd.score_ifd(made, tiny_base, SETTINGS, cache, system="Sing.")
    assert other != scored and other == ifd.score_ifd(made, tiny_base, SETTINGS, system="Sing.")


def test_a_finished_scoring_needs_no_model_on_a_real_model(tiny_base, made, scored, tmp_path, monkeypatch):
    from tunegate.train import model

    cache = tmp_path / "ifd.jsonl"
    ifd.score_ifd(made, tiny_base, SETTINGS, cache, system=SYSTEM)
    monkeypatch.setattr(model, "load_base", None)
    assert ifd.score_ifd(made, tiny_base, SETTINGS, cache, system=SYSTEM) == scored


def test_no_rows_give_no_scores_on_a_real_model(tiny_base):
    assert ifd.score_ifd([], tiny_base, SETTINGS) == {}
