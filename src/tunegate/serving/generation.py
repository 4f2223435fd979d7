"""Load a causal language model with transformers, generate in batches, and give the log-probabilities of given tokens."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunegate.errors import BadInput
from tunegate.serving.batched import continue_prompts


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token; temperature 0 is greedy."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Generated:
    ids: list[int]  # without the stop token
    text: str
    finish_reason: str  # "stop" or "length"
    completion_tokens: int  # with the stop token, as vLLM counts


@dataclass(frozen=True)
class Scored:
    """Prompt tokens with their log-probabilities; the first has none."""

    tokens: list[str]
    logprobs: list[float | None]
    best: list[tuple[str, float] | None]  # the most likely token at each place


class LanguageModel:
    def __init__(self, directory: Path, dtype: str, max_model_len: int, adapter: Path | None = None):
        """Load safetensors weights only, and no code from the model directory; put `adapter` on them without merging it.

        Raises:
            BadInput: the tokenizer has no chat template.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.max_model_len = max_model_len
        self.tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, padding_side="left")
        if not self.tokenizer.chat_template:
            raise BadInput(f"The model in {directory} has no chat template. Use an instruct model, or add chat_template.jinja.")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
        ).to(device).eval()  # fmt: skip
        self.vocab_size = self.model.get_input_embeddings().num_embeddings
        self.stop_ids = self._stop_ids()
        self.pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.stop_ids[0]
        # Sampling defaults that came with the model must not change an answer unseen.
        self.model.generation_config = GenerationConfig(eos_token_id=self.stop_ids, pad_token_id=self.pad_id)
        if adapter:
            from peft import PeftModel

            self.model = PeftModel.from_pretrained(self.model, adapter, use_safetensors=True).eval()

    def _stop_ids(self) -> list[int]:
        configured = self.model.generation_config.eos_token_id
        found = {self.tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
        if not found:
            raise BadInput("The model names no end-of-sequence token, so its answers would never end. Set eos_token in its tokenizer.")
        return sorted(found)

    def encode_chat(self, messages: list[dict], tools: list | None = None) -> list[int]:
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, return_dict=True)["input_ids"]
        except TemplateError as error:
            raise BadInput(f"The model's chat template refuses this conversation: {error}.") from None

    def encode(self, text: str, special_tokens: bool = True) -> list[int]:
        return self.tokenizer(text, add_special_tokens=special_tokens)["input_ids"]

    def generate(self, prompts: list[list[int]], sampling: Sampling) -> Iterator[tuple[int, Generated]]:
        """Yield the place of each prompt and what follows it, as rows end. A seeded sample is the same again only in a batch of one."""
        import torch
        from transformers import GenerationConfig

        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        choice = {"do_sample": False}
        if sampling.temperature > 0:
            choice = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        config = GenerationConfig(
            max_new_tokens=sampling.max_tokens, eos_token_id=self.stop_ids, pad_token_id=self.pad_id, **choice
        )  # fmt: skip
        for place, ids in continue_prompts(self.model, prompts, config):
            yield place, self._generated(ids)

    def _generated(self, ids: list[int]) -> Generated:
        stopped = ids[-1] in self.stop_ids
        kept = ids[:-1] if stopped else ids
        return Generated(kept, self.tokenizer.decode(kept, skip_special_tokens=True), "stop" if stopped else "length", len(ids))

    def spelt_out(self, answer: Generated) -> str:
        """Give the text of an answer with its special tokens."""
        return self.tokenizer.decode(answer.ids, skip_special_tokens=False)

    def score(self, ids: list[int], generate_one: bool) -> Scored:
        """Give the log-probability of each token after the first and, with `generate_one`, of the likeliest next token."""
        import torch

        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([ids], device=self.model.device)).logits[0]
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        best_values, best_ids = (t.tolist() for t in logprobs.max(dim=-1))
        shown = ids + best_ids[-1:] if generate_one else ids
        taken = logprobs[torch.arange(len(shown) - 1), torch.tensor(shown[1:], device=logprobs.device)].tolist()
        places = range(len(shown) - 1)
        return Scored(
            [self.tokenizer.decode([token]) for token in shown],
            [None, *taken],
            [None, *((self.tokenizer.decode([best_ids[i]]), best_values[i]) for i in places)],
        )
