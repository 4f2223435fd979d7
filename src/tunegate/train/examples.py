"""Turn curated rows into token ids and labels: the loss covers the answer and its end-of-turn token, nothing else.

Rows are rendered here, by the tokenizer's own chat template, the one that serving applies; the trainer gets finished ids.
"""

from pathlib import Path

from tunegate import rows
from tunegate.errors import BadInput, Refused
from tunegate.recipe import Task
from tunegate.tasks import tool_calls

IGNORED = -100  # label of a token outside the loss (PyTorch's cross entropy)
PROVEN = 200  # rows whose labels are decoded before the first step; all have one template


def chat_example(prompt: list[dict], answer: dict, tokenizer, tools: list | None = None) -> dict:
    """Render one conversation; labels cover the answer up to and with the end-of-turn token.

    The prompt is rendered as serving renders it. Where the template renders it the same once it is answered, the answer is
    the rest; where it does not (templates that take thoughts out of earlier turns, say), the answer is put after what
    serving sends, and the end-of-turn token after it: the ids are then those that serving sends and waits for. Tool calls only
    the template itself can write, so that the first must hold for them.

    The end-of-turn token is the one on which the tokenizer ends a generation. Leaving it out of the loss (a template
    without it, padding with the same token, truncation) gives a model that never stops: the most common silent failure of
    fine-tuning.

    Args:
        answer: the assistant's turn, with its tool_calls where it has any.

    Raises:
        Refused: the template does not end the answer with it.
    """
    asked = rendered(prompt, tokenizer, tools)
    whole = tokenizer.apply_chat_template([*prompt, answer], tools=tools, return_dict=True)["input_ids"]
    if tokenizer.eos_token_id not in whole:
        raise _never_ends(tokenizer)
    if whole[: len(asked)] != asked:
        if answer.get("tool_calls"):
            raise Refused(
                "The chat template renders the prompt of a tool call in another way once it is called, so that training would not see the "
                "prompt that serving sends. Correct the template of the base model, or leave out rows with tool calls."
            )
        whole = asked + tokenizer(answer["content"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    if tokenizer.eos_token_id not in whole[len(asked) :]:
        raise _never_ends(tokenizer)
    end = len(whole) - whole[::-1].index(tokenizer.eos_token_id)  # what a template puts after it is never generated
    return {"input_ids": whole[:end], "labels": [IGNORED] * len(asked) + whole[len(asked) : end]}


def rendered(prompt: list[dict], tokenizer, tools: list | None = None) -> list[int]:
    """Give the ids of a prompt as serving sends it."""
    return tokenizer.apply_chat_template(prompt, tools=tools, add_generation_prompt=True, return_dict=True)["input_ids"]


def _never_ends(tokenizer) -> Refused:
    return Refused(
        f"The end-of-turn token {tokenizer.eos_token!r} is outside the loss: the chat template does not end an answer with it, so "
        "the model would not learn to stop. Correct the base model's chat template or its eos_token."
    )


def prove(given: list[dict], made: list[dict], tokenizer, system: str) -> None:
    """Decode the labels of real rows and hold them against their answers: the loss must cover these and the end, no more.

    A template writes tool calls in a form of its own: their names and arguments must be in it, and what the turn says.

    Raises:
        Refused: with the text that would be learnt and the one that should be.
    """
    for row, example in zip(given, made, strict=True):
        learnt = [label for label in example["labels"] if label != IGNORED]
        text = tokenizer.decode(learnt)
        if learnt[-1] != tokenizer.eos_token_id or not _says(text.removesuffix(tokenizer.eos_token), row["messages"][-1]):
            raise Refused(
                f"The loss would cover {text[-200:]!r} where the answer is {rows.answer(row)[-200:]!r}: the chat template changes "
                "answers, or puts more into them. Correct the template of the base model."
            )
        prompt, tools = rows.chat(row, system), rows.tools(row)
        sent = rendered(prompt, tokenizer, tools)
        if example["input_ids"][: len(sent)] != sent or any(label != IGNORED for label in example["labels"][: len(sent)]):
            raise Refused("Training would not see the prompt that serving sends. Correct the chat template of the base model.")
        if tools and sent == rendered(prompt, tokenizer):
            raise Refused("The chat template of the base model does not render tools. Correct it, or leave out rows with tools.")


def _says(text: str, answer: dict) -> bool:
    if answer.get("tool_calls"):
        return answer["content"].strip() in text and tool_calls.written(tool_calls.called(answer), text)
    return text.strip() == answer["content"].strip()


def text_example(text: str, tokenizer) -> dict:
    """Render plain text, all of it in the loss."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return {"input_ids": ids, "labels": list(ids)}


def row_example(row: dict, tokenizer, system: str) -> dict:
    return chat_example(rows.chat(row, system), row["messages"][-1], tokenizer, rows.tools(row))


def load_examples(train: Path, replay: Path | None, tokenizer, task: Task, replay_share: float) -> tuple[list[dict], dict]:
    """Render the training rows, and mix replay in evenly so that any slice of an epoch holds both.

    Replay rows keep their own form: plain text, or a conversation before which no task prompt is put. `replay_share` is
    relative to the training rows; replay repeats when there is too little of it.

    Raises:
        BadInput: there are no rows, or more than one in ten does not fit task.max_length tokens. (One that does not fit is
            left out: cut off, it would teach the model not to stop.)
    """
    given = list(rows.read_rows(train))
    made = [row_example(row, tokenizer, task.system) for row in given]
    if not made:
        raise BadInput(f"{train} holds no rows to train on.")
    prove(given[:PROVEN], made[:PROVEN], tokenizer, task.system)
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
