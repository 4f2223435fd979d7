"""Packed rows: each is trained as if it stood alone, whichever attention computes it; and the batch is divided by measuring."""

import pytest
from tiny_model import command_rows

from tunegate.errors import BadInput
from tunegate.recipe import Lora, Prefer, Sft, Task
from tunegate.train import batch as batches
from tunegate.train.batch import Batch, Measured

TASK = Task(checker="json", system="Answer with JSON.", max_length=160)


@pytest.fixture(scope="module")
def examples(tiny_base):
    from tunegate.train.examples import row_example
    from tunegate.train.model import load_tokenizer

    tokenizer = load_tokenizer(tiny_base)
    return [row_example(row, tokenizer, TASK.system if i % 2 else "") for i, row in enumerate(command_rows(7))]


@pytest.mark.parametrize("attention", ["varlen", "eager", "sdpa"])
def test_the_loss_of_packed_rows_is_that_of_the_rows_alone(attention, tiny_base, examples):
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from tunegate.train.model import load_base

    model = load_base(tiny_base, attention=attention).float().eval()
    alone = load_base(tiny_base, attention="eager").float().eval()
    lengths = [len(example["input_ids"]) for example in examples]
    assert len(set(lengths)) > 1
    packed = {name: [token for example in examples for token in example[name]] for name in ("input_ids", "labels")}
    inputs = DataCollatorForLanguageModeling(pad_token_id=2, padding_free=True)([packed | {"seq_lengths": lengths}])
    labels = inputs.pop("labels")
    assert "attention_mask" not in inputs
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[0].split(lengths)
        for example, found in zip(examples, logits, strict=True):
            wanted = alone(torch.tensor([example["input_ids"]]), use_cache=False).logits[0]
            torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    assert (labels != -100).sum() == sum(label != -100 for example in examples for label in example["labels"])


def test_varlen_attention_has_the_gradients_of_plain_attention(tiny_base):
    import torch

    from tunegate.train.attention import varlen_attention

    torch.manual_seed(0)
    starts = torch.tensor([0, 3, 4, 9], dtype=torch.int32)
    query, key, value = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    ours = [x.clone().requires_grad_() for x in (query, key, value)]
    plain = [x.clone().requires_grad_() for x in (query, key, value)]
    out, weights = varlen_attention(None, *ours, cu_seq_lens_q=starts, max_length_q=5)
    assert out.shape == (1, 9, 4, 8) and weights is None
    row = torch.repeat_interleave(torch.arange(3), starts.diff())
    mask = (row[:, None] == row[None]) & torch.ones(9, 9, dtype=torch.bool).tril()
    wanted = torch.nn.functional.scaled_dot_product_attention(*plain, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(out, wanted, atol=1e-6, rtol=1e-5)
    way = torch.randn_like(out)
    (out * way).sum().backward()
    (wanted * way).sum().backward()
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-5)


def test_varlen_attention_refuses_what_it_would_compute_wrongly(tiny_base):
    import torch

    from tunegate.train.attention import varlen_attention

    x = torch.randn(2, 1, 4, 8)
    with pytest.raises(ValueError, match="use attn_implementation sdpa"):
        varlen_attention(None, x, x, x)
    with pytest.raises(ValueError, match="no sliding window"):
        varlen_attention(None, x[:1], x[:1], x[:1], cu_seq_lens_q=torch.tensor([0, 4]), max_length_q=4, sliding_window=2)


def test_the_batch_is_what_the_recipe_says():
    assert batches.given(Sft(), 1) is None and batches.share(Sft(), 4) == 8
    assert batches.given(Sft(per_device_train_batch_size=4), 2) == Batch(4, 4)
    assert batches.given(Sft(per_device_train_batch_size=2, gradient_accumulation_steps=1), 8) == Batch(2, 1)
    assert batches.share(Prefer(train_batch_size=6), 2) == 3
    with pytest.raises(BadInput, match="3 devices cannot share equally"):
        batches.given(Sft(), 3)
    with pytest.raises(BadInput, match="no multiple of 3"):
        batches.given(Sft(per_device_train_batch_size=3), 1)


def test_a_halved_batch_is_the_same_optimizer_step():
    assert Batch(8, 2).halved() == Batch(4, 4)
    with pytest.raises(BadInput, match="cannot be halved"):
        Batch(1, 16).halved()


