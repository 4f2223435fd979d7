"""Training on a tiny real model: the loss falls, the stop token is learnt from, DPO mines its own pairs."""

import json

import pytest
from tiny_model import command_rows

from tunegate import rows
from tunegate.errors import BadInput, Refused
from tunegate.recipe import Lora, Prefer, Sft, Task

TASK = Task(checker="json", system="Answer with JSON.", max_new_tokens=24, max_length=160)
SFT = Sft(
    learning_rate=5e-3, num_train_epochs=2, per_device_train_batch_size=8, gradient_accumulation_steps=1, packing=False, warmup_steps=2,
    lora=Lora(r=8, alpha=16, dropout=0.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    made = command_rows(72)
    rows.write_rows(directory / "train.jsonl", made[:48])
    rows.write_rows(directory / "dev.jsonl", made[48:56])
    said = [[{"role": "user", "content": f"say yes {i}"}, {"role": "assistant", "content": "yes please"}] for i in range(3)]
    rows.write_rows(directory / "replay.jsonl", [rows.make_row(turns) for turns in said] + [{"text": "the kitchen is up"}])
    return directory


@pytest.fixture(scope="module")
def trained(tiny_base, data, tmp_path_factory):
    from tunegate.train.sft import sft

    output = tmp_path_factory.mktemp("sft") / "adapter"
    return output, sft(SFT, TASK, tiny_base, data / "train.jsonl", output, data / "replay.jsonl")


def test_sft_lowers_the_loss_and_covers_the_stop_token(trained):
    _, summary = trained
    assert summary["examples"] == 53 and summary["replayed"] == 5
    assert summary["steps"] == 14
    assert summary["loss_final"] < summary["loss_first"]
    assert summary["stop_token_in_loss"] == 1.0


def test_adapter_holds_float32_safetensors_and_no_path(trained):
    from safetensors import safe_open

    adapter, _ = trained
    names = {file.name for file in adapter.iterdir()}
    assert "adapter_model.safetensors" in names and not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    with safe_open(adapter / "adapter_model.safetensors", "pt") as tensors:
        assert {str(tensors.get_tensor(key).dtype) for key in tensors.keys()} == {"torch.float32"}  # noqa: SIM118


def test_a_record_of_the_training_lies_beside_what_was_trained(trained, tiny_base):
    from peft import PeftModel

    from tunegate.train.model import load_base
    from tunegate.train.record import read_record

    adapter, _ = trained
    assert read_record(adapter) == {
        "method": "lora", "examples": 53, "rows": 48, "replayed": 5, "too_long": 0, "steps": 14, "stop_token_in_loss": 1.0,
    }  # fmt: skip
    assert PeftModel.from_pretrained(load_base(tiny_base), adapter).peft_config["default"].r == 8


def test_same_seed_gives_the_same_adapter(trained, tiny_base, data, tmp_path):
    from tunegate.train.sft import sft

    adapter, _ = trained
    sft(SFT, TASK, tiny_base, data / "train.jsonl", tmp_path / "again", data / "replay.jsonl")
    assert (tmp_path / "again/adapter_model.safetensors").read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()


def test_a_base_without_chat_template_is_refused(tiny_base, data, tmp_path):
    import shutil

    from tunegate.train.sft import sft

    bare = tmp_path / "bare"
    shutil.copytree(tiny_base, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(BadInput, match="no chat template"):
        sft(SFT, TASK, bare, data / "train.jsonl", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_base_in_four_bits_is_refused(tiny_base, tmp_path):
    import shutil

    from tunegate.train.model import load_base

    shutil.copytree(tiny_base, tmp_path / "quantised")
    config = json.loads((tiny_base / "config.json").read_text())
    saved = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "quantised/config.json").write_text(json.dumps(config | {"quantization_config": saved}))
    with pytest.raises(BadInput, match=r"quantised to 4 bits \(bitsandbytes\). Give its 16-bit weights"):
        load_base(tmp_path / "quantised", SFT)


def test_a_template_that_never_ends_the_turn_is_refused(tiny_base, data, tmp_path):
    import shutil

    from tunegate.train.sft import sft

    endless = tmp_path / "endless"
    shutil.copytree(tiny_base, endless)
    template = (endless / "chat_template.jinja").read_text()
    (endless / "chat_template.jinja").write_text(template.replace("<|im_end|>", ""))
    with pytest.raises(Refused, match="is outside the loss"):
        sft(SFT, TASK, endless, data / "train.jsonl", tmp_path / "adapter")


def test_rows_that_do_not_fit_are_named(tiny_base, data, tmp_path):
    from tunegate.train.sft import sft

    with pytest.raises(BadInput, match="fit in 8 tokens"):
        sft(SFT, TASK.model_copy(update={"max_length": 8}), tiny_base, data / "train.jsonl", tmp_path / "adapter")


def test_labels_cover_the_answer_and_its_end_of_turn_only(tiny_base):
    from tunegate.train.examples import IGNORED, row_example, text_example
    from tunegate.train.model import load_tokenizer

    tokenizer = load_tokenizer(tiny_base)
    example = row_example(command_rows(1)[0], tokenizer, "Answer with JSON.")
    learnt = [label for label in example["labels"] if label != IGNORED]
    assert tokenizer.decode(learnt) == '{"room": "kitchen", "state": "on"}<|im_end|>'
    assert example["input_ids"][-len(learnt) :] == learnt
    assert text_example("the hall is up", tokenizer)["labels"] == tokenizer("the hall is up")["input_ids"]


def test_the_training_prompt_is_what_serving_renders(tiny_base):
    from tunegate.train.examples import IGNORED, row_example
    from tunegate.train.model import load_tokenizer

    tokenizer = load_tokenizer(tiny_base)
    row = command_rows(1)[0]
    example = row_example(row, tokenizer, "Answer with JSON.")
    served = tokenizer.apply_chat_template(rows.chat(row, "Answer with JSON."), add_generation_prompt=True, return_dict=True)["input_ids"]
    assert example["input_ids"][: example["labels"].count(IGNORED)] == served


def test_a_diverging_run_stops_after_so_many_bad_steps(tiny_base, data, tmp_path):
    import math

    from tunegate.train.callbacks import LossGuard

    guard = LossGuard("sft", 3)
    state = type("State", (), {"global_step": 7})
    for loss in (2.0, 1.5, math.nan, 1.2, 9.0, math.inf):
        guard.on_log(None, state, None, logs={"loss": loss, "grad_norm": 1.0})
    assert not guard.good()
    with pytest.raises(Refused, match="diverged: at step 7 .* for 3 logged steps in a row"):
        guard.on_log(None, state, None, logs={"loss": 1.0, "grad_norm": math.nan})


def test_pairs_are_right_against_wrong_answers_of_the_model_itself():
    from tunegate.train.pairs import mine_pairs

    row = command_rows(1)[0]
    right = rows.answer(row)
    pairs = mine_pairs([row, row], [[right, "{}", "{}", "no json"], ["{}", "[]", "", "x"]], TASK)
    assert [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs] == [(right, "no json"), (right, "{}")]


def test_pairs_are_mined_from_rows_that_sft_has_not_seen(tmp_path):
    from tunegate.train.pairs import prompts_to_mine

    made = command_rows(12)
    rows.write_rows(tmp_path / "train.jsonl", made[:8])
    assert prompts_to_mine(tmp_path, 5) == (made[:5], "training")
    rows.write_rows(tmp_path / "spare.jsonl", made[8:])
    assert prompts_to_mine(tmp_path, 3) == (made[8:11], "spare")


def test_an_answer_longer_than_one_round_is_the_one_that_a_single_call_gives(tiny_base):
    import torch

    from tunegate.train.generate import TOKENS_AT_ONCE, answers
    from tunegate.train.model import load_base, load_tokenizer

    tokenizer, model = load_tokenizer(tiny_base), load_base(tiny_base, attention="sdpa").float().eval()
    prompts = [rows.chat(row, "") for row in command_rows(4)]
    many = TOKENS_AT_ONCE * 2 + 5
    made = answers(model, tokenizer, prompts, many)
    for prompt, (text,) in zip(prompts, made, strict=True):
        given = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            whole = model.generate(**given, max_new_tokens=many, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        assert text == tokenizer.decode(whole[0, given["input_ids"].shape[1] :], skip_special_tokens=True)


def test_too_few_pairs_pass_the_sft_adapter_on(trained, tiny_base, data, tmp_path):
    from tunegate.steps import Inputs
    from tunegate.store import open_store
    from tunegate.train.prefer import prefer_step

    store = open_store(str(tmp_path / "store"))
    refs = {"base": store.put("base", tiny_base), "adapter": store.put("sft-adapter", trained[0]), "data": store.put("data", data)}
    prefer = Prefer(prompts=4, samples_per_prompt=2)
    config = {"prefer": prefer.model_dump(), "sft": SFT.model_dump(), "task": TASK.model_dump()}
    result = prefer_step(config, Inputs(refs, store, "key"), tmp_path)
    assert not result.summary["kept"] and "fewer than 20" in result.line
    assert result["adapter"] == refs["adapter"]


def test_the_share_that_learns_to_stop_is_the_smaller_of_both_trainings():
    from datasets import Dataset

    from tunegate.train.preference import stop_token_share
    from tunegate.train.record import with_preference

    assert stop_token_share(Dataset.from_dict({"chosen_ids": [[5, 2, 7], [5]]}), 2) == 0.5
    assert stop_token_share(Dataset.from_dict({"completion_ids": [[5, 2], [5]], "label": [True, False]}), 2) == 1.0
    before, after = {"method": "lora", "stop_token_in_loss": 1.0}, {"method": "dpo", "stop_token_in_loss": 0.5}
    assert with_preference(before, after) == {"method": "lora", "stop_token_in_loss": 0.5, "preference": after}
    assert "stop_token_in_loss" not in with_preference({}, after), "unknown stays unknown"


def test_dpo_raises_the_margin_between_right_and_wrong(trained, tiny_base, data, tmp_path):
    from tunegate.train.preference import train_on_pairs

    adapter, _ = trained
    made = command_rows(16)
    pairs = [
        {"prompt": rows.chat(r, TASK.system), "chosen": [{"role": "assistant", "content": rows.answer(r)}],
         "rejected": [{"role": "assistant", "content": "{}"}]} for r in made
    ]  # fmt: skip
    config = Prefer(learning_rate=1e-3, num_train_epochs=2, train_batch_size=4)
    summary = train_on_pairs(config, SFT, TASK, tiny_base, adapter, pairs, tmp_path / "out")
    assert summary["steps"] == 8
    assert summary["log"][-1]["rewards/margins"] > summary["log"][0]["rewards/margins"]
    record = json.loads((tmp_path / "out/training.json").read_text())
    assert record["preference"] == {"method": "dpo", "examples": 16, "steps": 8, "stop_token_in_loss": 1.0}
    assert (record["method"], record["examples"], record["stop_token_in_loss"]) == ("lora", 53, 1.0)
    assert (tmp_path / "out/adapter_model.safetensors").read_bytes() != (adapter / "adapter_model.safetensors").read_bytes()
