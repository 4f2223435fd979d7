"""Keep the points of a step's curves in a file until MLflow has them.

One line a call, {"step", "time", "metrics"}, the time fixed when the point is logged; beside the file, how many of its bytes
MLflow has acknowledged. A process that is killed leaves both, and the next one goes on from there.
Not covered: a power cut may take the last lines, since nothing waits for the disk.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tunegate.digests import write_atomic

SUFFIX = ".jsonl"


class Point(NamedTuple):
    """In the order that mlflow.entities.Metric takes."""

    key: str
    value: float
    timestamp: int  # milliseconds since 1970
    step: int


class Spool:
    """The points of one step of one pipeline run. One process appends at a time; any may read and acknowledge."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, rows: Iterable[tuple[int, dict[str, float]]]) -> None:
        """Add (training step, {metric: value}) rows; a metric that has a point at that step already keeps it."""
        now, lines = int(time.time() * 1000), []
        for step, metrics in rows:
            new = {key: value for key, value in metrics.items() if step not in self._seen[key]}
            if new:
                lines.append(json.dumps({"step": step, "time": now, "metrics": new}).encode() + b"\n")
                for key in new:
                    self._seen[key].add(step)
        if lines:
            self._file.write(b"".join(lines))

    def unsent(self, limit: int) -> tuple[list[Point], int]:
        """Give the next points that MLflow has not acknowledged, `limit` or a few more, and the position after them."""
        points, end = [], self.sent
        with open(self.path, "rb") as file:
            file.seek(end)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # being written, or cut off when its writer was killed
                end += len(line)
                points.extend(_points(line))
                if len(points) >= limit:
                    break
        return points, end

    @property
    def sent(self) -> int:
        """How many bytes of the file MLflow has acknowledged."""
        try:
            return int(self._position.read_text())
        except FileNotFoundError:
            return 0

    def acknowledge(self, end: int) -> None:
        write_atomic(self._position, str(end))

    def is_sent(self) -> bool:
        return self.path.stat().st_size <= self.sent

    @property
    def _position(self) -> Path:
        return self.path.with_suffix(".sent")

    @cached_property
    def _file(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return open(self.path, "ab", buffering=0)  # unbuffered: what a killed process logged is in the file

    @cached_property
    def _seen(self) -> dict[str, set[int]]:
        """The training steps that each metric has a point at, from what earlier processes left."""
        seen, whole = defaultdict(set), 0
        try:
            with open(self.path, "r+b") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        whole += len(line)
                        for point in _points(line):
                            seen[point.key].add(point.step)
                file.truncate(whole)  # the line that a killed process did not finish
        except FileNotFoundError:
            pass
        return seen


def _points(line: bytes) -> Iterator[Point]:
    try:
        row = json.loads(line)
    except ValueError:
        return  # two halves of lines, from a disk that was full for a while
    for key, value in row["metrics"].items():
        yield Point(key, value, row["time"], row["step"])
