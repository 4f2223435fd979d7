"""What only a CUDA device can show: its attention kernel, its 4-bit kernels, resuming on it, and the memory it holds."""

import signal

import pytest

pytestmark = pytest.mark.gpu
SIZE = "1b"


@pytest.fixture(autouse=True)
def _cuda():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def packed(examples: list[dict]) -> dict:
    """Lay rows behind one another, as the collator of packed rows does."""
    import torch
    from random_model import device

    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).int().to(device())
    longest = int(lengths.max())
    return {
        "input_ids": torch.tensor([[i for example in examples for i in example["input_ids"]]], device=device()),
        "position_ids": torch.cat([torch.arange(int(length)) for length in lengths])[None].to(device()),
        "cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest,
    }  # fmt: skip


def test_packed_varlen_attention_gives_the_loss_of_rows_alone():
    import torch
    from random_model import build, device, make_examples

    examples = make_examples(SIZE, [7, 300, 64, 129])
    rows = [torch.tensor([example["input_ids"]], device=device()) for example in examples]
    with torch.no_grad():
        model = build(SIZE, "sdpa", quantised=None)
        alone = torch.cat([model(input_ids=row).logits[0].float() for row in rows])
        run_on = model(input_ids=torch.cat(rows, 1)).logits[0].float()
        together = build(SIZE, "varlen", quantised=None)(**packed(examples)).logits[0].float()

    def far(logits):
        return float((logits - alone).norm() / alone.norm())

    def loss(logits):
        parts, targets = logits.split([row.shape[1] for row in rows]), [row[0] for row in rows]
        return float(sum(torch.nn.functional.cross_entropy(p[:-1], t[1:], reduction="sum") for p, t in zip(parts, targets, strict=True)))

    assert abs(loss(together) / loss(alone) - 1) < 2e-3
    # Sums in another order differ in the last of bfloat16's 8 bits, once a layer; a row that sees its neighbours differs by far more.
    assert far(together) < 0.03
    assert far(run_on) > 3 * far(together)


def trainer_of(tmp_path, steps: int, batch, **settings):
    from random_model import build, make_examples, make_tokenizer

    from tunegate.recipe import Lora, Sft, Task
    from tunegate.train.sft import sft_trainer

    sft = Sft(
        learning_rate=5e-3, warmup_steps=1, packing=False, num_train_epochs=1, per_device_train_batch_size=8, gradient_accumulation_steps=1,
        gradient_checkpointing=False, lora=Lora(dropout=0.05), **settings,
    )  # fmt: skip
    examples = make_examples("tiny", [24] * 8) * steps  # the same eight rows in each step
    task = Task(max_length=32)
    return sft, sft_trainer(build("tiny", "sdpa"), make_tokenizer("tiny"), examples, sft, task, batch, False, tmp_path / "scratch")


def test_qlora_lowers_the_loss(tmp_path):
    from tunegate.train.batch import Batch

    _, trainer = trainer_of(tmp_path, 40, Batch(8, 1))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.1, losses


def test_a_training_that_was_stopped_ends_near_one_that_was_not(tmp_path):
    """Kernels that add in no fixed order make the two differ a little; on a CPU they are equal (tests/unit)."""
    import torch
    from transformers import TrainerCallback

    from tunegate.errors import Interrupted
    from tunegate.store import open_store
    from tunegate.train.running import Attempt, run

    class StopAt(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 12:
                signal.raise_signal(signal.SIGTERM)

    def train(attempt, stop=False):
        def build(batch, checkpointing):
            sft, trainer = trainer_of(tmp_path, 30, batch)
            if stop:
                trainer.add_callback(StopAt())
            return trainer

        from tunegate.recipe import Sft

        settings = Sft(per_device_train_batch_size=8, gradient_accumulation_steps=1, gradient_checkpointing=False, packing=False)
        return run("sft", settings, attempt, build)

    before = signal.getsignal(signal.SIGTERM)
    try:
        whole = train(Attempt())
        with pytest.raises(Interrupted):
            train(Attempt(open_store(str(tmp_path / "store")), "stopped"), stop=True)
        resumed = train(Attempt(open_store(str(tmp_path / "store")), "stopped"))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert resumed.resumed_from == 13 and resumed.trainer.state.global_step == whole.trainer.state.global_step == 30
    assert resumed.log[-1]["loss"] == pytest.approx(whole.log[-1]["loss"], rel=0.01)
    a, b = ([p.detach().flatten().float() for p in ran.trainer.model.parameters() if p.requires_grad] for ran in (whole, resumed))
    a, b = torch.cat(a), torch.cat(b)
    assert float((a - b).norm() / a.norm()) < 0.05


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_memory_that_is_held_was_predicted(tmp_path, checkpointing):
    from random_model import build, draw_lengths, make_examples, make_tokenizer, shape_of
    from stopwatch import GIB, Stopwatch

    from tunegate.predict.memory import peak_bytes
    from tunegate.predict.work import Work
    from tunegate.recipe import Lora, Sft, Task
    from tunegate.train.batch import Batch
    from tunegate.train.sft import sft_trainer

    rows, max_length = 4, 1024
    sft = Sft(num_train_epochs=1, per_device_train_batch_size=rows, gradient_accumulation_steps=1, lora=Lora(dropout=0.0))
    watch = Stopwatch(1, 3)
    examples, task = make_examples(SIZE, draw_lengths(6 * rows * max_length, max_length)), Task(max_length=max_length)
    model, batch = build(SIZE, "varlen"), Batch(rows, 1)
    watch.follow(sft_trainer(model, make_tokenizer(SIZE), examples, sft, task, batch, checkpointing, tmp_path)).train()
    predicted = peak_bytes(Work(shape_of(SIZE), sft, max_length, rows, checkpointing=checkpointing)) / GIB
    assert predicted == pytest.approx(watch.result().held_gib, rel=0.15)
