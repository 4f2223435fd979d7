"""Create a TrainJob or find it, watch it to its end, and clean up."""

import time
from collections.abc import Callable

from tunegate.errors import BadInput, Refused, TunegateError, Unavailable
from tunegate.train_job import pods
from tunegate.train_job.api import JobApi, Silent
from tunegate.train_job.log import Relay
from tunegate.train_job.request import REQUEST_ANNOTATION, RESTARTS_ANNOTATION, JobRequest, manifest

SAY_EVERY_SECONDS = 60.0
POLL_SECONDS = 5.0
# Ends that have one cause: the other nodes may notice a lost one only when a collective times out, by default after 600 s (NCCL in
# torch.distributed).
TOGETHER_SECONDS = 900.0
BURIAL_SECONDS = 300.0  # beyond the grace period, until a deleted job is gone


def run(
    request: JobRequest,
    api,
    say: Callable[[str], None],
    read_error: Callable[[], dict | None] = lambda: None,
    poll_seconds: float = POLL_SECONDS,
    say_every_seconds: float = SAY_EVERY_SECONDS,
) -> None:
    """Run the job to its end, and delete it; see the package's docstring for when it is left running.

    Args:
        api: a kubernetes.client.ApiClient, from `connect`.
        read_error: gives what the job left in the store of its error, {"code", "sentence", …}, or None.

    Raises:
        BadInput, Refused: with the job's own sentence; the cluster refused the job; or it needs more memory.
        Unavailable: it ended otherwise than well and a retry may help.
    """
    job = _Job(request, JobApi(api, request, say), say, read_error, poll_seconds, say_every_seconds)
    try:
        job.follow()
    except (Silent, SystemExit):  # a retry of the component finds the job
        raise
    except BaseException:
        job.delete()
        raise
    job.delete()


