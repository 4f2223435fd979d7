"""plan refuses in seconds what would fail after hours, and hands each step its slice and nothing else."""

import json
import shutil
from collections import namedtuple

import httpx
import pytest

from tunegate import plan as planning
from tunegate.errors import BadInput, Unavailable
from tunegate.recipe import dump_recipe, load_recipe

Usage = namedtuple("Usage", "total used free")


def plan(path, *overrides):
    return planning.plan(load_recipe(path, list(overrides)))


def test_a_sound_recipe_passes_and_is_described(tiny_recipe):
    found = plan(tiny_recipe())
    lines = "\n".join(planning.table(found))
    assert "parameters" in lines and "true gain of" in lines
    assert found.unchecked == []
    assert found.metrics["training_memory_predicted_gib"] > 0


def test_every_kind_of_device_is_predicted(tiny_recipe):
    lines = planning.table(plan(tiny_recipe(), "resources.gpu_kind=H200"))
    start = next(i for i, line in enumerate(lines) if line.startswith("estimates"))
    assert [line.split()[0] for line in lines[start + 1 : start + 7]] == ["L4", "A10G", "RTX-4090", "A100-40", "A100-80", "H100"]
    assert lines[start + 7].startswith("> H200") and lines[start + 8].startswith("  this CPU")
    assert "for each million tokens" in lines[start + 9]


def test_a_budget_is_compared_with_what_is_predicted(tiny_recipe):
    rows = ["curate.max_train_rows=1000", "sft.num_train_epochs=1"]
    enough = dict(plan(tiny_recipe(), *rows, "sft.max_hours=1", "sft.max_cost=2").facts)
    assert "1 h is enough: at most" in enough["sft.max_hours"] and "(1 h) is enough" in enough["sft.max_cost"]
    short = dict(plan(tiny_recipe(), *rows, "sft.max_hours=0.00001").facts)
    assert "is exceeded by up to" in short["sft.max_hours"]
    bought = dict(plan(tiny_recipe(), "sft.max_hours=1", "prefer.max_hours=1").facts)
    assert "rows of 1024 tokens in 3 epochs" in bought["sft.max_hours"] and "pairs of 2048 tokens in 1 epoch" in bought["prefer.max_hours"]
    assert "not known before curation" in bought["sft speed"]


def test_a_measured_rate_reaches_neither_slices_nor_metrics(tiny_recipe, monkeypatch):
    from dataclasses import replace

    from tunegate.predict import devices, outlook, table

    before = plan(tiny_recipe(), "resources.gpu_kind=cpu")
    fast = replace(devices.this_cpu(), tflops=1000.0)
    for module in (outlook, table):
        monkeypatch.setattr(module, "this_cpu", lambda: fast)
    after = plan(tiny_recipe(), "resources.gpu_kind=cpu")
    assert before.estimates != after.estimates
    assert before.steps == after.steps and before.metrics == after.metrics


def test_each_step_gets_its_sections_only(tiny_recipe):
    found = plan(tiny_recipe())
    assert set(found.steps) == set(planning.SECTIONS)
    for step, sections in planning.SECTIONS.items():
        document = json.loads(found.steps[step])
        where = {"where"} if step in ("sft", "prefer") else set()
        assert set(document) == {"store", "code", "config"} | where and set(document["config"]) == set(sections)


def test_a_changed_port_changes_deploy_alone(tiny_recipe):
    before, after = plan(tiny_recipe()).steps, plan(tiny_recipe(), "deploy.port=9000").steps
    assert [step for step in before if before[step] != after[step]] == ["deploy"]


def test_where_a_model_is_trained_is_no_part_of_what_it_is(tiny_recipe):
    before, after = (json.loads(plan(tiny_recipe(), *more).steps["sft"]) for more in ((), ("resources.hourly_price=9",)))
    assert before["config"] == after["config"] and before["where"] != after["where"]


def test_slices_of_a_dumped_recipe_are_the_same(tiny_recipe):
    recipe = load_recipe(tiny_recipe())
    text = json.loads(planning.step_config(dump_recipe(recipe)))["config"]["recipe"]
    result = planning.plan_step({"recipe": text}, None, None)
    assert set(result.summary["steps"]) == set(planning.SECTIONS)
    assert result.summary["steps"] == planning.plan_step({"recipe": text}, None, None).summary["steps"]


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        (["curate.test_rows=150"], "Gate 'beats' needs 200 items, and curate.test_rows is 150"),
        (["policy.gates=[{id: b, metric: task/exact, versus: champon, test: superiority, margin: 0}]"], "which no step measures"),
        (
            ["policy.gates=[{id: g, metric: general/nats_per_token, versus: base_zero_shot, test: noninferiority, margin: 0.1}]"],
            "set evaluate.general_text",
        ),
        (["curate.max_train_rows=100"], "at least 500 training rows"),
        (["task.max_new_tokens=2048"], "no room is left for a prompt"),
        (["serve.max_model_len=8192"], "reads at most 4096 tokens"),
        (["deploy.target=kserve"], "needs deploy.image with its digest"),
        (["resources.gpu_memory_gib=0.9"], "Training needs at least"),
        (["sft.method=full", "sft.load_in_4bit=false"], "prefer goes on with an adapter, and sft.method is full"),
    ],
)
def test_what_could_never_end_well_is_refused(tiny_recipe, overrides, sentence):
    with pytest.raises(BadInput) as caught:
        plan(tiny_recipe(), *overrides)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "sections", [{"data": {"sources": ["gone.jsonl"]}}, {"data": {"sources": ["gone/*.jsonl"]}}, {"base_model": "gone"}]
)
def test_missing_files_are_named(tiny_recipe, sections):
    with pytest.raises(BadInput, match="gone"):
        plan(tiny_recipe(**sections))


