"""Find what to prefer over what: the data's own preferences, or pairs mined from the fine-tuned model's sampled answers."""

from pathlib import Path

from tunegate import rows, tasks
from tunegate.curate.preferences import dedupe_mined
from tunegate.digests import canonical_json, write_atomic
from tunegate.errors import BadInput
from tunegate.recipe import Prefer, Task
from tunegate.steps import Inputs, say
from tunegate.train.batch import whole

PAIRS = "pairs.jsonl"


def pairs_work(config: dict, inputs: Inputs, output: Path, run: str) -> dict:
    return find_pairs(
        Prefer.model_validate(config["prefer"]), Task.model_validate(config["task"]), inputs["base"], inputs["adapter"], inputs["data"],
        output / "pairs",
    )  # fmt: skip


def find_pairs(config: Prefer, task: Task, base: Path, adapter: Path, data: Path, output: Path) -> dict:
    """Write pairs.jsonl to `output`, and score the adapter on dev as it is.

    Returns {"pairs", "origin", "steps", "prompts", "exact_dev_before"}; without the last where there are too few pairs to train on.

    Raises:
        BadInput: config.pairs is "given" and the data holds none.
    """
    from tunegate.train.generate import dev_score, merged_model
    from tunegate.train.model import load_tokenizer

    pairs = given_pairs(config, data, task)
    origin, prompts, model = "given", 0, None
    tokenizer = load_tokenizer(base)
    if pairs is None:
        model = merged_model(base, adapter)
        pairs, prompts, origin = mined_pairs(config, task, data, model, tokenizer)
    output.mkdir(parents=True)
    write_atomic(output / PAIRS, b"".join(canonical_json(pair) + b"\n" for pair in pairs))
    found = {"pairs": len(pairs), "origin": origin, "prompts": prompts, "steps": optimizer_steps(config, len(pairs))}
    if found["steps"] >= config.min_steps:
        found["exact_dev_before"] = dev_score(model or merged_model(base, adapter), tokenizer, data, task)
    return found


def optimizer_steps(config: Prefer, pairs: int) -> int:
    """Count the optimizer steps that so many pairs give on one device; a last batch that is not full is dropped."""
    return int(pairs * config.num_train_epochs // whole(config, devices=1))


def given_pairs(config: Prefer, data: Path, task: Task) -> list[dict] | None:
    """Give the data's own pairs, with the task's system prompt before them; None where pairs are to be mined."""
    if config.pairs == "mined":
        return None
    file = data / "preferences.jsonl"
    if not file.is_file():
        if config.pairs == "given":
            raise BadInput("prefer.pairs is given, and the data holds no preference pairs. Add some to data.sources, or set it to mined.")
        return None
    return [
        {"prompt": _with_system(pair["prompt"], task.system), "chosen": pair["chosen"], "rejected": pair["rejected"]}
        for pair in rows.read_json_lines(file)
    ]


def _with_system(prompt: list[dict], system: str) -> list[dict]:
    return rows.chat({"messages": [*prompt, {"role": "assistant", "content": ""}]}, system)


def mined_pairs(config: Prefer, task: Task, data: Path, model, tokenizer) -> tuple[list[dict], int, str]:
    """Sample answers and pair right with wrong ones; give the pairs, the number of prompts, and what these were."""
    from tunegate.train.generate import answers

    train, kind = prompts_to_mine(data, config.prompts)
    say(f"      prefer: sampling {config.samples_per_prompt} answers to each of {len(train)} {kind} prompts")
    sampled = answers(
        model, tokenizer, [rows.chat(row, task.system) for row in train], task.max_new_tokens, samples=config.samples_per_prompt,
        temperature=config.temperature, seed=config.seed, name="prefer",
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
        right = [t for t in texts if tasks.score(task.checker, t, rows.answer(row)) == 1]
        wrong = sorted({t for t in texts if t.strip() and tasks.score(task.checker, t, rows.answer(row)) == 0})
        prompt = rows.chat(row, task.system)
        pairs += [{"prompt": prompt, "chosen": _turn(right[0].strip()), "rejected": _turn(w.strip())} for w in wrong if right]
    return pairs


def _turn(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]
