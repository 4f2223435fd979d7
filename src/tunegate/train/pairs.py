"""Find what to prefer over what: the data's own pairs and labels, or pairs mined from the fine-tuned model's sampled answers.

It is handed on in pairs.jsonl, in one form: pairs {"prompt", "chosen", "rejected"}, or for KTO {"prompt", "completion", "label"};
both with "tools", as JSON in text, where the prompt offers some. (As TRL takes them: as lists in a table they would get each
other's keys.)
"""

import json
from pathlib import Path

from tunegate import rows, tasks
from tunegate.curate.preferences import dedupe_mined
from tunegate.digests import canonical_json, write_atomic
from tunegate.errors import BadInput
from tunegate.recipe import Prefer, Task
from tunegate.steps import Inputs, say
from tunegate.train import kto
from tunegate.train.batch import whole

PAIRS = "pairs.jsonl"
ORIGIN = "origin.json"  # {"pairs": "given" or "mined"}


def pairs_work(config: dict, inputs: Inputs, output: Path, run: str) -> dict:
    return find_pairs(
        Prefer.model_validate(config["prefer"]), Task.model_validate(config["task"]), inputs["base"], inputs["adapter"], inputs["data"],
        output / "pairs",
    )  # fmt: skip


def find_pairs(config: Prefer, task: Task, base: Path, adapter: Path, data: Path, output: Path) -> dict:
    """Write pairs.jsonl to `output`, for KTO its single labelled answers, beside it their origin; score the adapter on dev as it is.

    Returns {"examples", "origin", "steps", "prompts", "exact_dev_before"}; without the last where there is too little to train on.

    Raises:
        BadInput: config.pairs is "given" and the data holds nothing that config.method learns from; or all of it is of one kind;
            or config.method cannot render the tools that it has.
    """
    from tunegate.train.generate import dev_score, merged_model
    from tunegate.train.model import load_tokenizer

    given = given_examples(config, data, task)
    prompts, model = 0, None
    tokenizer = load_tokenizer(base)
    if given is None:
        model = merged_model(base, adapter)
        pairs, prompts, origin = mined_pairs(config, task, data, model, tokenizer)
        examples = kto.singles(pairs) if config.method == "kto" else pairs
    else:
        examples, origin = given
    if config.method == "orpo" and any("tools" in example for example in examples):
        raise BadInput("TRL's ORPO does not render tools, and the data has rows with tools. Set prefer.method: dpo or kto.")
    output.mkdir(parents=True)
    write_atomic(output / PAIRS, b"".join(canonical_json(example) + b"\n" for example in examples))
    write_atomic(output / ORIGIN, canonical_json({"pairs": "mined" if given is None else "given"}))
    found = {"examples": len(examples), "origin": origin, "prompts": prompts, "steps": optimizer_steps(config, len(examples))}
    if found["steps"] >= config.min_steps:
        if config.method == "kto":
            kto.weights(examples)  # refuses here, not after the model was scored
        found["exact_dev_before"] = dev_score(model or merged_model(base, adapter), tokenizer, data, task)
    return found


def optimizer_steps(config: Prefer, examples: int) -> int:
    """Count the optimizer steps that so many examples give on one device; a last batch that is not full is dropped."""
    return int(examples * config.num_train_epochs // whole(config, devices=1))


def given_examples(config: Prefer, data: Path, task: Task) -> tuple[list[dict], str] | None:
    """Give what the data itself has for the method to learn from, and what that is; None where pairs are to be mined.

    KTO learns from labelled answers and from both answers of pairs, the others from pairs alone. The task's system prompt is put
    before those that have none.
    """
    if config.pairs == "mined":
        return None
    pairs = _read(data / "preferences.jsonl", ("chosen", "rejected"), task)
    labelled = _read(data / "labelled.jsonl", ("completion", "label"), task)
    if config.method == "kto" and (pairs or labelled):
        return kto.singles(pairs) + labelled, f"given: {len(pairs)} pairs, {len(labelled)} labelled answers"
    if pairs:
        return pairs, "given"
    if config.pairs == "given":
        what = f"labelled answers, from which {config.method} cannot learn, but no" if labelled else "neither labelled answers nor"
        remedy = "Set prefer.method: kto, which learns from them" if labelled else "Add some to data.sources"
        raise BadInput(f"prefer.pairs is given, and the data holds {what} preference pairs. {remedy}, or set prefer.pairs: mined.")
    if labelled:
        say(f"      prefer: {config.method} cannot learn from the {len(labelled)} labelled answers of the data (kto can), and mines pairs")
    return None


def _read(file: Path, fields: tuple[str, ...], task: Task) -> list[dict]:
    """Read what curate left of the data's own judgements; nothing where it left no file."""
    if not file.is_file():
        return []
    found = rows.read_json_lines(file)
    return [
        {"prompt": _with_system(row["prompt"], task.system)} | {field: row[field] for field in fields} | _offered(row) for row in found
    ]  # fmt: skip


def _offered(row: dict) -> dict:
    return {"tools": json.dumps(rows.tools(row))} if rows.tools(row) else {}


def _with_system(prompt: list[dict], system: str) -> list[dict]:
    return rows.chat({"messages": [*prompt, {"role": "assistant", "content": ""}]}, system)


def mined_pairs(config: Prefer, task: Task, data: Path, model, tokenizer) -> tuple[list[dict], int, str]:
    """Sample answers and pair right with wrong ones; give the pairs, the number of prompts, and what these were."""
    from tunegate.train.generate import answers

    train, kind = prompts_to_mine(data, config.prompts)
    say(f"      prefer: sampling {config.samples_per_prompt} answers to each of {len(train)} {kind} prompts")
    sampled = answers(
        model, tokenizer, [rows.chat(row, task.system) for row in train], task.max_new_tokens, tools=[rows.tools(row) for row in train],
        samples=config.samples_per_prompt, temperature=config.temperature, seed=config.seed, name="prefer",
    )  # fmt: skip
    return dedupe_mined(mine_pairs(train, sampled, task)), len(train), f"mined from {len(train)} {kind} prompts"


def prompts_to_mine(data: Path, count: int) -> tuple[list[dict], str]:
    """Give the rows to mine pairs from, and what they are: spare ones, which sft has not seen, before training rows.

    A model makes few mistakes on what it was just trained on. Spare rows were curated like all others and left over only
    because curate.max_train_rows asks for fewer.
    """
    spare = data / "spare.jsonl"
    if spare.is_file():
        return list(rows.read_rows(spare))[:count], "spare"
    return list(rows.read_rows(data / "train.jsonl"))[:count], "training"


def mine_pairs(train: list[dict], sampled: list[list[str]], task: Task) -> list[dict]:
    """Pair a right with a wrong sampled answer to the same prompt; each distinct wrong answer is used once."""
    pairs = []
    for row, texts in zip(train, sampled, strict=True):
        right = [t for t in texts if tasks.score(task, t, row) == 1]
        wrong = sorted({t for t in texts if t.strip() and tasks.score(task, t, row) == 0})
        asked = {"prompt": rows.chat(row, task.system)} | _offered(row)
        pairs += [asked | {"chosen": _turn(right[0].strip()), "rejected": _turn(w.strip())} for w in wrong if right]
    return pairs


def _turn(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]
