"""Measure how much memory a run takes with all its child processes, as far as looking once a second can see."""

import contextlib
import threading
from collections.abc import Iterator

import psutil

EVERY_SECONDS = 1.0


class PeakMemory:
    """`bytes` is the largest sum of resident memory so far; pages that processes share are counted once for each of them."""

    def __init__(self):
        self.bytes = 0
        self._own = psutil.Process()
        self._over = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator["PeakMemory"]:
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._now())
            if self._over.wait(EVERY_SECONDS):
                return

    def _now(self) -> int:
        total = 0
        for process in (self._own, *self._own.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it ended between the two calls
                total += process.memory_info().rss
        return total