def test_the_fastest_batch_that_fits_is_taken():
    speeds = {1: 100.0, 2: 180.0, 4: 300.0, 8: 301.0, 16: 900.0}
    tried = []

    def attempt(size):
        tried.append(size)
        return Measured(size < 16, speeds[size])

    assert batches.fastest(32, attempt) == Batch(4, 8)
    assert tried == [1, 2, 4, 8]  # 8 is not worth its memory, and nothing larger is tried
    assert batches.fastest(12, lambda size: Measured(size < 4, size)) == Batch(2, 6)
    with pytest.raises(BadInput, match="Not even one row"):
        batches.fastest(4, lambda size: Measured(False))


def test_rows_of_like_length_stand_together_and_the_longest_come_first():
    lengths = [n * 37 % 101 for n in range(103)]
    order = batches.by_length(lengths, 8, seed=3)
    assert sorted(order) == list(range(103)) and order == batches.by_length(lengths, 8, seed=3) != batches.by_length(lengths, 8, seed=4)
    groups = [[lengths[i] for i in order[start : start + 8]] for start in range(0, 103, 8)]
    assert max(lengths) in groups[0] and [len(group) for group in groups[:-1]] == [8] * 12
    assert max(max(group) - min(group) for group in groups) < 15
    assert [max(group) for group in groups[1:]] != sorted((max(group) for group in groups[1:]), reverse=True)


@pytest.mark.parametrize("lora", [Lora(r=4), Lora(r=4, use_dora=True), Lora(r=4, use_rslora=True)], ids=["lora", "dora", "rslora"])
def test_each_kind_of_adapter_learns(lora, tiny_base, tmp_path):
    summary = trained(Sft(load_in_4bit=False, lora=lora, learning_rate=5e-3, num_train_epochs=6, train_batch_size=2), tiny_base, tmp_path)
    assert summary["loss_final"] < summary["loss_first"]
    assert summary["per_device_train_batch_size"] * summary["gradient_accumulation_steps"] == 2


def test_all_weights_learn_and_are_saved_in_bfloat16(tiny_base, tmp_path):
    from safetensors import safe_open

    settings = Sft(method="full", load_in_4bit=False, learning_rate=1e-3, num_train_epochs=6, train_batch_size=2)
    summary = trained(settings, tiny_base, tmp_path)
    assert summary["loss_final"] < summary["loss_first"]
    with safe_open(tmp_path / "adapter" / "model.safetensors", "pt") as tensors:
        assert {str(tensors.get_tensor(key).dtype) for key in tensors.keys()} == {"torch.bfloat16"}  # noqa: SIM118


def test_a_measured_batch_trains_what_the_same_batch_written_down_does(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "WORTH", 0.0)  # the largest that fits, whatever the clock says
    settings = Sft(load_in_4bit=False, learning_rate=5e-3, num_train_epochs=2, lora=Lora(r=4, dropout=0.1))
    measured = trained(settings.model_copy(update={"train_batch_size": 4}), tiny_base, tmp_path / "measured")
    assert (measured["per_device_train_batch_size"], measured["gradient_accumulation_steps"]) == (4, 1)
    written = settings.model_copy(update={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1})
    assert trained(written, tiny_base, tmp_path / "written")["log"] == measured["log"]
    weights = [(tmp_path / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("measured", "written")]
    assert weights[0] == weights[1]


def test_training_stops_early_and_keeps_the_weights_that_were_best_on_dev(tiny_base, tmp_path):
    settings = Sft(
        load_in_4bit=False,
        learning_rate=0.05,
        num_train_epochs=40,
        train_batch_size=2,
        early_stopping_patience=2,
        eval_steps=2,
        lora=Lora(r=4),
    )
    summary = trained(settings, tiny_base, tmp_path)
    assert 0 < summary["best_step"] < summary["steps"] < 200


def trained(settings: Sft, base, directory) -> dict:
    from tunegate import rows
    from tunegate.train.sft import sft

    directory.mkdir(exist_ok=True)
    rows.write_rows(directory / "train.jsonl", command_rows(24)[:18])
    rows.write_rows(directory / "dev.jsonl", command_rows(24)[18:])
    return sft(settings, TASK, base, directory / "train.jsonl", directory / "adapter", dev=directory / "dev.jsonl")
