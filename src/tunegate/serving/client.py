"""Ask a served model many things at once: greedy answers, token counts, and the loss on given text."""

import itertools
import logging
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass

import httpx

from tunegate.errors import BadInput, Unavailable
from tunegate.steps import say

logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log a line for each of thousands of requests

TRIES = 4
REQUEST_TIMEOUT_SECONDS = 600  # on two cores sixteen long prompts wait for each other
SAMPLING = {"temperature": 0.0, "top_p": 1.0, "seed": 0}  # greedy; written out, so that no server default applies
CHARACTERS_PER_TOKEN = 16  # more than any tokenizer needs on average; bounds what is sent to be cut at a token count

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    latency_seconds: float  # of this request, waiting for others included


class Progress:
    """Print "label: 120/240 items, 3.1 items/s" at most every ten seconds, and once at the end."""

    def __init__(self, label: str, every_seconds: float = 10, unit: str = "items"):
        self.label, self.every_seconds, self.unit = label, every_seconds, unit
        self.started = self.said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self.said >= self.every_seconds:
            self.said = now
            rate = done / max(now - self.started, 1e-9)
            say(f"      {self.label}: {done}/{total} {self.unit}, {rate:.1f} {self.unit}/s")


def chat(
    server, list_of_messages: list[list[dict]], max_new_tokens: int, concurrency: int = 16, on_progress: OnProgress | None = None,
    sampling: dict = SAMPLING,
) -> list[Answer]:  # fmt: skip
    """Answer every conversation, greedily unless `sampling` says otherwise, in the order given."""

    def ask(connection: httpx.Client, numbered: tuple[int, list[dict]]) -> Answer:
        started = time.monotonic()
        number, messages = numbered
        body = {"model": server.name, "messages": messages, "max_tokens": max_new_tokens, **_own_seed(sampling, number)}
        reply = _post(server, connection, "/v1/chat/completions", body)
        choice, usage = reply["choices"][0], reply["usage"]
        return Answer(
            choice["message"]["content"] or "", choice["finish_reason"] or "", usage["prompt_tokens"],
            usage["completion_tokens"], time.monotonic() - started,
        )  # fmt: skip

    return _each(ask, list(enumerate(list_of_messages)), concurrency, on_progress)


def continue_texts(
    server, openings: list[str], max_new_tokens: int, concurrency: int = 16, on_progress: OnProgress | None = None,
    sampling: dict = SAMPLING,
) -> list[str]:  # fmt: skip
    """Let the model write on from each opening, without a chat template; give only what it wrote."""

    def write(connection: httpx.Client, numbered: tuple[int, str]) -> str:
        number, opening = numbered
        body = {"model": server.name, "prompt": opening, "max_tokens": max_new_tokens, **_own_seed(sampling, number)}
        return _post(server, connection, "/v1/completions", body)["choices"][0]["text"]

    return _each(write, list(enumerate(openings)), concurrency, on_progress)


def _own_seed(sampling: dict, number: int) -> dict:
    """Give each sampled request a seed of its own: with one seed for all, every sample would draw the same noise."""
    return {**sampling, "seed": sampling["seed"] + number} if sampling["temperature"] > 0 else sampling


def count_tokens(server, list_of_messages: list[list[dict]], concurrency: int = 16) -> list[int]:
    """Count the prompt tokens of each conversation after the server's own chat template."""

    def count(connection: httpx.Client, messages: list[dict]) -> int:
        return _post(server, connection, "/tokenize", {"model": server.name, "messages": messages})["count"]

    return _each(count, list_of_messages, concurrency, None)


def encode(server, prompts: list[str | list[dict]], concurrency: int = 16, special_tokens: bool = True) -> list[list[int]]:
    """Give the token ids of texts, and of conversations after the server's own chat template.

    Args:
        special_tokens: put before a text what the tokenizer puts before texts; a chat template brings its own.
    """

    def tokens(connection: httpx.Client, prompt: str | list[dict]) -> list[int]:
        given = {"prompt": prompt, "add_special_tokens": special_tokens} if isinstance(prompt, str) else {"messages": prompt}
        return _post(server, connection, "/tokenize", {"model": server.name, **given})["tokens"]

    return _each(tokens, prompts, concurrency, None)


