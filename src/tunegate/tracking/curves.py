"""Send curves to MLflow from a thread of its own, so that training never waits for a server that is slow, hangs or is gone.

Every point lies in a spool on the local disk first (see spool.py). Sending is at least once: the spool's position moves on
only after MLflow has acknowledged. In effect it is exactly once, for two reasons: MLflow's SQL store identifies a row by
(run, metric, timestamp, step, value) and ignores its repetition, and a point keeps the timestamp of its logging; and before
a process sends its first point of a metric, it asks which steps of it MLflow has, and leaves those out. So a training that
resumes from a checkpoint, and computes some steps again, still gives one point a step: the first.

Not covered: on a cluster, the spool of a pod that is gone is gone with its disk. What MLflow has stays, and log_history
fills the gap up to the checkpoint from the trainer's own log. A server that keeps runs in files knows no identity of rows.
"""

import random
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue

from tunegate.tracking.spool import SUFFIX, Point, Spool

SEND_SECONDS = 10.0  # curves reach MLflow this often
SEND_POINTS = 500  # in one batch; MLflow takes 1,000
MAX_PAUSE_SECONDS = 60.0  # between attempts while MLflow does not answer; arbitrary
FLUSH_SECONDS = 20.0  # at the end of a step; arbitrary


class Curves:
    """The curves of one pipeline run on their way to MLflow: those this process logs, and what earlier processes left."""

    def __init__(self, tracker, directory: Path):
        self.tracker, self.directory = tracker, directory
        self._spools: dict[str, Spool] = {}
        self._requests: SimpleQueue[Future] = SimpleQueue()
        self._known: dict[tuple[str, str], set[int]] = {}  # (MLflow run, metric) -> steps it had when we first asked
        self._thread: threading.Thread | None = None

    def add(self, step_name: str, rows: Iterable[tuple[int, dict[str, float]]]) -> None:
        """Keep points, to be sent within SEND_SECONDS; the caller waits for the local disk alone."""
        if step_name not in self._spools:
            self._spools[step_name] = Spool(self.directory / (step_name + SUFFIX))
        self._spools[step_name].append(rows)
        self._start()

    def flush(self) -> None:
        """Send everything now.

        Waits FLUSH_SECONDS at most; what is not sent by then stays in the spool. A process that has logged points itself
        tries again while time is left, since its disk may go when it ends; another one takes the first no for an answer.

        Raises:
            Exception: whatever MLflow or the network said last.
        """
        if all(spool.is_sent() for spool in self._all()):
            return
        deadline, pause = time.monotonic() + FLUSH_SECONDS, 1.0
        self._start()
        while True:
            request = Future()
            self._requests.put(request)
            try:
                error = request.exception(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise TimeoutError(f"no answer within {FLUSH_SECONDS:.0f} s") from None
            if error is None:
                return
            if not self._spools or time.monotonic() + pause >= deadline:
                raise error
            time.sleep(pause)
            pause *= 2

    def _all(self) -> list[Spool]:
        return [Spool(path) for path in sorted(self.directory.glob("*" + SUFFIX))]

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="mlflow-curves", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        failures = 0
        while True:
            # Exponential backoff with jitter: the trainings that a restarting server cut off do not all come back at once.
            pause = min(MAX_PAUSE_SECONDS, SEND_SECONDS * 2**failures) * random.uniform(0.5, 1.0) if failures else SEND_SECONDS
            try:
                request = self._requests.get(timeout=pause)
            except Empty:
                request = None
            error = None
            try:
                for spool in self._all():
                    self._send(spool)
                failures = 0
            except Exception as caught:  # whatever MLflow, SQLAlchemy or the network raise
                error = caught
                failures = min(failures + 1, 10)
                self.tracker.forget()  # the server may come back with another database
                self.tracker.warn(error)
            if request is not None:
                request.set_exception(error) if error else request.set_result(None)

    def _send(self, spool: Spool) -> None:
        while True:
            points, end = spool.unsent(SEND_POINTS)
            if end == spool.sent:
                return
            if points:
                run = self.tracker.step(spool.path.stem, points[0].timestamp / 1000)
                self._log(run, [point for point in points if point.step not in self._had(run, point.key)])
            spool.acknowledge(end)

    def _had(self, run: str, key: str) -> set[int]:
        if (run, key) not in self._known:
            self._known[run, key] = {metric.step for metric in self.tracker.client.get_metric_history(run, key)}
        return self._known[run, key]

    def _log(self, run: str, points: list[Point]) -> None:
        """Send one batch; leave out the points that MLflow will never take, such as those of a name it does not allow."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        if not points:
            return
        try:
            self.tracker.client.log_batch(run, metrics=[Metric(*point) for point in points])
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            if len(points) == 1:
                self.tracker.warn(error)
                return
            half = len(points) // 2
            self._log(run, points[:half])
            self._log(run, points[half:])
