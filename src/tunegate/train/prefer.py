"""Direct preference optimisation on pairs mined from the fine-tuned model's own sampled answers.

A pair is one answer that the task's checker calls right and one it calls wrong, to the same prompt, both sampled from the
model being trained. The result is kept only if greedy answers on dev are not worse than before.
"""

import shutil
import time
from pathlib import Path

from tunegate import rows, tasks
from tunegate.curate.preferences import dedupe_mined
from tunegate.recipe import Prefer, Sft, Task
from tunegate.steps import Inputs, Result, say


def prefer_step(config: dict, inputs: Inputs, output: Path) -> Result:
    summary = prefer(
        Prefer.model_validate(config["prefer"]), Sft.model_validate(config["sft"]), Task.model_validate(config["task"]),
        inputs["base"], inputs["adapter"], inputs["data"], output / "adapter",
    )  # fmt: skip
    metrics = {k: float(summary[k]) for k in ("pairs", "steps", "exact_dev_before", "exact_dev_after", "kept") if k in summary}
    return Result(summary, metrics=metrics, line=summary["outcome"])


def prefer(config: Prefer, sft_config: Sft, task: Task, base: Path, adapter: Path, data: Path, output: Path) -> dict:
    """Improve `adapter` by DPO and write the better of the two (on dev) to `output`.

    Fewer than `config.min_steps` optimizer steps' worth of pairs, or a worse dev score, and the SFT adapter is passed on,
    with the reason in summary["outcome"].
    """
    if config.method == "none":
        shutil.copytree(adapter, output)
        return {"kept": False, "outcome": "no preference step asked for; the SFT adapter goes on", "log": []}
    from tunegate.train.generate import answers, merged_model
    from tunegate.train.model import load_tokenizer

    tokenizer = load_tokenizer(base)
    model = merged_model(base, adapter)
    train, kind = prompts_to_mine(data, config.prompts)
    say(f"      prefer: sampling {config.samples_per_prompt} answers to each of {len(train)} {kind} prompts")
    sampled = answers(
        model, tokenizer, [rows.chat(row, task.system) for row in train], task.max_new_tokens, samples=config.samples_per_prompt,
        temperature=config.temperature, seed=config.seed, name="prefer",
    )  # fmt: skip
    pairs = dedupe_mined(mine_pairs(train, sampled, task))
    steps = int(len(pairs) * config.num_train_epochs // (config.per_device_train_batch_size * config.gradient_accumulation_steps))
    summary = {"prompts": len(train), "pairs": len(pairs), "steps": steps, "kept": False, "log": []}
    if steps < config.min_steps:
        shutil.copytree(adapter, output)
        summary["outcome"] = (
            f"only {len(pairs)} pairs could be mined from {len(train)} prompts: {steps} steps, fewer than {config.min_steps}; "
            "the SFT adapter goes on"
        )
        return summary
    dev = list(rows.read_rows(data / "dev.jsonl"))
    summary["exact_dev_before"] = _dev_score(model, tokenizer, dev, task)
    del model
    summary |= _dpo(config, sft_config, base, adapter, pairs, tokenizer, output)
    summary["exact_dev_after"] = _dev_score(merged_model(base, output), tokenizer, dev, task)
    summary["kept"] = summary["exact_dev_after"] >= summary["exact_dev_before"]
    said = (
        f"{len(pairs)} pairs, {summary['steps']} steps; exact on dev {summary['exact_dev_before']:.1%} → {summary['exact_dev_after']:.1%}"
    )
    if not summary["kept"]:
        shutil.rmtree(output)
        shutil.copytree(adapter, output)
    summary["outcome"] = said + ("; kept" if summary["kept"] else "; worse, so the SFT adapter goes on")
    return summary


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


def _dev_score(model, tokenizer, dev: list[dict], task: Task) -> float:
    from tunegate.train.generate import answers

    texts = answers(model, tokenizer, [rows.chat(row, task.system) for row in dev], task.max_new_tokens, name="prefer: dev")
    return sum(tasks.score(task.checker, t[0], rows.answer(row)) for t, row in zip(texts, dev, strict=True)) / len(dev)


def _dpo(config: Prefer, sft_config: Sft, base: Path, adapter: Path, pairs: list[dict], tokenizer, output: Path) -> dict:
    from datasets import Dataset
    from peft import PeftModel
    from trl import DPOConfig, DPOTrainer

    from tunegate.train.model import device, keeping_freed_memory, load_base, save_adapter, train_adapter_in_float32
    from tunegate.train.progress import Progress
    from tunegate.train.sft import drop_printer, quiet

    progress = Progress("prefer")
    with quiet():
        trainer = DPOTrainer(
            # Given a trained adapter, TRL keeps a frozen copy of it as the reference model.
            model=PeftModel.from_pretrained(load_base(base, sft_config), adapter, is_trainable=True),
            args=DPOConfig(
                output_dir=str(output.parent / ".trainer"), report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=2,
                logging_nan_inf_filter=False, beta=config.beta, learning_rate=config.learning_rate, warmup_steps=4,
                num_train_epochs=config.num_train_epochs, per_device_train_batch_size=config.per_device_train_batch_size,
                gradient_accumulation_steps=config.gradient_accumulation_steps, dataloader_drop_last=True,
                activation_checkpointing=sft_config.gradient_checkpointing, bf16=True, use_cpu=device() == "cpu",
                seed=config.seed, data_seed=config.seed, dataloader_pin_memory=device() != "cpu",
            ),
            train_dataset=Dataset.from_list(pairs), processing_class=tokenizer, callbacks=[progress],
        )  # fmt: skip
    drop_printer(trainer)
    train_adapter_in_float32(trainer.model)
    started = time.monotonic()
    with keeping_freed_memory():
        trainer.train()
    seconds = time.monotonic() - started
    save_adapter(trainer.model, tokenizer, output)
    return {"steps": trainer.state.global_step, "seconds_train": round(seconds, 1), "log": progress.log}
