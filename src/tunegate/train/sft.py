"""Supervised fine-tuning with TRL: QLoRA on an NF4 base, loss on the answer only."""

import time
from pathlib import Path

from tunegate.recipe import Sft, Task
from tunegate.steps import Inputs, Result, say


def sft_step(config: dict, inputs: Inputs, output: Path) -> Result:
    summary = sft(
        Sft.model_validate(config["sft"]), Task.model_validate(config["task"]), inputs["base"],
        inputs["data"] / "train.jsonl", output / "adapter",
        inputs["replay"] / "replay.jsonl" if "replay" in inputs else None,
    )  # fmt: skip
    metrics = {k: summary[k] for k in ("examples", "steps", "seconds_train", "tokens_per_second", "loss_final", "stop_token_in_loss")}
    line = (
        f"{summary['examples']:,} examples, {summary['steps']} steps, loss {summary['loss_first']:.2f} → {summary['loss_final']:.2f}, "
        f"{summary['tokens_per_second']:.0f} tokens/s"
    )
    return Result(summary, metrics=metrics, line=line)


def sft(config: Sft, task: Task, base: Path, train: Path, output: Path, replay: Path | None = None) -> dict:
    """Train a LoRA adapter on `train` (curated rows, JSONL) and write it to `output`.

    Returns a summary: counts, seconds, tokens per second, and the loss log ([{"step", "loss", …}]).

    Raises:
        BadInput: no chat template, no rows, or rows that do not fit task.max_length tokens.
        Refused: the end-of-turn token is outside the loss, or training diverged.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from tunegate.train.examples import load_examples, stop_token_share
    from tunegate.train.model import device, keeping_freed_memory, load_base, load_tokenizer, save_adapter, train_adapter_in_float32
    from tunegate.train.progress import Progress

    tokenizer = load_tokenizer(base)
    examples, counts = load_examples(train, replay, tokenizer, task, config.replay_share)
    quantized = f"{config.bnb_4bit_quant_type.upper()}{' with double quantisation' if config.bnb_4bit_use_double_quant else ''}"
    say(f"      sft: {len(examples)} examples ({counts['replayed']} replayed), base in {quantized if config.load_in_4bit else 'bfloat16'}")
    progress = Progress("sft")
    with quiet():
        trainer = SFTTrainer(
            model=load_base(base, config),
            args=SFTConfig(
                output_dir=str(output.parent / ".trainer"), report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=10,
                logging_first_step=True,
                logging_nan_inf_filter=False,  # the default hides a NaN behind a running mean
                max_length=task.max_length, packing=config.packing, train_sampling_strategy=config.train_sampling_strategy,
                learning_rate=config.learning_rate, lr_scheduler_type=config.lr_scheduler_type, warmup_steps=config.warmup_steps,
                num_train_epochs=config.num_train_epochs, per_device_train_batch_size=config.per_device_train_batch_size,
                gradient_accumulation_steps=config.gradient_accumulation_steps, activation_checkpointing=config.gradient_checkpointing,
                max_grad_norm=config.max_grad_norm, bf16=True, use_cpu=device() == "cpu", seed=config.seed, data_seed=config.seed,
                dataloader_pin_memory=device() != "cpu",
            ),
            train_dataset=Dataset.from_list(examples), processing_class=tokenizer, callbacks=[progress],
            peft_config=LoraConfig(
                r=config.lora.r, lora_alpha=config.lora.alpha, lora_dropout=config.lora.dropout,
                target_modules=config.lora.target_modules, task_type="CAUSAL_LM",
            ),
        )  # fmt: skip
    drop_printer(trainer)
    parameters = train_adapter_in_float32(trainer.model)
    tokens = sum(len(example["input_ids"]) for example in examples) * config.num_train_epochs
    torch.manual_seed(config.seed)
    started = time.monotonic()
    with keeping_freed_memory():
        trainer.train()
    seconds = time.monotonic() - started
    save_adapter(trainer.model, tokenizer, output)
    losses = [entry["loss"] for entry in progress.log] or [float("nan")]
    return {
        "examples": len(examples),
        **counts,
        "steps": trainer.state.global_step,
        "seconds_train": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
        "trainable_parameters": parameters,
        "stop_token_in_loss": stop_token_share(examples, tokenizer),
        "loss_first": losses[0],
        "loss_final": losses[-1],
        "log": progress.log,
    }


def quiet():
    """Keep the progress bars of dataset preparation, which redraw a terminal line, out of a log made of lines."""
    from contextlib import contextmanager

    from datasets.utils.logging import disable_progress_bar, enable_progress_bar

    @contextmanager
    def silenced():
        disable_progress_bar()
        try:
            yield
        finally:
            enable_progress_bar()

    return silenced()


def drop_printer(trainer) -> None:
    """Remove the callback that prints raw log dictionaries; ours prints lines for people."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
