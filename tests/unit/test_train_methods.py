"""Preference methods on a tiny real model: KTO on labelled answers, from curate's files to an adapter."""

import json

import pytest
from tiny_model import command_rows

from tunegate import rows
from tunegate.recipe import Lora, Prefer, Sft, Task

TASK = Task(checker="json", system="Answer with JSON.", max_new_tokens=24, max_length=160)
SFT = Sft(
    learning_rate=5e-3, num_train_epochs=1, per_device_train_batch_size=8, gradient_accumulation_steps=1, packing=False, warmup_steps=2,
    lora=Lora(r=8, alpha=16, dropout=0.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Make what curate leaves: rows, four pairs, and 24 labelled answers, of which a third is unwanted."""
    directory = tmp_path_factory.mktemp("data")
    made = command_rows(44)
    rows.write_rows(directory / "train.jsonl", made[:32])
    rows.write_rows(directory / "dev.jsonl", made[32:36])
    wrong = [{"role": "assistant", "content": "{}"}]
    prompts = [(row["messages"][:-1], row["messages"][-1:]) for row in made[:28]]
    rows.write_rows(directory / "preferences.jsonl", [rows.make_preference(asked, right, wrong) for asked, right in prompts[:4]])
    labelled = [rows.make_labelled(asked, right if n % 3 else wrong, bool(n % 3)) for n, (asked, right) in enumerate(prompts[4:])]
    rows.write_rows(directory / "labelled.jsonl", labelled)
    return directory


@pytest.fixture(scope="module")
def adapter(tiny_base, data, tmp_path_factory):
    from tunegate.train.sft import sft

    output = tmp_path_factory.mktemp("sft") / "adapter"
    sft(SFT, TASK, tiny_base, data / "train.jsonl", output)
    return output


@pytest.mark.parametrize("sizes", [{"train_batch_size": 8}, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}])
def test_kto_learns_from_labelled_answers_and_given_pairs(adapter, tiny_base, data, tmp_path, sizes):
    from tunegate.train.pairs import PAIRS, find_pairs
    from tunegate.train.preference import train_on_pairs

    config = Prefer(method="kto", pairs="given", learning_rate=1e-3, num_train_epochs=4, min_steps=8, **sizes)
    found = find_pairs(config, TASK, tiny_base, adapter, data, tmp_path / "pairs")
    assert (found["examples"], found["origin"], found["steps"]) == (32, "given: 4 pairs, 24 labelled answers", 16)
    examples = list(rows.read_json_lines(tmp_path / "pairs" / PAIRS))
    summary = train_on_pairs(config, SFT, TASK, tiny_base, adapter, examples, tmp_path / "out")
    assert summary["steps"] == 16 and summary["per_device_train_batch_size"] % 2 == 0 and summary["examples_too_long"] == 0
    # 20 wanted, 12 unwanted: (20 × 1) / (12 × 1.25) = 4/3
    assert (summary["desirable_weight"], summary["undesirable_weight"]) == pytest.approx((1.0, 1.25))
    assert summary["log"][-1]["loss"] < summary["log"][0]["loss"]
    margins = [entry["rewards/margins"] for entry in summary["log"] if "rewards/margins" in entry]  # of batches that hold both kinds
    assert margins[-1] > margins[0]
    record = json.loads((tmp_path / "out/training.json").read_text())
    assert record["preference"] == {"method": "kto", "examples": 32, "steps": 16, "stop_token_in_loss": 1.0}
    assert (tmp_path / "out/adapter_model.safetensors").read_bytes() != (adapter / "adapter_model.safetensors").read_bytes()


def test_kto_exchanges_answers_between_different_prompts_whatever_the_micro_batch(adapter, tiny_base, data, tmp_path):
    from tunegate.train.batch import Batch
    from tunegate.train.model import load_tokenizer
    from tunegate.train.pairs import given_examples
    from tunegate.train.preference import builder

    config = Prefer(method="kto", train_batch_size=8)
    examples, _ = given_examples(config, data, TASK)
    make = builder(config, SFT, TASK, tiny_base, adapter, load_tokenizer(tiny_base), examples, tmp_path)
    small, large = (make(Batch(size, 8 // size), False) for size in (2, 8))
    assert (small.args.per_device_train_batch_size, large.args.per_device_train_batch_size) == (2, 8)
    assert large._train_batch_size == 8
    answers = [list(trainer.train_dataset["KL_completion_ids"]) for trainer in (small, large)]
    assert answers[0] == answers[1]
    prompts, own = list(small.train_dataset["prompt_ids"]), list(small.train_dataset["completion_ids"])
    for place in range(0, len(prompts) - 1, 2):
        assert prompts[place] != prompts[place + 1]
        assert (answers[0][place], answers[0][place + 1]) == (own[place + 1], own[place])


def test_orpo_learns_without_a_reference(adapter, tiny_base, tmp_path):
    from tunegate.train.preference import train_on_pairs

    pairs = [
        {"prompt": rows.chat(row, TASK.system), "chosen": [{"role": "assistant", "content": rows.answer(row)}],
         "rejected": [{"role": "assistant", "content": "{}"}]} for row in command_rows(16)
    ]  # fmt: skip
    config = Prefer(method="orpo", learning_rate=1e-3, num_train_epochs=4, train_batch_size=4)
    summary = train_on_pairs(config, SFT, TASK, tiny_base, adapter, pairs, tmp_path / "out")
    assert summary["log"][-1]["loss"] < summary["log"][0]["loss"]
    assert json.loads((tmp_path / "out/training.json").read_text())["preference"]["stop_token_in_loss"] == 1.0


def test_attention_is_kept_where_activations_are_computed_again(tiny_base, tmp_path):
    """The same step, whatever of it is computed twice."""
    from tunegate.train.sft import sft

    rows.write_rows(tmp_path / "train.jsonl", command_rows(12))
    logs = []
    for name, checkpointing in (("kept", False), ("selective", "selective"), ("all", True)):
        settings = SFT.model_copy(update={"gradient_checkpointing": checkpointing, "attn_implementation": "sdpa", "load_in_4bit": False})
        summary = sft(settings, TASK, tiny_base, tmp_path / "train.jsonl", tmp_path / name)
        logs.append([entry["loss"] for entry in summary["log"]])
    assert logs[0] == pytest.approx(logs[1], rel=1e-3) and logs[0] == pytest.approx(logs[2], rel=1e-3)
