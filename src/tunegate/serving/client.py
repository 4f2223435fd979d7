"""Ask a served model many things at once: greedy answers, token counts, and the loss on given text."""

import itertools
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass

import httpx

from tunegate.errors import BadInput, Unavailable
from tunegate.prompts import as_sent
from tunegate.steps import say

logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log a line for each of thousands of requests

TRIES = 4
REQUEST_TIMEOUT_SECONDS = 1800  # on two cores a hundred long answers wait for each other
SAMPLING = {"temperature": 0.0, "top_p": 1.0, "seed": 0}  # greedy; written out, so that no server default applies
CHARACTERS_PER_TOKEN = 16  # more than any tokenizer needs on average; bounds what is sent to be cut at a token count

Tools = list[list | None] | None  # of each conversation, in OpenAI's form
OnProgress = Callable[[int, int], None]
OnResult = Callable[[int, object], None]  # the place of a thing in the list, and what came of it


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
    sampling: dict = SAMPLING, on_result: OnResult | None = None, tools: Tools = None,
) -> list[Answer]:  # fmt: skip
    """Answer every conversation, greedily unless `sampling` says otherwise, in the order given.

    Args:
        tools: what each conversation offers; the server shows them to the model, and gives the text of an answer as it is.
    """

    def ask(connection: httpx.Client, numbered: tuple[int, list[dict]]) -> Answer:
        started = time.monotonic()
        number, asked = numbered
        body = _request(server, *asked) | {"max_tokens": max_new_tokens, **_own_seed(sampling, number)}
        reply = _post(server, connection, "/v1/chat/completions", body)
        choice, usage = reply["choices"][0], reply["usage"]
        return Answer(
            choice["message"]["content"] or "", choice["finish_reason"] or "", usage["prompt_tokens"],
            usage["completion_tokens"], time.monotonic() - started,
        )  # fmt: skip

    return _each(ask, list(enumerate(_with_tools(list_of_messages, tools))), concurrency, on_progress, on_result)


def _with_tools(list_of_messages: list[list[dict]], tools: Tools) -> list[tuple[list[dict], list | None]]:
    return list(zip(list_of_messages, tools or [None] * len(list_of_messages), strict=True))


def _request(server, messages: list[dict], tools: list | None) -> dict:
    """Ask for an answer. What marks a call may be special tokens, which a server leaves out of the text unless it is told."""
    return _conversation(server, messages, tools) | ({"skip_special_tokens": False} if tools else {})


def _conversation(server, messages: list[dict], tools: list | None) -> dict:
    """Say what every request about a conversation says. With tool_choice none the calls in an answer stay text."""
    return {"model": server.name, "messages": as_sent(messages)} | ({"tools": tools, "tool_choice": "none"} if tools else {})


def time_answers(
    server, list_of_messages: list[list[dict]], max_new_tokens: int, concurrency: int, on_result: OnResult | None = None,
    tools: Tools = None,
) -> list[float]:  # fmt: skip
    """Give for each conversation the seconds from the request to the first token of its answer, by streaming it."""

    def wait_for_first(connection: httpx.Client, asked: tuple) -> float:
        body = _request(server, *asked) | {"max_tokens": max_new_tokens, "stream": True, **SAMPLING}
        started, first = time.monotonic(), None
        with connection.stream("POST", server.url + "/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                reply.read()
                raise BadInput(f"The server refused to stream an answer: {_sentence(reply)}")
            for line in reply.iter_lines():
                if first is None and line.startswith("data: {") and _says_something(json.loads(line.removeprefix("data: "))):
                    first = time.monotonic() - started
        return first if first is not None else time.monotonic() - started  # an empty answer is known at its end

    return _each(wait_for_first, _with_tools(list_of_messages, tools), concurrency, None, on_result)


def _says_something(piece: dict) -> bool:
    return any(choice["delta"].get("content") for choice in piece.get("choices", ()))


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


def count_tokens(server, list_of_messages: list[list[dict]], concurrency: int = 16, tools: Tools = None) -> list[int]:
    """Count the prompt tokens of each conversation after the server's own chat template."""
    return [len(ids) for ids in prompt_ids(server, list_of_messages, concurrency, tools)]


def prompt_ids(server, list_of_messages: list[list[dict]], concurrency: int = 16, tools: Tools = None) -> list[list[int]]:
    """Give the token ids of each conversation after the server's own chat template."""

    def ids(connection: httpx.Client, asked: tuple) -> list[int]:
        return _post(server, connection, "/tokenize", _conversation(server, *asked))["tokens"]

    return _each(ids, _with_tools(list_of_messages, tools), concurrency, None)


def answer_losses(
    server, prompts: list[list[int]], answers: list[str], concurrency: int = 8, on_progress: OnProgress | None = None,
    on_result: OnResult | None = None,
) -> list[float]:  # fmt: skip
    """Give for each answer its mean loss in nats per token after the ids of its prompt.

    Raises:
        BadInput: an answer has no token, or leaves no room in the context.
    """

    def loss(connection: httpx.Client, asked: tuple[list[int], str]) -> float:
        prompt, answer = asked
        ids = _post(server, connection, "/tokenize", {"model": server.name, "prompt": answer, "add_special_tokens": False})["tokens"]
        if not ids or len(prompt) + len(ids) >= server.max_model_len:
            raise BadInput(f"An expected answer has {len(ids)} tokens after a prompt of {len(prompt)}, so it has no loss: {answer[:80]!r}.")
        body = {"model": server.name, "prompt": [*prompt, *ids], "max_tokens": 1, "echo": True, "logprobs": 0, **SAMPLING}
        logprobs = _post(server, connection, "/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"]
        counted = logprobs[len(prompt) : len(prompt) + len(ids)]
        return -sum(counted) / len(counted)

    return _each(loss, list(zip(prompts, answers, strict=True)), concurrency, on_progress, on_result)


def encode(server, texts: list[str], concurrency: int = 16, special_tokens: bool = True) -> list[list[int]]:
    """Give the token ids of texts, with what the tokenizer puts before a text unless told not to."""

    def ids(connection: httpx.Client, text: str) -> list[int]:
        body = {"model": server.name, "prompt": text, "add_special_tokens": special_tokens}
        return _post(server, connection, "/tokenize", body)["tokens"]

    return _each(ids, texts, concurrency, None)


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
    server, texts: list[str], max_tokens: int, concurrency: int = 8, on_progress: OnProgress | None = None,
    on_result: OnResult | None = None,
) -> list[tuple[float, int]]:  # fmt: skip
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

    return _each(loss, texts, concurrency, on_progress, on_result)


def _each(ask: Callable, things: list, concurrency: int, on_progress: OnProgress | None, on_result: OnResult | None = None) -> list:
    """Call `ask(connection, thing)` for all things, `concurrency` at a time; the first error stops the rest."""
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    with (
        httpx.Client(timeout=httpx.Timeout(REQUEST_TIMEOUT_SECONDS, connect=10), limits=limits, trust_env=False) as connection,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        futures = [pool.submit(ask, connection, thing) for thing in things]
        places = {future: place for place, future in enumerate(futures)}
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=2, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    if on_result:
                        on_result(places[future], result)
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
