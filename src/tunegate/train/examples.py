"""Turn curated rows into token ids and labels: the loss covers the answer and its end-of-turn token, nothing else.

Rows are rendered here, by the tokenizer's own chat template, the one that serving applies; the trainer gets finished ids.
"""

from pathlib import Path

from tunegate import rows
from tunegate.errors import BadInput, Refused
from tunegate.recipe import Task

IGNORED = -100  # label of a token outside the loss (PyTorch's cross entropy)


def chat_example(prompt: list[dict], answer: str, tokenizer) -> dict:
    """Render one conversation; labels cover the answer up to and with the end-of-turn token.

    The end-of-turn token is the one on which the tokenizer ends a generation. Leaving it out of the loss (a template
    without it, padding with the same token, truncation) gives a model that never stops: the most common silent failure of
    fine-tuning.

    Raises:
        Refused: the template does not end the answer with it, or renders prompt and conversation differently.
    """
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], return_dict=True)["input_ids"]
    if whole[: len(asked)] != asked:
        raise Refused(
            "The chat template renders a prompt differently once it is answered, so training would not see what serving sends. "
            "Use a template whose prompt is a prefix of the conversation."
        )
    if tokenizer.eos_token_id not in whole[len(asked) :]:
        raise Refused(
            f"The end-of-turn token {tokenizer.eos_token!r} is outside the loss: the chat template does not end an answer with it, so "
            "the model would not learn to stop. Correct the base model's chat template or its eos_token."
        )
    end = len(whole) - whole[::-1].index(tokenizer.eos_token_id)  # what a template puts after it is never generated
    return {"input_ids": whole[:end], "labels": [IGNORED] * len(asked) + whole[len(asked) : end]}


def text_example(text: str, tokenizer) -> dict:
    """Render plain text, all of it in the loss."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return {"input_ids": ids, "labels": list(ids)}


def row_example(row: dict, tokenizer, system: str) -> dict:
    return chat_example(rows.chat(row, system), rows.answer(row), tokenizer)


def load_examples(train: Path, replay: Path | None, tokenizer, task: Task, replay_share: float) -> tuple[list[dict], dict]:
    """Render the training rows, and mix replay in evenly so that any slice of an epoch holds both.

    Replay rows keep their own form: plain text, or a conversation before which no task prompt is put. `replay_share` is
    relative to the training rows; replay repeats when there is too little of it.

    Raises:
        BadInput: there are no rows, or more than one in ten does not fit task.max_length tokens. (One that does not fit is
            left out: cut off, it would teach the model not to stop.)
    """
    made = [row_example(row, tokenizer, task.system) for row in rows.read_rows(train)]
    if not made:
        raise BadInput(f"{train} holds no rows to train on.")
    fit = [example for example in made if len(example["input_ids"]) <= task.max_length]
    if len(fit) < 0.9 * len(made):
        raise BadInput(
            f"Only {len(fit)} of {len(made)} training rows fit in {task.max_length} tokens. Raise task.max_length, or shorten the rows."
        )
    general = _replay(replay, tokenizer, task.max_length) if replay and replay_share else []
    wanted = round(replay_share * len(fit)) if general else 0
    mixed, used = [], 0
    for i, example in enumerate(fit):
        mixed.append(example)
        while used < wanted * (i + 1) // len(fit):
            mixed.append(general[used % len(general)])
            used += 1
    return mixed, {"rows": len(made), "too_long": len(made) - len(fit), "replayed": used}


def _replay(path: Path, tokenizer, max_length: int) -> list[dict]:
    examples = []
    for row in rows.read_json_lines(path):
        example = text_example(row["text"], tokenizer) if "text" in row else row_example(row, tokenizer, "")
        examples.append({name: ids[:max_length] for name, ids in example.items()})
    return examples


def stop_token_share(examples: list[dict], tokenizer) -> float:
    """Share of task examples whose loss covers the end-of-turn token, counted in the labels that are trained on."""
    answered = [example for example in examples if IGNORED in example["labels"]]
    return sum(tokenizer.eos_token_id in example["labels"] for example in answered) / max(1, len(answered))
