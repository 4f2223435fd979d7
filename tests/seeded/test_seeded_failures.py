"""Known ways in which fine-tuning goes wrong, planted one by one on a tiny real model: each is stopped by the gate made for it."""

import json
import shutil
from pathlib import Path

import pytest
from test_merge import make_adapter
from tiny_model import TEMPLATE, command_rows

from tunegate import recipe, results, rows
from tunegate.curate.leakage import count_straddling_files
from tunegate.curate.preferences import curate_preferences
from tunegate.errors import Refused
from tunegate.evaluate import Rival, evaluate
from tunegate.gate import gate
from tunegate.gate.facts import adapter_facts, curation_facts
from tunegate.gate.policy import Policy
from tunegate.measurement import Measurement
from tunegate.merge import merge
from tunegate.serving import serve

TASK = recipe.Task(system="Answer.", max_new_tokens=6, max_length=128)
SERVE = recipe.Serve(engine="transformers", max_model_len=256, dtype="float32")
ITEMS = 40
WITH_BOS = "{{ bos_token }}" + TEMPLATE
PROMPTS = {"id": "serves_what_it_was_trained_on", "metric": "parity/same_prompt", "test": "absolute_lcb", "at_least": 0.9}
MERGED = {"id": "merge_changes_nothing", "metric": "parity/same_as_adapter", "test": "absolute_lcb", "at_least": 0.6}
STOPS = {"id": "stops_by_itself", "metric": "task/finish_stop", "test": "absolute_lcb", "at_least": 0.9}
REMEMBERS = {
    "id": "keeps_general_ability", "metric": "general/nats_per_token", "versus": "base_zero_shot", "test": "noninferiority",
    "direction": "lower_is_better", "margin": 0.1,
}  # fmt: skip


def policy(*gates: dict) -> Policy:
    return Policy.model_validate({
        "apiVersion": "tunegate/v1", "kind": "PromotionPolicy", "name": "seeded", "preconditions": {"min_train_rows": 1}, "gates": gates,
    })  # fmt: skip


class World:
    """A base whose template begins with one BOS, a random adapter on it, curated data and held text, below one directory."""

    def __init__(self, directory: Path, base: Path):
        self.directory, self.base, self.data, self.report = directory, directory / "base", directory / "data", directory / "report"
        shutil.copytree(base, self.base)
        (self.base / "chat_template.jinja").write_text(WITH_BOS)
        self.adapter = make_adapter(self.base, directory / "adapter")
        (self.adapter / "training.json").write_text('{"stop_token_in_loss": 1.0}')
        self.rows = command_rows(3 * ITEMS)
        self.write_data(self.data, self.rows[:ITEMS])
        self.report.mkdir()
        (self.report / "report.json").write_text('{"leaked_pairs": 0}')
        general = directory / "general.jsonl"
        asked = [row["messages"][0]["content"] for row in self.rows]
        general.write_text("".join(json.dumps({"text": f"{a}, then {b}"}) + "\n" for a, b in zip(asked[:ITEMS], asked[7:], strict=False)))
        self.settings = recipe.Evaluate(general_text=str(general), timed_requests=0)
        self.baseline = directory / "baseline"
        test = self.rows[2 * ITEMS :]
        with serve(self.base, SERVE) as server:
            measured = Measurement(TASK, self.settings, "baseline")
            measured.of(server, "base")
            measured.ask("base_zero_shot", "test", test, [rows.chat(row, "Answer.") for row in test])
            measured.read_general("base_zero_shot")
        results.write_results(self.baseline, measured.items, measured.arms)

    def write_data(self, directory: Path, train: list[dict]) -> None:
        directory.mkdir()
        for split, part in {"train": train, "dev": self.rows[ITEMS : ITEMS + 8], "test": self.rows[2 * ITEMS :]}.items():
            rows.write_rows(directory / f"{split}.jsonl", part)

    def evaluate(self, model: Path, output: Path, adapter: bool = False) -> Path:
        rivals = [Rival("adapter", self.base, "base+adapter", self.adapter)] if adapter else []
        evaluate(model, self.data, self.baseline, output, TASK, self.settings, SERVE, "model", rivals, self.base)
        return output / "results"

    def decide(self, policy: Policy, found: Path, output: Path, data: Path | None = None, **facts) -> tuple[str, str]:
        known = curation_facts(data or self.data, self.report) | adapter_facts(self.adapter) | facts
        verdict = gate(policy, [self.baseline, found], output, known)
        return verdict["decision"], " ".join(verdict["reasons"])


@pytest.fixture(scope="module")
def world(tiny_base, tmp_path_factory):
    return World(tmp_path_factory.mktemp("seeded"), tiny_base)


@pytest.fixture(scope="module")
def sound(world):
    """The model as it should be merged."""
    merge(recipe.Merge(), world.base, world.adapter, world.directory / "sound")
    return world.directory / "sound"


@pytest.fixture(scope="module")
def measured(world, sound):
    """What evaluation finds of the sound model."""
    return world.evaluate(sound, world.directory / "evaluation", adapter=True)


def test_with_nothing_planted_the_same_gates_pass(world, measured, tmp_path):
    decision, reasons = world.decide(policy(PROMPTS, MERGED), measured, tmp_path / "verdict")
    assert decision == "PROMOTE", reasons


