"""Suites in a recipe: their sections, their files, and other tasks as suites."""

import json
from pathlib import Path

import fake_engine
import pytest

from tunegate import recipe, runner, suites
from tunegate.errors import BadInput
from tunegate.recipe import dump_recipe, load_recipe, parse_recipe
from tunegate.serving import serve
from tunegate.store import open_store
from tunegate.suites import other_task
from tunegate.suites.files import map_files

SUITES = [
    {"kind": "task", "name": "old_task", "rows": "kept/rows.jsonl", "task": {"checker": "label"}},
    {"kind": "safety", "harmful": "bad.jsonl"},
    {"kind": "harness", "name": "knowledge", "tasks": ["mmlu"], "include_path": "tasks"},
]


def test_suites_survive_a_round_trip_with_their_files_relative_to_the_recipe(tiny_recipe, tmp_path):
    found = load_recipe(tiny_recipe(evaluate={"suites": SUITES, "judge": {"url": "http://judge/v1", "model": "m"}}))
    assert parse_recipe(dump_recipe(found)) == found
    assert found.evaluate.suites[0].rows == str(tmp_path / "kept" / "rows.jsonl")
    assert found.evaluate.suites[1].harmful == str(tmp_path / "bad.jsonl") and found.evaluate.suites[1].benign is None
    assert found.evaluate.suites[2].include_path == str(tmp_path / "tasks")
    assert (found.evaluate.judge.versus, found.evaluate.suites[1].name) == ("base_few_shot", "safety")


@pytest.mark.parametrize(
    "evaluate, sentence",
    [
        ({"suites": [SUITES[2] | {"limit": 10}]}, "unknown key 'evaluate.suites.0.harness.limit'. Known keys here: kind, name, tasks"),
        ({"suites": [SUITES[0] | {"row": "x"}]}, "unknown key 'evaluate.suites.0.task.row'. Did you mean 'rows'?"),
        ({"suites": [SUITES[0] | {"task": {"cheker": "label"}}]}, "Did you mean 'checker'?"),
        ({"suites": [SUITES[0] | {"kind": "other"}]}, "'evaluate.suites.0'"),
        ({"suites": [SUITES[0] | {"name": "general"}]}, "a suite cannot be called 'general'"),
        ({"suites": [SUITES[1], SUITES[1]]}, "two suites are called 'safety'"),
        ({"suites": [SUITES[0] | {"task": {"zero_shot_system": "x"}}]}, "asks every arm with one prompt"),
        ({"judge": {"url": "http://judge/v1"}}, "a judge needs the name of its model"),
    ],
)
def test_a_wrong_suite_is_named(tiny_recipe, evaluate, sentence):
    with pytest.raises(BadInput) as caught:
        load_recipe(tiny_recipe(evaluate=evaluate))
    assert sentence in str(caught.value)


def test_files_are_brought_from_the_store(tmp_path):
    store = open_store(str(tmp_path / "store"))
    for name in ("rows", "tasks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.jsonl").write_text("{}\n")
    given = recipe.Evaluate(suites=SUITES)
    staged = map_files(given, lambda key, path: f"store:{store.put(key, tmp_path / ('tasks' if key == 'include_path' else 'rows'))}")
    found = suites.with_local_files(staged, store, tmp_path)
    assert Path(found.suites[0].rows).read_text() == Path(found.suites[1].harmful).read_text() == "{}\n"
    assert tmp_path / "store" in Path(found.suites[2].include_path).parents
    assert suites.with_local_files(given, store, tmp_path) == given
    with pytest.raises(BadInput, match=r"include_path is s3://b/tasks; it can be a directory"):
        suites.with_local_files(map_files(given, lambda key, path: "s3://b/tasks" if key == "include_path" else path), store, tmp_path)


def test_submit_puts_the_files_of_suites_into_the_store(tiny_recipe, tmp_path):
    (tmp_path / "tasks").mkdir()
    for name in ("kept/rows.jsonl", "bad.jsonl", "tasks/one.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    given = load_recipe(tiny_recipe(evaluate={"suites": SUITES}))
    store = open_store(given.store)
    staged = runner.stage_local(given, store).evaluate
    assert all(path.startswith("store:") for path in (staged.suites[0].rows, staged.suites[1].harmful, staged.suites[2].include_path))
    local = suites.with_local_files(staged, store, tmp_path)
    assert (Path(local.suites[2].include_path) / "one.yaml").read_text() == Path(local.suites[0].rows).read_text()


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_another_task_is_asked_with_its_own_system_prompt_and_checker(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEGATE_SERVE_PYTHON", fake_engine.install(tmp_path / "environment"))
    path = write_rows(
        tmp_path / "rows.jsonl",
        turns("red apple", "FRUIT") | {"cluster": "c", "id": "one"},
        turns("red car", "VEHICLE"),
        turns("red car", "VEHICLE"),
    )
    one = recipe.TaskSuite(kind="task", name="colours", rows=str(path), task=recipe.Task(checker="label", system="Sort.", max_new_tokens=4))
    settings = recipe.Evaluate(suites=[one])
    with serve(fake_engine.model_directory(tmp_path / "model", {"red apple": "fruit"}), recipe.Serve(max_model_len=64)) as server:
        items = suites.measure(server, "champion", settings.suites[0], 16, "evaluate: champion")
    assert {item["metric"] for item in items} == suites.metrics_of(settings) == {"colours/exact", "colours/finish_stop"}
    assert [item["score"] for item in items if item["metric"] == "colours/exact"] == [1.0, 0.0]
    assert [item["score"] for item in items if item["metric"] == "colours/finish_stop"] == [1.0, 0.0]
    first = items[0]
    assert (first["arm"], first["split"], first["item_id"], first["cluster_id"], first["output"]) == (
        "champion",
        "colours",
        "one",
        "c",
        "fruit",
    )
    asked = [{"role": "system", "content": "Sort."}, {"role": "user", "content": "red apple"}]
    assert first["prompt_hash"] == other_task.prompts.prompt_hash(asked)


def test_rows_that_cannot_be_asked_are_said(tmp_path):
    with pytest.raises(BadInput, match="row 1 of suite 'x' cannot be asked: the last turn is not the assistant's"):
        other_task.read(write_rows(tmp_path / "a.jsonl", {"messages": [{"role": "user", "content": "hello"}]}), "x")
    with pytest.raises(BadInput, match="has no rows for suite 'x'"):
        other_task.read(write_rows(tmp_path / "b.jsonl"), "x")
