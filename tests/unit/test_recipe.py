"""Recipes: every committed one parses, and a wrong one gets a sentence that helps."""

from pathlib import Path

import pytest

from tunegate.errors import BadInput
from tunegate.recipe import dump_recipe, load_recipe, parse_recipe

RECIPES = sorted((Path(__file__).parents[2] / "pipelines" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_parses_and_survives_a_round_trip(path):
    recipe = load_recipe(path)
    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_seed_holds_the_fields_recipe():
    seed = load_recipe(next(path for path in RECIPES if path.name == "seed.yaml"))
    sft, lora = seed.sft, seed.sft.lora
    assert seed.base_model.startswith("hf://meta-llama/Llama-3.1-8B-Instruct")
    assert (sft.load_in_4bit, sft.bnb_4bit_quant_type, sft.learning_rate, sft.num_train_epochs) == (True, "nf4", 2e-4, 3)
    assert (sft.per_device_train_batch_size, sft.gradient_accumulation_steps) == (4, 8)
    assert (lora.r, lora.alpha, lora.dropout) == (16, 32, 0.05)
    assert lora.target_modules == [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    assert (seed.prefer.method, seed.prefer.beta) == ("dpo", 0.1)


def test_paths_are_relative_to_the_recipe(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    recipe = load_recipe(tiny_recipe(evaluate={"general_text": "texts/general.jsonl"}))
    assert recipe.base_model == str(tmp_path / "base")
    assert recipe.data.sources == [str(tmp_path / "rows.jsonl")]
    assert recipe.evaluate.general_text == str(tmp_path / "texts" / "general.jsonl")


def test_addresses_are_left_alone(tiny_recipe):
    recipe = load_recipe(tiny_recipe(base_model="hf://org/name@main", data={"sources": ["s3://bucket/x.jsonl", "store:rows/12"]}))
    assert recipe.base_model == "hf://org/name@main"
    assert recipe.data.sources == ["s3://bucket/x.jsonl", "store:rows/12"]


@pytest.mark.parametrize(
    "sections, sentence",
    [
        ({"sft": {"learning_rat": 1e-4}}, "unknown key 'sft.learning_rat'. Did you mean 'learning_rate'?"),
        ({"evalute": {}}, "unknown key 'evalute'. Did you mean 'evaluate'?"),
        ({"sft": {"lora": {"rank": 8}}}, "unknown key 'sft.lora.rank'."),
        ({"register": {"model": "x"}}, "unknown key 'register.model'. Did you mean 'model_name'?"),
        ({"curate": {"test_rows": 0}}, "'curate.test_rows': Input should be greater than or equal to 1 (given: 0)."),
        ({"data": {"sources": []}}, "'data.sources'"),
        ({"name": "Not A Name"}, "'name'"),
    ],
)
def test_a_wrong_key_or_value_is_named(tiny_recipe, sections, sentence):
    with pytest.raises(BadInput) as caught:
        load_recipe(tiny_recipe(**sections))
    assert sentence in str(caught.value)


def test_a_missing_recipe_and_a_missing_policy_are_said(tiny_recipe, tmp_path):
    with pytest.raises(BadInput, match="No recipe at"):
        load_recipe(tmp_path / "nothing.yaml")
    with pytest.raises(BadInput, match="policy.*does not exist"):
        load_recipe(tiny_recipe(policy="nowhere.yaml"))


def test_a_missing_key_and_bad_yaml_are_said(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\n")
    with pytest.raises(BadInput, match="'base_model' is missing"):
        load_recipe(path)
    path.write_text("a: [b\n")
    with pytest.raises(BadInput, match="is not valid YAML"):
        load_recipe(path)
    path.write_text("- just a list\n")
    with pytest.raises(BadInput, match="mapping"):
        load_recipe(path)


def test_what_kubeflow_would_rewrite_is_refused(tiny_recipe):
    with pytest.raises(BadInput, match="would rewrite"):
        load_recipe(tiny_recipe(task={"system": "say {{$.inputs}}"}))


def test_a_recipe_too_long_for_a_parameter_is_refused(tiny_recipe):
    with pytest.raises(BadInput, match="may hold 32768"):
        load_recipe(tiny_recipe(task={"system": "x" * 33_000}))


def test_overrides_set_numbers_lists_and_text(tiny_recipe):
    recipe = load_recipe(tiny_recipe(), ["sft.learning_rate=1e-4", "baseline.few_shot=[nearest]", "task.checker=label", "sft.lora.r=8"])
    assert (recipe.sft.learning_rate, recipe.baseline.few_shot, recipe.task.checker, recipe.sft.lora.r) == (1e-4, ["nearest"], "label", 8)


@pytest.mark.parametrize("override", ["sft.learning_rate", "=1", "name.inner=1"])
def test_a_malformed_override_is_refused(tiny_recipe, override):
    with pytest.raises(BadInput):
        load_recipe(tiny_recipe(), [override])