def test_end_of_turn_token_outside_the_loss(world, measured, tmp_path):
    from transformers import AutoTokenizer

    from tunegate.train.examples import load_examples

    tokenizer = AutoTokenizer.from_pretrained(world.base)
    tokenizer.chat_template = WITH_BOS.replace("{{ message['content'] }}<|im_end|>", "{{ message['content'] }}")
    with pytest.raises(Refused, match="end-of-turn token '<|im_end|>' is outside the loss"):
        load_examples(world.data / "train.jsonl", None, tokenizer, TASK, 0)
    # an adapter that was trained so elsewhere
    decision, reasons = world.decide(policy(PROMPTS), measured, tmp_path / "verdict", stop_token_in_loss=0.0)
    assert decision == "REJECT" and "min_stop_token_share: the end-of-turn token was in the loss of 0.0 %" in reasons
    # and what comes of it
    decision, reasons = world.decide(policy(STOPS), measured, tmp_path / "other")
    assert decision == "REJECT" and "stops_by_itself: task/finish_stop" in reasons


SERVED = {"another template": WITH_BOS.replace("<|im_end|>\n", "<|im_end|>"), "double BOS": "{{ bos_token }}" + WITH_BOS}


@pytest.mark.parametrize("template", SERVED.values(), ids=SERVED)
def test_another_template_or_a_second_bos_at_serving(template, world, sound, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(sound, model)
    (model / "chat_template.jinja").write_text(template)
    found = world.evaluate(model, tmp_path / "evaluation")
    decision, reasons = world.decide(policy(PROMPTS), found, tmp_path / "verdict")
    assert decision == "ERROR" and "template" in reasons
    # where only the tokenizer's own configuration differs, the hash of the template says nothing, and the ids do
    arms = results.read_arms(found)
    arms["candidate"]["chat_template_sha256"] = results.read_arms(world.baseline)["base_zero_shot"]["chat_template_sha256"]
    results.write_results(found, results.read_items(found), arms)
    decision, reasons = world.decide(policy(PROMPTS), found, tmp_path / "other")
    assert decision == "REJECT" and "serves_what_it_was_trained_on: parity/same_prompt 0.0 %" in reasons


def test_merge_into_a_requantised_base(world, tmp_path):
    quantised = tmp_path / "quantised"
    shutil.copytree(world.base, quantised)
    _round_to_four_bits(quantised / "model.safetensors")
    merge(recipe.Merge(), quantised, world.adapter, tmp_path / "model")
    found = world.evaluate(tmp_path / "model", tmp_path / "evaluation", adapter=True)
    decision, reasons = world.decide(policy(MERGED), found, tmp_path / "verdict")
    assert decision == "REJECT" and "merge_changes_nothing: parity/same_as_adapter" in reasons


def test_a_model_that_forgot(world, sound, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(sound, model)
    _shake(model / "model.safetensors")
    found = world.evaluate(model, tmp_path / "evaluation")
    decision, reasons = world.decide(policy(REMEMBERS), found, tmp_path / "verdict")
    assert decision == "REJECT" and "keeps_general_ability: general/nats_per_token" in reasons


def test_leaked_test_rows(world, measured, tmp_path):
    leaky = tmp_path / "data"
    world.write_data(leaky, world.rows[:ITEMS] + world.rows[-3:])
    sides = {"train": "train", "dev": "dev", "test": "test"}
    leaked = count_straddling_files(leaky, sides, 0.99)
    decision, reasons = world.decide(policy(PROMPTS), measured, tmp_path / "verdict", leaky, leaked_pairs=leaked)
    assert leaked == 3 and decision == "REJECT" and "3 near-duplicate pairs straddle the split" in reasons


def test_reversed_preference_columns(world, measured, tmp_path):
    pairs = [
        rows.make_preference(row["messages"][:-1], [{"role": "assistant", "content": f"wrong {n}"}], row["messages"][-1:])
        for n, row in enumerate(world.rows[:ITEMS])
    ]
    _, _, warnings = curate_preferences(pairs, [], recipe.Curate(), world.rows[:ITEMS])
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.json").write_text(json.dumps({"leaked_pairs": 0, "warnings": warnings}))
    told = {"stop_token_in_loss": 1.0, "preference": {"pairs": "given"}}
    trained = tmp_path / "adapter"
    trained.mkdir()
    (trained / "training.json").write_text(json.dumps(told))
    facts = curation_facts(world.data, report) | adapter_facts(trained)
    decision, reasons = world.decide(policy(PROMPTS), measured, tmp_path / "verdict", **facts)
    assert decision == "REJECT" and "Chosen and rejected may be reversed" in reasons
    # pairs of the model's own answers are scored by the checker, so the columns of the data do not matter
    (trained / "training.json").write_text(json.dumps(told | {"preference": {"pairs": "mined"}}))
    facts = curation_facts(world.data, report) | adapter_facts(trained)
    assert world.decide(policy(PROMPTS), measured, tmp_path / "other", **facts)[0] == "PROMOTE"


def _round_to_four_bits(path: Path) -> None:
    """Put every matrix through NF4 and back, as merging into a quantised base does."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    for name, weight in tensors.items():
        if weight.ndim == 2 and "embed" not in name:
            tensors[name] = dequantize_4bit(*quantize_4bit(weight.contiguous(), quant_type="nf4")).to(weight.dtype)
    save_file(tensors, path, metadata={"format": "pt"})


def _shake(path: Path) -> None:
    """Move every matrix by noise of half its own spread."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    tensors = load_file(path)
    moved = {
        name: (w.float() + 0.5 * w.float().std() * torch.randn(w.shape)).to(w.dtype) if w.ndim == 2 else w for name, w in tensors.items()
    }
    save_file(moved, path, metadata={"format": "pt"})