def complete(server, requests: list[dict], concurrency: int = 16, on_progress: OnProgress | None = None) -> list[str]:
    """Give what the model writes on from each prompt; a request is the body of /v1/completions without the model's name."""

    def write(connection: httpx.Client, request: dict) -> str:
        return _post(server, connection, "/v1/completions", {"model": server.name, **request})["choices"][0]["text"]

    return _each(write, requests, concurrency, on_progress)


def prompt_logprobs(
    server, prompts: list[list[int]], concurrency: int = 16, on_progress: OnProgress | None = None, likeliest: bool = False
) -> list[list[tuple[float, bool]]]:
    """Give for each token of a prompt but the first its log-probability, and whether the model finds no other likelier.

    Args:
        likeliest: without it the second is always False: asking a server for the likeliest tokens costs time.
    """

    def score(connection: httpx.Client, ids: list[int]) -> list[tuple[float, bool]]:
        body = {"model": server.name, "prompt": ids, "max_tokens": 1, "echo": True, "logprobs": int(likeliest), **SAMPLING}
        found = _post(server, connection, "/v1/completions", body)["choices"][0]["logprobs"]
        logprobs = found["token_logprobs"][1 : len(ids)]
        if not likeliest:
            return [(logprob, False) for logprob in logprobs]
        best = [max(top.values()) for top in found["top_logprobs"][1 : len(ids)]]
        return [(logprob, logprob >= most) for logprob, most in zip(logprobs, best, strict=True)]

    return _each(score, prompts, concurrency, on_progress)


def token_losses(
    server, texts: list[str], max_tokens: int, concurrency: int = 8, on_progress: OnProgress | None = None
) -> list[tuple[float, int]]:
    """Give for each text its mean loss in nats per token and the number of tokens it was taken over.

    A text is cut to `max_tokens` tokens by the server's tokenizer. The first token has nothing before it and is not counted.

    Raises:
        BadInput: a text has fewer than two tokens.
    """
    # One place of the context is left for the token that is generated and thrown away.
    keep = min(max_tokens, server.max_model_len - 1)

    def loss(connection: httpx.Client, text: str) -> tuple[float, int]:
        given = {"model": server.name, "prompt": text[: keep * CHARACTERS_PER_TOKEN]}
        ids = _post(server, connection, "/tokenize", given)["tokens"][:keep]
        if len(ids) < 2:
            raise BadInput(f"A general text has fewer than two tokens, so it has no loss: {text[:80]!r}. Remove it.")
        # echo with max_tokens 1, as lm-evaluation-harness asks: the last log-probability is the generated token's. No
        # alternatives (logprobs 0): on a CPU vLLM took nearly five times as long with one.
        body = {"model": server.name, "prompt": ids, "max_tokens": 1, "echo": True, "logprobs": 0, **SAMPLING}
        logprobs = _post(server, connection, "/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"]
        counted = logprobs[1 : len(ids)]
        return -sum(counted) / len(counted), len(counted)

    return _each(loss, texts, concurrency, on_progress)


def _each(ask: Callable, things: list, concurrency: int, on_progress: OnProgress | None) -> list:
    """Call `ask(connection, thing)` for all things, `concurrency` at a time; the first error stops the rest."""
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    with (
        httpx.Client(timeout=httpx.Timeout(REQUEST_TIMEOUT_SECONDS, connect=10), limits=limits, trust_env=False) as connection,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        futures = [pool.submit(ask, connection, thing) for thing in things]
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=2, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                if on_progress:
                    on_progress(len(futures) - len(waiting), len(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _post(server, connection: httpx.Client, path: str, body: dict) -> dict:
    for attempt in itertools.count(1):
        try:
            reply = connection.post(server.url + path, json=body)
        except httpx.TransportError as error:
            server.check()
            if attempt == TRIES or isinstance(error, httpx.ReadTimeout):
                raise Unavailable(f"{server.url}{path} did not answer: {type(error).__name__} {error}. Look at {server.log}.") from None
        else:
            if reply.status_code == 200:
                return reply.json()
            if 400 <= reply.status_code < 500 and reply.status_code != 429:
                raise BadInput(f"The server refused a request to {path}: {_sentence(reply)}")
            if attempt == TRIES:
                raise Unavailable(f"{server.url}{path} failed with HTTP {reply.status_code}: {_sentence(reply)}")
        time.sleep(0.2 * 2**attempt)


def _sentence(reply: httpx.Response) -> str:
    try:
        document = reply.json()
        return str(document.get("error", document).get("message", document))[:500]
    except (ValueError, AttributeError):
        return reply.text[:500]
