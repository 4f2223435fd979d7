"""Relay the log of the first node's pods, every line once.

The log is read again every few seconds, from a little before the last read. What was said already is known by the timestamps that
the kubelet puts before the lines; lines of the very same nanosecond are counted. A new pod starts a new log, with the clock of its
own node.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tunegate.train_job import pods
from tunegate.train_job.api import JobApi

OVERLAP_SECONDS = 60  # read again each time, for the difference of two clocks' speed and a request that took long; arbitrary


@dataclass
class Cursor:
    """How far the log of one pod has been said."""

    moment: tuple[int, int] = (0, 0)  # seconds, nanoseconds
    at_moment: int = 0  # lines said with exactly this timestamp
    read_at: float | None = None  # by our own clock
    restarts: int = 0

    def new_lines(self, text: str, ended: bool) -> list[str]:
        """Give the lines of `text` that were not given before; a last line without its end waits, unless the container ended."""
        if not ended:
            text = text[: text.rfind("\n") + 1]
        lines, seen = [], 0
        for line in text.split("\n"):
            stamp, _, message = line.partition(" ")
            moment = _moment(stamp)
            if moment is None or moment < self.moment:  # without a timestamp: the kubelet's own remark
                continue
            if moment == self.moment:
                seen += 1
                if seen <= self.at_moment:
                    continue
                self.at_moment = seen
            else:
                self.moment, self.at_moment, seen = moment, 1, 1
            lines.append(message)
        return lines


class Relay:
    """Say what the first node prints. `last` is its latest line that is not empty."""

    def __init__(self, api: JobApi, say: Callable[[str], None]):
        self.api, self.say, self.last = api, say, ""
        self.cursors: dict[str, Cursor] = {}

    def relay(self, found: list[dict]) -> int:
        """Say the new lines of these pods, and give their number."""
        return sum(self._relay(pod) for pod in found if pods.node_of(pod) == 0 and not pods.waiting(pod))

    def _relay(self, pod: dict) -> int:
        cursor = self.cursors.setdefault(pod["metadata"]["uid"], Cursor())
        container, now = pods.container_of(pod), time.monotonic()
        since = None if cursor.read_at is None else int(now - cursor.read_at) + OVERLAP_SECONDS
        lines, name = [], pod["metadata"]["name"]
        if container.get("restartCount", 0) > cursor.restarts:
            cursor.restarts = container["restartCount"]
            lines = cursor.new_lines(self.api.log(name, since, previous=True), ended=True)
        ended = "terminated" in (container.get("state") or {})
        lines += cursor.new_lines(self.api.log(name, since), ended)
        cursor.read_at = now
        for line in lines:
            self.say(line)
            self.last = line.strip() or self.last
        return len(lines)


def _moment(stamp: str) -> tuple[int, int] | None:
    """Read a timestamp of RFC 3339 with up to nine digits after the point, more than datetime holds."""
    whole, point, rest = stamp.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    try:
        moment = datetime.fromisoformat(whole + rest[len(digits) :] if point else stamp)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return int(moment.timestamp()), int(digits.ljust(9, "0") or 0)
