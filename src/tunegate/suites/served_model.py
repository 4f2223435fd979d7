"""Let lm-evaluation-harness ask one of our servers: text is written on from, and given text is scored, through /v1/completions.

A conversation reaches the server as messages, which it puts into its own chat template and turns into token ids; so the model
reads what it reads in use. An answer is cut at the first of the task's stop strings here, which gives the same text whether or
not the engine stops there.

Not covered: prompts that are too long are refused, not cut, for a cut prompt is another prompt.
"""

import json
from pathlib import Path

from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tunegate import digests
from tunegate.errors import BadInput
from tunegate.serving import Progress
from tunegate.serving.client import SAMPLING, complete, encode, prompt_logprobs

MAX_NEW_TOKENS = 256  # where a task says none: as in the harness's own backends
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names of one thing; tasks use all of them

Ids = list[int]


class Conversation(str):
    """A prompt that is a conversation: the canonical JSON of its messages, since the harness passes prompts on as text."""


class ServedModel(LM):
    """Answer the harness's requests, `concurrency` at a time.

    `likeliest` says whether some task asks if a continuation is what greedy decoding would give; where none does, the answer
    is always that it is not, which is several times as fast on a CPU.
    """

    def __init__(self, server, concurrency: int, label: str, likeliest: bool):
        super().__init__()
        self.server, self.concurrency, self.label, self.likeliest = server, concurrency, label, likeliest

    @property
    def tokenizer_name(self) -> str:
        return self.server.name

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        return Conversation(digests.canonical_json(chat_history).decode())

    def generate_until(self, requests: list) -> list[str]:
        contexts = self._context_ids([request.args[0] for request in requests])
        bodies, stops = [], []
        for number, request in enumerate(requests):
            context, kwargs = request.args[:2]
            until = kwargs.get("until") or []
            stops.append([until] if isinstance(until, str) else [stop for stop in until if stop])
            max_tokens = int(next((kwargs[name] for name in LIMITS if name in kwargs), MAX_NEW_TOKENS))
            self._refuse_long(contexts[context], max_tokens)
            bodies.append({"prompt": contexts[context], "max_tokens": max_tokens, **_sampling(kwargs, number)})
            if stops[-1] and self.server.engine["name"] != "transformers":
                bodies[-1]["stop"] = stops[-1]
        texts = complete(self.server, bodies, self.concurrency, self._progress())
        return [_cut(text, until) for text, until in zip(texts, stops, strict=True)]

    def loglikelihood(self, requests: list) -> list[tuple[float, bool]]:
        pairs = self._encode_pairs([request.args[:2] for request in requests])
        for context, continuation in pairs:
            self._refuse_long(context + continuation, 1)
        return self._continuations(pairs)

    def loglikelihood_rolling(self, requests: list) -> list[float]:
        # Two places are left: for the token that goes before a text, and for the one that a server generates after it.
        longest = self.server.max_model_len - 2
        windows, owners = [], []
        for number, ids in enumerate(self._encode([request.args[0] for request in requests], special_tokens=False)):
            for pair in get_rolling_token_windows(ids, self._first_token, longest, 1):
                windows.append(make_disjoint_window(pair))
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, (nats, _) in zip(owners, self._continuations(windows), strict=True):
            sums[owner] += nats
        return sums

    def _continuations(self, pairs: list[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        """Give the log-probability of each continuation after its context, and whether each of its tokens is the likeliest."""
        scored = prompt_logprobs(
            self.server, [context + continuation for context, continuation in pairs], self.concurrency, self._progress(), self.likeliest
        )
        ends = [tokens[-len(continuation) :] for tokens, (_, continuation) in zip(scored, pairs, strict=True)]
        return [(sum(nats for nats, _ in tokens), all(best for _, best in tokens)) for tokens in ends]

    def _encode_pairs(self, pairs: list[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """Cut context and continuation into tokens; a plain continuation is what its context lacks of both together.

        Spaces at the end of a plain context belong to the continuation, as tokenizers see them and as the harness's backends do.
        After a conversation a continuation is the beginning of the answer and is cut by itself; those backends count the line
        break that ends most templates to it, which no model has to say.
        """
        moved = []
        for context, continuation in pairs:
            bare = context if isinstance(context, Conversation) else context.rstrip()
            moved.append((bare, context[len(bare) :] + continuation))
        contexts = self._context_ids([context for context, _ in moved])
        alone = [i for i, (context, _) in enumerate(moved) if isinstance(context, Conversation) or not context]
        together = [i for i in range(len(moved)) if i not in set(alone)]
        whole = dict(zip(alone, self._encode([moved[i][1] for i in alone], special_tokens=False), strict=True))
        whole |= dict(zip(together, self._encode(["".join(moved[i]) for i in together]), strict=True))
        found = []
        for i, (context, continuation) in enumerate(moved):
            before = contexts[context]
            after = whole[i] if isinstance(context, Conversation) or not context else whole[i][len(before) :]
            if not after:
                raise BadInput(f"{self.label}: the continuation {continuation!r:.80} is no token of its own after its context.")
            found.append((before, after))
        return found

    def _context_ids(self, contexts: list[str]) -> dict[str, Ids]:
        """Give the tokens of each context once: the answers of a multiple choice share one."""
        different = [context for context in dict.fromkeys(contexts) if context]
        asked, begun = [], {}
        for context in different:
            prompt = json.loads(context) if isinstance(context, Conversation) else context
            if isinstance(context, Conversation) and prompt[-1]["role"] == "assistant":
                begun[context] = prompt.pop()["content"]  # the task begins the answer itself
            asked.append(prompt)
        found = dict(zip(different, self._encode(asked), strict=True))
        for context, more in zip(begun, self._encode(list(begun.values()), special_tokens=False), strict=True):
            found[context] = found[context] + more
        return found | ({"": [self._first_token]} if "" in contexts else {})

    def _encode(self, prompts: list, special_tokens: bool = True) -> list[Ids]:
        return encode(self.server, prompts, self.concurrency, special_tokens)

    def _progress(self) -> Progress:
        return Progress(self.label, unit="requests")

    @property
    def _first_token(self) -> int:
        """Give the token that goes before a text without context: that which begins texts, else that which ends them."""
        config = json.loads(Path(self.server.model_dir, "config.json").read_text(encoding="utf-8"))
        found = [config[key] for key in ("bos_token_id", "eos_token_id") if config.get(key) is not None]
        if not found:
            raise BadInput(f"{self.label}: the model's config.json has neither bos_token_id nor eos_token_id to go before a text.")
        return found[0][0] if isinstance(found[0], list) else found[0]

    def _refuse_long(self, ids: Ids, max_tokens: int) -> None:
        if len(ids) + max_tokens > self.server.max_model_len:
            raise BadInput(
                f"{self.label}: a prompt has {len(ids)} tokens and its answer may have {max_tokens}, and serve.max_model_len is "
                f"{self.server.max_model_len}. Raise it, or lower num_fewshot."
            )


def _sampling(kwargs: dict, number: int) -> dict:
    """Give the sampling that a task asks for: greedy unless its temperature is above 0; then each request has a seed of its own."""
    temperature = kwargs.get("temperature", 1.0 if kwargs.get("do_sample") else 0.0)
    if kwargs.get("do_sample") is False or not temperature:
        return SAMPLING
    return {"temperature": temperature, "top_p": kwargs.get("top_p", 1.0), "seed": number}


def _cut(text: str, stops: list[str]) -> str:
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
