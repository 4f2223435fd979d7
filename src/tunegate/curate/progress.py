"""Say how far a long scoring has come, also while one batch takes minutes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SAY_SECONDS = 8.0


@dataclass
class Progress:
    label: str
    total: int
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        return f"      {self.label}: {self.done:,}/{self.total:,} rows, {rate:.1f} rows/s"


@contextmanager
def saying(label: str, total: int, say: Callable[[str], None]) -> Iterator[Progress]:
    """Say a line every SAY_SECONDS from a thread of its own, and one at the end; the body counts up `done`."""
    progress = Progress(label, total)
    over = threading.Event()

    def tell() -> None:
        while not over.wait(SAY_SECONDS):
            say(progress.line())

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        over.set()
        thread.join()
        say(progress.line())
