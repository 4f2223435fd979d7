"""Turn curated rows into training examples, and prove that the loss covers the answer and its end-of-turn token."""

from pathlib import Path

from tunegate import rows
from tunegate.errors import BadInput
from tunegate.recipe import Task


def conversation(row: dict, task: Task, system: bool = True) -> dict:
    """Give a row TRL's prompt/completion form; the loss then covers the completion only."""
    return {
        "prompt": rows.chat(row, task.system if system else ""),
        "completion": [{"role": "assistant", "content": rows.answer(row)}],
    }


def load_examples(train: Path, replay: Path | None, task: Task, replay_share: float) -> tuple[list[dict], int]:
    """Read training rows and mix replay rows in, evenly, so that any slice of an epoch holds both.

    Replay rows keep their own form: no task system prompt is put before them. `replay_share` is relative to the training
    rows; replay rows repeat when there are too few. Returns the examples and how many of them are replay.
    """
    task_rows = [conversation(row, task) for row in rows.read_rows(train)]
    if not task_rows:
        raise BadInput(f"{train} holds no rows to train on.")
    general = [conversation(row, task, system=False) for row in rows.read_rows(replay)] if replay and replay.exists() else []
    wanted = round(replay_share * len(task_rows)) if general else 0
    mixed, used = [], 0
    for i, example in enumerate(task_rows):
        mixed.append(example)
        if used < wanted * (i + 1) // len(task_rows):
            mixed.append(general[used % len(general)])
            used += 1
    return mixed, used


def fitting(examples: list[dict], tokenizer, max_length: int) -> list[dict]:
    """Keep the examples that fit whole: truncation would cut the end-of-turn token off and teach the model not to stop."""
    kept = [e for e in examples if token_count(e, tokenizer) <= max_length]
    if len(kept) < 0.9 * len(examples):
        raise BadInput(
            f"Only {len(kept)} of {len(examples)} training rows fit in {max_length} tokens. Raise task.max_length, or shorten the rows."
        )
    return kept


def token_count(example: dict, tokenizer) -> int:
    ids = tokenizer.apply_chat_template(example["prompt"] + example["completion"], return_dict=True)["input_ids"]
    return len(ids)


def stop_token_share(trainer, tokenizer, task: Task, sample: int = 32) -> float:
    """Share of sampled rows whose loss covers the end-of-turn token after the answer, read from the labels themselves.

    The end-of-turn token is the one that the tokenizer ends a generation with. Masking it (pad equal to end-of-turn, a
    template without it, truncation) gives a model that never stops: the most common silent failure of fine-tuning.
    """
    batch = next(iter(trainer.get_train_dataloader()))
    covered = total = 0
    for labels in batch["labels"][:sample]:
        total += 1
        covered += int((labels == tokenizer.eos_token_id).any())
    return covered / total
