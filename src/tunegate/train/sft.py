"""Supervised fine-tuning with TRL: LoRA on a base in 4 or 16 bits, or all weights; the loss is on the answers only."""

from collections.abc import Callable
from pathlib import Path

from tunegate.errors import BadInput
from tunegate.recipe import Sft, Task
from tunegate.steps import Inputs, Result, say
from tunegate.train import supervise
from tunegate.train.batch import by_length, first_process, processes, whole
from tunegate.train.record import write_record

METRICS = ("examples", "steps", "seconds_train", "tokens_per_second", "loss_final", "stop_token_in_loss")


def sft_step(config: dict, inputs: Inputs, output: Path) -> Result:
    refs = {name: inputs.refs[name] for name in ("base", "data", "replay") if name in inputs}
    done = supervise.train(supervise.Training("sft", config | {"price_per_hour": supervise.price_per_hour(inputs.where)}, refs), inputs)
    summary = done["summary"]
    line = (
        f"{summary['examples']:,} examples, {summary['steps']} steps, loss {summary['loss_first']:.2f} → {summary['loss_final']:.2f}, "
        f"{summary['tokens_per_second']:.0f} tokens/s"
    )
    if "stopped" in summary:
        line += f"; {summary['stopped']}"
    return Result(
        summary, done["refs"], {name: summary[name] for name in METRICS}, line,
        when_kept=lambda: supervise.forget(done["run"], inputs.store),
    )  # fmt: skip


def sft_work(config: dict, inputs: Inputs, output: Path, run: str) -> dict:
    """Train as tunegate.train.job does, with checkpoints in the store."""
    from tunegate.train.running import Attempt

    settings = Sft.model_validate(config["sft"])
    attempt = Attempt(inputs.store, run, settings.save_total_limit, config["price_per_hour"])
    return sft(
        settings, Task.model_validate(config["task"]), inputs["base"], inputs["data"] / "train.jsonl", output / "adapter",
        inputs["replay"] / "replay.jsonl" if "replay" in inputs else None, inputs["data"] / "dev.jsonl", attempt,
    )  # fmt: skip


def sft(config: Sft, task: Task, base: Path, train: Path, output: Path, replay: Path | None = None, dev: Path | None = None,
        attempt=None) -> dict:  # fmt: skip
    """Train on `train` (curated rows, JSONL) and write the adapter, or with method full the whole model, to `output`.

    Args:
        dev: rows on whose loss early stopping decides.
        attempt: a tunegate.train.running.Attempt: where checkpoints are; none are kept without it.

    Returns a summary: counts, seconds, tokens per second, and the loss log ([{"step", "loss", …}]).

    Raises:
        BadInput: no chat template, no rows, or rows that do not fit task.max_length tokens.
        Refused: the end-of-turn token is outside the loss, or training diverged.
        Interrupted: it was asked to stop.
    """
    from tunegate.train import examples as rendered
    from tunegate.train.model import gpu_bytes, load_tokenizer, save_adapter, save_model, save_sharded
    from tunegate.train.running import Attempt, run
    from tunegate.train.sharding import decide, sharded

    decide(config, task.max_length, base, processes(), gpu_bytes())

    tokenizer = load_tokenizer(base)
    examples, counts = rendered.load_examples(train, replay, tokenizer, task, config.replay_share)
    judged = None
    if config.early_stopping_patience:
        if dev is None or not dev.is_file():
            raise BadInput("sft.early_stopping_patience needs rows to evaluate on: dev.jsonl, which curate writes where dev_rows is not 0.")
        judged, _ = rendered.load_examples(dev, None, tokenizer, task, 0)
    say(f"      sft: {len(examples)} examples ({counts['replayed']} replayed), {describe(config)}")
    ran = run("sft", config, attempt or Attempt(), build(config, task, base, tokenizer, examples, judged, output.parent / ".trainer"),
              config.early_stopping_patience)  # fmt: skip
    if sharded():
        save_sharded(ran.trainer, output)
    elif first_process():
        (save_adapter if config.method == "lora" else save_model)(ran.trainer.model, tokenizer, output)
    learnt = {"stop_token_in_loss": rendered.stop_token_share(examples, tokenizer), "examples": len(examples)}
    if first_process():
        write_record(output, {"method": config.method, "steps": ran.summary["steps"], **learnt, **counts})
    counted = [(entry["step"], entry["num_tokens"]) for entry in ran.log]
    new = counted[-1][1] - max((tokens for step, tokens in counted if step <= ran.resumed_from), default=0)
    return ran.summary | counts | learnt | {
        "tokens_per_second": round(new / ran.seconds_now, 1),
        "trainable_parameters": sum(p.numel() for p in ran.trainer.model.parameters() if p.requires_grad),
        "loss_first": ran.log[0]["loss"],
        "loss_final": ran.log[-1]["loss"],
    }  # fmt: skip


def describe(config: Sft) -> str:
    if config.method == "full":
        return "all weights in float32"
    lora = "DoRA" if config.lora.use_dora else "rank-stabilised LoRA" if config.lora.use_rslora else "LoRA"
    double = " with double quantisation" if config.bnb_4bit_use_double_quant else ""
    weights = config.bnb_4bit_quant_type.upper() + double if config.load_in_4bit else "bfloat16"
    return f"{lora} of rank {config.lora.r} on a base in {weights}"


def build(config: Sft, task: Task, base: Path, tokenizer, examples: list[dict], judged: list[dict] | None, scratch: Path) -> Callable:
    """Give the function that makes the trainer, for tunegate.train.running.run."""

    def make(batch, checkpointing):
        from tunegate.train.model import load_base

        return sft_trainer(load_base(base, config), tokenizer, examples, config, task, batch, checkpointing, scratch, judged)

    return make


def sft_trainer(model, tokenizer, examples: list[dict], config: Sft, task: Task, batch, checkpointing, scratch: Path, judged=None):
    """Make TRL's trainer for `model`, with trainable weights in float32."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from tunegate.train.arguments import common, drop_printer, quiet
    from tunegate.train.model import keep_attention, lora_config, train_in_float32

    grouped = config.train_sampling_strategy == "group_by_length" and not config.packing
    if grouped:
        order = by_length([len(example["input_ids"]) for example in examples], whole(config, processes()), config.seed)
        examples = [examples[i] for i in order]
    if checkpointing == "selective":
        keep_attention(model)
    with quiet():
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                **common(config, batch, checkpointing, scratch), max_length=task.max_length, packing=config.packing,
                train_sampling_strategy="sequential" if grouped else "random", eval_strategy="steps" if judged else "no",
                eval_steps=config.eval_steps, per_device_eval_batch_size=batch.rows,
            ),
            train_dataset=Dataset.from_list(examples), eval_dataset=Dataset.from_list(judged) if judged else None,
            processing_class=tokenizer, peft_config=lora_config(config.lora) if config.method == "lora" else None,
        )  # fmt: skip
    drop_printer(trainer)
    train_in_float32(trainer.model)
    return trainer
