"""Train an adapter on pairs with TRL: DPO against its frozen self, KTO on single answers, or ORPO without a reference."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tunegate import rows
from tunegate.errors import BadInput
from tunegate.predict.unsuited import refuse_full
from tunegate.recipe import Prefer, Sft, Task
from tunegate.steps import Inputs, say
from tunegate.train import kto
from tunegate.train.batch import by_length, first_process, processes, whole
from tunegate.train.pairs import ORIGIN, PAIRS
from tunegate.train.record import read_record, with_preference, write_record
from tunegate.train.sharding import hold_whole

REFERENCE_ROWS = 8  # pairs scored at once by the reference, without gradients; arbitrary


def prefer_work(config: dict, inputs: Inputs, output: Path, run: str) -> dict:
    """Train as tunegate.train.job does, and score the result on dev."""
    from tunegate.train.generate import dev_score, merged_model
    from tunegate.train.model import load_tokenizer, release_memory
    from tunegate.train.running import Attempt

    settings, task = Prefer.model_validate(config["prefer"]), Task.model_validate(config["task"])
    attempt = Attempt(inputs.store, run, settings.save_total_limit, config["price_per_hour"])
    base, trained = inputs["base"], output / "adapter"
    pairs = list(rows.read_json_lines(inputs["pairs"] / PAIRS))
    origin = json.loads((inputs["pairs"] / ORIGIN).read_bytes())
    summary = train_on_pairs(settings, Sft.model_validate(config["sft"]), task, base, inputs["adapter"], pairs, trained, attempt, origin)
    release_memory()  # the merged model may need all GPUs
    if first_process():
        summary["exact_dev_after"] = dev_score(merged_model(base, trained), load_tokenizer(base), inputs["data"], task)
    return summary


def train_on_pairs(config: Prefer, sft: Sft, task: Task, base: Path, adapter: Path, pairs: list[dict], output: Path, attempt=None,
                   origin: dict | None = None) -> dict:  # fmt: skip
    """Train a copy of `adapter` on pairs and write it to `output`.

    Args:
        origin: what the record of the adapter says of where the pairs came from.
        pairs: {"prompt", "chosen", "rejected"}, lists of turns; for KTO labelled answers, {"prompt", "completion", "label"}.

    Raises:
        BadInput: none fits into task.max_length tokens; for KTO, all those that fit have one label; or sft trained all weights,
            and there is no adapter to go on with.
        Refused, Interrupted: see tunegate.train.running.run.
    """
    from tunegate.train.model import load_tokenizer, save_adapter
    from tunegate.train.running import Attempt, run

    refuse_full(sft)
    hold_whole()
    tokenizer = load_tokenizer(base)
    fit = [pair for pair in pairs if longest(pair, tokenizer) <= task.max_length]
    what = "labelled answers" if config.method == "kto" else "pairs"
    if not fit:
        raise BadInput(f"None of {len(pairs)} {what} fits into {task.max_length} tokens. Raise task.max_length.")
    weights = kto.weights(fit) if config.method == "kto" else {}
    weighed = "".join(f", {name.replace('_', ' ')} {weight:.3g}" for name, weight in weights.items())
    say(f"      prefer: {config.method.upper()} on {len(fit)} {what}, β {config.beta:g}{weighed}")
    build = builder(config, sft, task, base, adapter, tokenizer, fit, output.parent / ".trainer")
    ran = run("prefer", config, attempt or Attempt(), build)
    if first_process():
        save_adapter(ran.trainer.model, tokenizer, output)
        learnt = {"method": config.method, "examples": len(fit), "steps": ran.summary["steps"],
                  "stop_token_in_loss": stop_token_share(ran.trainer.train_dataset, tokenizer.eos_token_id)} | (origin or {})  # fmt: skip
        write_record(output, with_preference(read_record(adapter), learnt))
    shutil.rmtree(output.parent / ".trainer", ignore_errors=True)
    return ran.summary | weights | {"examples_too_long": len(pairs) - len(fit)}


def longest(pair: dict, tokenizer) -> int:
    """Count the tokens of the longer of a pair's two conversations, or of a labelled answer's only one."""
    answers, tools = [pair[side] for side in ("chosen", "rejected", "completion") if side in pair], json.loads(pair.get("tools") or "null")
    return max(
        len(tokenizer.apply_chat_template([*pair["prompt"], *answer], tools=tools, return_dict=True)["input_ids"]) for answer in answers
    )


def stop_token_share(dataset, eos: int) -> float:
    """Give the share of preferred answers that hold the end-of-turn token, counted in the ids that TRL trains on."""
    (name,) = {"chosen_ids", "completion_ids", "chosen_labels"} & set(dataset.column_names)  # of DPO, KTO and ORPO
    preferred = dataset["label"] if name == "completion_ids" else [True] * len(dataset)
    answers = [ids for ids, wanted in zip(dataset[name], preferred, strict=True) if wanted]
    return sum(eos in ids for ids in answers) / len(answers)


def builder(config: Prefer, sft: Sft, task: Task, base: Path, adapter: Path, tokenizer, pairs: list[dict], scratch: Path) -> Callable:
    """Give the function that makes the trainer, for tunegate.train.running.run."""

    def make(batch, checkpointing):
        from peft import PeftModel

        from tunegate.train.model import load_base

        # Pairs are padded, not packed: TRL has no packing for them.
        loaded = load_base(base, sft.model_copy(update={"packing": False}))
        model = PeftModel.from_pretrained(loaded, adapter, is_trainable=True)
        # Else PEFT looks for the base on the hub at each checkpoint, to see whether its vocabulary grew.
        model.peft_config["default"].base_model_name_or_path = str(base)
        return preference_trainer(model, tokenizer, pairs, config, task, batch, checkpointing, scratch)

    return make


def preference_trainer(model, tokenizer, pairs: list[dict], config: Prefer, task: Task, batch, checkpointing, scratch: Path):
    """Make TRL's trainer for a PeftModel. Given a trained adapter, DPO and KTO keep a frozen copy of it as the reference."""
    from tunegate.train.arguments import common, drop_printer, quiet
    from tunegate.train.model import keep_attention, train_in_float32
    from tunegate.train.running import take

    shared = common(config, batch, checkpointing, scratch) | {
        "beta": config.beta, "max_length": task.max_length, "dataloader_drop_last": True,
    }  # fmt: skip
    # Rows of like length together, because they are padded.
    lengths, step = [longest(pair, tokenizer) for pair in pairs], whole(config, processes())
    order = kto.order(pairs, lengths, step, config.seed) if config.method == "kto" else by_length(lengths, step, config.seed)
    pairs = [pairs[i] for i in order]
    shared["train_sampling_strategy"] = "sequential"
    reference = {"precompute_ref_log_probs": precomputes(config), "precompute_ref_batch_size": REFERENCE_ROWS}
    if checkpointing == "selective":
        keep_attention(model.get_base_model())
    with quiet():
        if config.method == "dpo":
            from trl import DPOConfig, DPOTrainer

            smoothing = {"label_smoothing": config.label_smoothing} if config.label_smoothing else {}
            arguments = DPOConfig(**shared, **reference, **smoothing, loss_type=[config.loss_type])
            trainer = DPOTrainer(model=model, args=arguments, train_dataset=_table(pairs), processing_class=tokenizer)
        elif config.method == "kto":
            from trl import KTOConfig, KTOTrainer

            # TRL exchanges answers within so many rows as the micro-batch has when it is built. Two each time: then a resumed
            # training, or one with another micro-batch, exchanges the same.
            couples = shared | {"per_device_train_batch_size": config.rows_together}
            arguments = KTOConfig(**couples, **reference, **kto.weights(pairs))
            trainer = KTOTrainer(model=model, args=arguments, train_dataset=_table(pairs), processing_class=tokenizer)
            take(trainer, batch)
        else:
            import os

            os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
            from trl.experimental.orpo import ORPOConfig, ORPOTrainer

            arguments = ORPOConfig(**shared, remove_unused_columns=False)
            trainer = ORPOTrainer(model=model, args=arguments, train_dataset=_table(pairs), processing_class=tokenizer)
    drop_printer(trainer)
    train_in_float32(trainer.model)
    return trainer


def _table(examples: list[dict]):
    """Make TRL's table of pairs or answers; it takes its columns from the first row.

    Where the arguments of tool calls differ they are kept as JSON: in one structure each call would get those of all others, as null.
    """
    from datasets import Dataset

    none = {"tools": None} if any("tools" in example for example in examples) else {}
    return Dataset.from_list([none | example for example in examples], on_mixed_types="use_json")


def precomputes(config: Prefer) -> bool:
    """Say whether the reference is scored once, before training: that pays where each pair is seen more than once."""
    return config.num_train_epochs > 1 if config.precompute_ref_log_probs == "auto" else config.precompute_ref_log_probs