@pytest.mark.parametrize(
    "file, sentence",
    [("config.json", "no config.json"), ("model.safetensors", "no .safetensors"), ("tokenizer_config.json", "no tokenizer_config.json")],
)
def test_an_incomplete_base_model_is_refused(tiny_recipe, tmp_path, file, sentence):
    recipe = tiny_recipe()
    (tmp_path / "base" / file).unlink()
    with pytest.raises(BadInput, match=sentence):
        plan(recipe)


def test_a_base_model_without_a_chat_template_is_refused(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    (tmp_path / "base" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(BadInput, match="has no chat template"):
        plan(recipe)
    (tmp_path / "base" / "chat_template.jinja").write_text("{{ messages }}")
    plan(recipe)


@pytest.mark.parametrize(
    "saved, format_",
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"4 bits \(bitsandbytes\)"),
        ({"quant_method": "gptq", "bits": 8}, r"8 bits \(gptq\)"),
        ({"quant_method": "fp8"}, "fp8"),
    ],
)
def test_a_quantised_base_model_is_refused(tiny_recipe, tmp_path, saved, format_):
    recipe = tiny_recipe()
    config = json.loads((tmp_path / "base/config.json").read_text())
    (tmp_path / "base/config.json").write_text(json.dumps(config | {"quantization_config": saved}))
    with pytest.raises(BadInput, match=f"already quantised to {format_}. Give its 16-bit weights, since merge needs them"):
        plan(recipe)


def test_too_little_general_text_is_refused(tiny_recipe, tmp_path):
    gate = "{id: g, metric: general/nats_per_token, versus: base_zero_shot, test: noninferiority, margin: 0.1, min_n: 50}"
    (tmp_path / "general.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n')
    with pytest.raises(BadInput, match="needs 50 items, and evaluate.general_text has 2 texts"):
        plan(tiny_recipe(evaluate={"general_text": "general.jsonl"}), f"policy.gates=[{gate}]")


def test_what_will_likely_not_end_well_is_a_warning(tiny_recipe):
    gate = "{id: b, metric: task/exact, versus: base_zero_shot, test: superiority, margin: 0.02, mde_max: 0.05}"
    found = plan(tiny_recipe(), f"policy.gates=[{gate}]")
    assert planning.table(found)[-1].startswith("warning: Gate 'b' wants to see 0.05 (mde_max), and 200 items show no less than 0.12")
    assert plan(tiny_recipe()).warnings == []


def test_a_given_test_set_is_counted(tiny_recipe, tmp_path):
    (tmp_path / "sealed.jsonl").write_text("{}\n" * 120)
    with pytest.raises(BadInput, match="needs 200 items, and curate.test_set has 120 rows"):
        plan(tiny_recipe(curate={"test_set": "sealed.jsonl"}))


def test_a_full_disk_is_unavailable(tiny_recipe, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 99, 1))
    with pytest.raises(Unavailable, match="too small"):
        plan(tiny_recipe())


def test_without_network_what_was_not_checked_is_said(tiny_recipe, monkeypatch):
    def unreachable(*args, **kwargs):
        raise httpx.ConnectError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(httpx, "get", unreachable)
    found = plan(tiny_recipe(base_model="hf://org/name@main"))
    assert any("no route to host" in what for what in found.unchecked)
    assert any("GPU memory" in what for what in found.unchecked)


@pytest.mark.parametrize("status, sentence", [(401, "does not let you read org/name"), (404, "has no org/name at revision main")])
def test_a_model_that_the_hub_does_not_give_is_refused(tiny_recipe, monkeypatch, status, sentence):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(httpx, "get", lambda *args, **kwargs: httpx.Response(status))
    with pytest.raises(BadInput, match=sentence):
        plan(tiny_recipe(base_model="hf://org/name@main"))


def test_the_store_is_known_even_where_the_recipe_is_wrong():
    assert planning.store_of("store: s3://bucket\nnonsense: 1") == "s3://bucket"
    assert planning.store_of("a: [b") == planning.store_of("name: x") == "runs/store"