class _Job:
    def __init__(self, request, api, say, read_error, poll_seconds, say_every_seconds):
        self.request, self.api, self.read_error = request, api, read_error
        self.poll_seconds, self.say_every_seconds = poll_seconds, say_every_seconds
        self.place = f"{request.namespace}/{request.name}"
        self._say, self.said_at, self.state = say, time.monotonic(), ""
        self.uid, self.restarts = "", 0
        self.relay = Relay(api, self.say)
        self.ends: set[pods.End] = set()

    def say(self, line: str) -> None:
        self._say(line)
        self.said_at = time.monotonic()

    def follow(self) -> None:
        self._start()
        while (failure := self._watch()) is not None:
            self._start_again(failure)
        self.say(f"      TrainJob {self.place} is complete")

    def delete(self) -> None:
        """Delete the job; a failure to do so is said, and hides nothing that happened before."""
        if not self.uid:
            return
        try:
            self.api.delete(self.uid)
        except TunegateError as error:
            self.say(f"      {error} Delete it with: kubectl -n {self.request.namespace} delete trainjob {self.request.name}")

    def _start(self) -> None:
        body = manifest(self.request, self.restarts)
        started = time.monotonic()
        while (made := self.api.create(body)) is None:
            found = self.api.read()
            if found is None:
                continue
            if not found["metadata"].get("deletionTimestamp"):
                annotations = found["metadata"].get("annotations") or {}
                if annotations.get(REQUEST_ANNOTATION) == body["metadata"]["annotations"][REQUEST_ANNOTATION]:
                    self.uid, self.restarts = found["metadata"]["uid"], int(annotations.get(RESTARTS_ANNOTATION) or 0)
                    self.say(f"      TrainJob {self.place} exists already; its log from the beginning:")
                    return
                if REQUEST_ANNOTATION not in annotations:
                    raise Refused(f"There is a TrainJob {self.place} that tunegate did not create. Delete or rename it.")
                self.say(f"      TrainJob {self.place} was asked for something else; it is deleted and created anew")
                self.api.delete(found["metadata"]["uid"])
            self._wait_until_gone(started)
        self.uid = made["metadata"]["uid"]
        asked = f"{self.request.nodes} nodes with {self.request.gpus} x {self.request.gpu_type}"
        self.say(f"      TrainJob {self.place} created: {asked}")

    def _start_again(self, failure: pods.End) -> None:
        self.restarts += 1
        self.say(f"      {failure}: the job starts again from what was saved ({self.restarts} of {self.request.max_restarts} times)")
        self.api.delete(self.uid)
        self.ends, self.state = set(), ""
        self._start()

    def _wait_until_gone(self, started: float) -> None:
        waited = time.monotonic() - started
        if waited > self.request.grace + BURIAL_SECONDS:
            raise Unavailable(
                f"The deleted TrainJob {self.place} is still there after {waited:.0f} s. "
                f"See what holds it: kubectl -n {self.request.namespace} get trainjob {self.request.name} -o yaml"
            )
        self._say_state("deleted", "waiting for the deleted job to be gone")
        time.sleep(self.poll_seconds)

    def _watch(self) -> pods.End | None:
        """Watch until the job is complete (None), or failed in a way that warrants a new start (the end that caused it)."""
        while True:
            job = self.api.read()
            if job is None or job["metadata"]["uid"] != self.uid:
                self.uid = ""
                raise Unavailable(f"The TrainJob {self.place} was deleted by somebody else while it was trained.")
            found = self.api.pods()
            self.relay.relay(found)
            self.ends.update(end for pod in found for end in pods.ends(pod))
            conditions = {c["type"]: c for c in (job.get("status") or {}).get("conditions") or [] if c["status"] == "True"}
            if "Complete" in conditions:
                return None
            hopeless = [end for end in self.ends if end.hopeless]
            if hopeless or "Failed" in conditions:
                return self._failure(hopeless, conditions.get("Failed") or {})
            self._say_state(*self._state(job, found, conditions))
            time.sleep(self.poll_seconds)

    def _failure(self, hopeless: list[pods.End], condition: dict) -> pods.End:
        if condition.get("reason") == "DeadlineExceeded":
            raise Unavailable(f"The TrainJob {self.place} was stopped after {self.request.timeout_hours:g} h, the time it was given.")
        if condition.get("reason") == "TrainingRuntimeNotSupported":
            raise BadInput(f"The cluster has no training runtime {self.request.runtime!r} (resources.runtime): {condition.get('message')}.")
        if hopeless:
            raise self._error(min(hopeless, key=lambda end: end.at))
        if not self.ends:
            raise Unavailable(self._sentence(None) or f"The TrainJob {self.place} failed: {condition.get('message')}.{self._last_line()}")
        cause = self._cause()
        if not cause.interrupted:
            raise self._error(cause)
        if self.restarts >= self.request.max_restarts:
            raise Unavailable(f"The TrainJob {self.place} was interrupted again after {self.restarts} new starts: {cause}.")
        return cause

    def _cause(self) -> pods.End:
        """Give the end that explains the others: a node that was taken away, or the first of those that came together.

        The first, because a job that fails has its other pods stopped, and they save and end with 75. Kubernetes' times are whole
        seconds; of the same second, an interruption.
        """
        last = max(end.at for end in self.ends)
        together = sorted((end for end in self.ends if end.at >= last - TOGETHER_SECONDS), key=lambda end: (end.at, not end.interrupted))
        return next((end for end in together if end.taken_away), together[0])

    def _error(self, end: pods.End) -> TunegateError:
        if end.reason == pods.OUT_OF_MEMORY:
            return BadInput(f"Node {end.node} of {self.place} used more than {self.request.memory_gib:g} GiB. Raise resources.memory_gib.")
        kind = {BadInput.code: BadInput, Refused.code: Refused}.get(end.code, Unavailable)
        return kind(self._sentence(end.code) or f"The TrainJob {self.place} failed: {end}.{self._last_line()}")

    def _sentence(self, code: int | None) -> str:
        """Give the sentence that the job left, if it is about this end: an earlier attempt's may still lie there."""
        error = self.read_error()
        return error["sentence"] if error and code in (error["code"], None) else ""

    def _last_line(self) -> str:
        return f" Its last line: {self.relay.last}" if self.relay.last else ""

    def _state(self, job: dict, found: list[dict], conditions: dict) -> tuple[str, str]:
        """Give the kind of state the job is in, and a sentence about it."""
        if job["spec"].get("suspend") or "Suspended" in conditions:
            reason = self.api.queue_message(self.uid) or "nothing is said about why"
            queue = f"queue {self.request.queue}" if self.request.queue else "suspended"
            return "suspended", f"waiting ({queue}): {reason}"
        if reasons := sorted({reason for pod in found if (reason := pods.waiting(pod))}):
            return "pending " + reasons[0].partition(":")[0], f"waiting ({len(found)} pods of {self.request.nodes}): {reasons[0]}"
        if not found:
            return "no pods", "waiting for the Trainer to start its pods"
        running = sum((pod.get("status") or {}).get("phase") == "Running" for pod in found)
        progress = ((job.get("status") or {}).get("trainerStatus") or {}).get("progressPercentage")
        return "running", f"running on {running} of {self.request.nodes} nodes" + ("" if progress is None else f", {progress} % done")

    def _say_state(self, kind: str, sentence: str) -> None:
        """Say at once that the state is another, and again whenever nothing was said for long."""
        if kind != self.state or time.monotonic() - self.said_at >= self.say_every_seconds:
            self.state = kind
            self.say(f"      TrainJob {self.place}: {sentence}")
