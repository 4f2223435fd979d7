"""Time unsloth on a model and rows that sft_8b.py wrote; run by it in unsloth's own interpreter. Prints what it measured as JSON.

Needs unsloth, TRL, transformers and datasets in the versions that unsloth pins; nothing of tunegate but stopwatch.py beside it.
"""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

os.environ.update({"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1", "TQDM_DISABLE": "1"})

import unsloth  # noqa: E402, F401  it must come before what it patches
from datasets import Dataset  # noqa: E402
from stopwatch import Stopwatch  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402


def main(asked: dict) -> int:
    deadline = time.monotonic() + asked["seconds"]
    watch = Stopwatch(asked["warm_up"], asked["steps"], deadline)
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        asked["model"], max_seq_length=asked["max_length"], load_in_4bit=True, local_files_only=True
    )
    lora = asked["lora"]
    model = unsloth.FastLanguageModel.get_peft_model(
        model, r=lora["r"], lora_alpha=lora["alpha"], lora_dropout=lora["dropout"], bias="none",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        use_gradient_checkpointing=asked["checkpointing"],
    )  # fmt: skip
    lines = (Path(asked["model"]) / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    trainer = SFTTrainer(
        model=model, processing_class=tokenizer, train_dataset=Dataset.from_list([json.loads(line) for line in lines]),
        args=SFTConfig(
            output_dir=str(Path(asked["model"]) / "unsloth"), report_to=[], disable_tqdm=True, save_strategy="no", num_train_epochs=1,
            packing=True, max_length=asked["max_length"], per_device_train_batch_size=asked["rows"], gradient_accumulation_steps=1,
            bf16=True, gradient_checkpointing=bool(asked["checkpointing"]),
        ),
    )  # fmt: skip
    watch.follow(trainer)
    trainer.train()
    print(json.dumps(dataclasses.asdict(watch.result())))
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
