"""Keep what a served model answered as it comes, so that an interrupted evaluation goes on where it was and no arm is asked twice.

Answers lie in the store under `answers/<key>/<number>.json`, a part every FLUSH_SECONDS. The key covers all that an answer
depends on: the model's digest, the engine, the sampling and every prompt. So the same arm on the same items is found again in
another run, and with it the times that were measured then.
"""

import time
from collections.abc import Callable
from itertools import count

from tunegate import digests
from tunegate.steps import say
from tunegate.store import Store

Work = Callable[[list[int], Callable[[int, object], None]], None]

FLUSH_SECONDS = 15.0  # so much work is lost at most; arbitrary


def resume(store: Store | None, about: dict, wanted: int, work: Work, label: str) -> list:
    """Give `wanted` results: those the store has from an earlier try, the rest from `work`.

    Args:
        store: None keeps nothing.
        about: all that the results depend on, as JSON.
        work: called with the numbers that are missing and a function keep(number, result); a result is JSON.
        label: what is measured, for people.
    """
    kept = Kept(store, digests.digest_json(about))
    missing = [number for number in range(wanted) if number not in kept.results]
    if store is not None and len(missing) < wanted:
        say(f"      {label}: {wanted - len(missing)} of {wanted} answers are in the store already")
    if missing:
        try:
            work(missing, kept.keep)
        finally:
            kept.flush()
    return [kept.results[number] for number in range(wanted)]


class Kept:
    """The results under one key, and those not yet written."""

    def __init__(self, store: Store | None, key: str):
        self.store, self.folder = store, f"answers/{key}"
        self.results: dict[int, object] = {}
        self.new: dict[int, object] = {}
        self.parts, self.flushed = 0, time.monotonic()
        for part in count() if store is not None else ():
            document = store.read_json(self._path(part))
            if document is None:
                break
            self.results |= {int(number): result for number, result in document.items()}
            self.parts = part + 1

    def keep(self, number: int, result) -> None:
        self.results[number] = self.new[number] = result
        if time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.new and self.store is not None:
            self.store.write_json(self._path(self.parts), {str(number): result for number, result in self.new.items()})
            self.parts += 1
        self.new, self.flushed = {}, time.monotonic()

    def _path(self, part: int) -> str:
        return f"{self.folder}/{part}.json"
