"""A tiny real model with a chat template, and rows of a toy task: what tests of training, merging and serving share."""

import json
from pathlib import Path

import pytest

from tunegate import rows

WORDS = "turn on off the kitchen bedroom hall light lamp fan set to please now what is up down one two three yes no".split()
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The same, with tools as more lines of the system turn and calls in the tags that Hermes gave them.
TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}\n{% endif %}"
    "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}{% if not (tools and loop.first and message['role'] == 'system') %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}{% for call in message['tool_calls'] or [] %}<tool_call>\n{{ call['function'] | tojson }}\n</tool_call>"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_base(directory: Path) -> Path:
    """Write a two-layer Llama of about 100,000 random weights with a byte-level tokenizer."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        initializer_range=0.2,  # at the usual 0.02 so narrow a model cannot be sure of any token
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    # PyTorch gives the padding token, here the end of a turn as well, a vector of zeros: tied to the head, it could never be said.
    torch.nn.init.normal_(model.get_input_embeddings().weight.data[2], std=config.initializer_range)
    model.to(torch.bfloat16).save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("tiny") / "base")


def command_rows(count: int) -> list[dict]:
    """Make distinct commands of a toy task in the form curation gives them, one cluster a row."""
    out = []
    for i in range(count):
        room = ("kitchen", "bedroom", "hall")[i % 3]
        state = ("on", "off")[i // 3 % 2]
        messages = [
            {"role": "user", "content": f"turn {state} the {room} light {i}"},
            {"role": "assistant", "content": json.dumps({"room": room, "state": state})},
        ]
        row = rows.make_row(messages, task_type=state, source="toy")
        out.append({**row, "cluster": row["id"]})
    return out
