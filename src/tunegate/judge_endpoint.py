"""Ask a language model behind an OpenAI-compatible endpoint to judge, and read its answer. Optional wherever it is used.

It is asked at temperature 0. The key comes from the environment and is in no line, file or error.
"""

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx

from tunegate.errors import BadInput, Unavailable
from tunegate.recipe import Endpoint

logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log a line for each request

KEY = "TUNEGATE_JUDGE_KEY"
TRIES = 6
WAIT_SECONDS = 0.5  # before the second try, and twice as long before each further one: 15 s in all
REQUEST_TIMEOUT_SECONDS = 120
MAX_TOKENS = 512  # of a reply: a verdict and a sentence take fifty; arbitrary

Read = TypeVar("Read")


@dataclass(frozen=True)
class Judge:
    """A judge that can be asked. `where` is what the recipe calls it, for the sentence of an error."""

    settings: Endpoint
    connection: httpx.Client
    where: str

    def ask(self, messages: list[dict], read: Callable[[str], Read | None], again: str) -> Read | None:
        """Ask, and where `read` makes nothing of the reply, ask once more with `again`; None when that fails too.

        Raises:
            BadInput: the endpoint refuses the request (key, model or address), or does not speak OpenAI's protocol.
            Unavailable: it does not answer.
        """
        reply = self._reply(messages)
        found = read(reply)
        if found is None:
            # At temperature 0 the same question would get the same reply.
            more = [{"role": "assistant", "content": reply}, {"role": "user", "content": again}]
            found = read(self._reply([*messages, *more]))
        return found

    def _reply(self, messages: list[dict]) -> str:
        body = {"model": self.settings.model, "messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS}
        url = f"{self.settings.url.rstrip('/')}/chat/completions"
        reply = self._post(url, body)
        try:
            return reply.json()["choices"][0]["message"]["content"] or ""
        except (ValueError, LookupError, TypeError):
            raise BadInput(f"{url} does not reply as OpenAI's chat completions do: {_start(reply)}. Correct the judge's url.") from None

    def _post(self, url: str, body: dict) -> httpx.Response:
        for attempt in itertools.count(1):
            wait = WAIT_SECONDS * 2 ** (attempt - 1)
            try:
                reply = self.connection.post(url, json=body)
            except httpx.TransportError as error:
                wrong = f"did not answer: {type(error).__name__} {error}"
            else:
                if reply.status_code == 200:
                    return reply
                wrong = f"replied with HTTP {reply.status_code}: {_start(reply)}"
                if reply.status_code not in (408, 429) and reply.status_code < 500:
                    raise BadInput(f"The judge at {url} {wrong}. Look at {self.where} and at {KEY}.")
                if reply.headers.get("retry-after", "").isdigit():
                    wait = min(int(reply.headers["retry-after"]), REQUEST_TIMEOUT_SECONDS)
            if attempt == TRIES:
                raise Unavailable(f"The judge at {url} {wrong}. It was asked {TRIES} times. Look at {self.where}.")
            time.sleep(wait)


@contextmanager
def connect(settings: Endpoint, where: str) -> Iterator[Judge]:
    headers = {"Authorization": f"Bearer {os.environ[KEY]}"} if os.environ.get(KEY) else {}
    limits = httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency)
    with httpx.Client(timeout=REQUEST_TIMEOUT_SECONDS, limits=limits, headers=headers) as connection:
        yield Judge(settings, connection, where)


def ask_all(
    settings: Endpoint, where: str, conversations: list[list[dict]], read: Callable[[str], Read | None], again: str,
    on_progress: Callable[[int, int], None],
) -> list[Read | None]:  # fmt: skip
    """Ask the judge about every conversation, in the order given; the first error stops the rest."""
    with connect(settings, where) as judge, ThreadPoolExecutor(settings.concurrency) as pool:
        futures = [pool.submit(judge.ask, messages, read, again) for messages in conversations]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                on_progress(done, len(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _start(reply: httpx.Response) -> str:
    """Quote a reply, without the key: some servers repeat it when it is wrong."""
    text = " ".join(reply.text.split())
    if key := os.environ.get(KEY):
        text = text.replace(key, "…")
    return text[:300]
