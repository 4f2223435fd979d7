"""The arguments that all trainers share, and what keeps them quiet."""

from contextlib import contextmanager
from pathlib import Path

from tunegate.recipe import Training
from tunegate.train import sharding
from tunegate.train.batch import Batch
from tunegate.train.model import device


def common(config: Training, batch: Batch, checkpointing: bool | str, scratch: Path) -> dict:
    """Give the transformers.TrainingArguments of a training.

    Args:
        checkpointing: compute activations again in the backward pass: False, True, or "selective", which keeps attention's.
    """
    return dict(
        output_dir=str(scratch), report_to=[], disable_tqdm=True,
        save_strategy="no",  # tunegate.train.saving.Saving decides
        logging_first_step=True,
        logging_nan_inf_filter=False,  # the default hides a NaN behind a running mean
        learning_rate=config.learning_rate, lr_scheduler_type=config.lr_scheduler_type, warmup_steps=config.warmup_steps,
        num_train_epochs=config.num_train_epochs, per_device_train_batch_size=batch.rows, gradient_accumulation_steps=batch.accumulation,
        activation_checkpointing=bool(checkpointing),
        activation_checkpointing_kwargs={"selective": True} if checkpointing == "selective" else None,
        max_grad_norm=config.max_grad_norm, bf16=True, use_cpu=device() == "cpu", seed=config.seed, data_seed=config.seed,
        dataloader_pin_memory=device() != "cpu",
    ) | sharding.arguments(checkpointing)  # fmt: skip


@contextmanager
def quiet():
    """Keep the progress bars of dataset preparation, which redraw a terminal line, out of a log made of lines."""
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar

    disable_progress_bar()
    try:
        yield
    finally:
        enable_progress_bar()


def drop_printer(trainer) -> None:
    """Remove the callback that prints raw log dictionaries; ours prints lines for people."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
