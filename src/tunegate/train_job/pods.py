"""What the pods of a job say: why they wait, how they ended. All of it read from the objects as the API gives them."""

from dataclasses import dataclass
from datetime import datetime

from tunegate.train_job.request import NODE

SAVED = 75  # EX_TEMPFAIL of sysexits.h: the work is saved, start me again
HOPELESS = (2, 3)  # of BadInput and Refused
KILLED = (137, 143)  # by SIGKILL and SIGTERM
OUT_OF_MEMORY = "OOMKilled"
INDEX = "batch.kubernetes.io/job-completion-index"
SCHEDULED = "PodScheduled"


@dataclass(frozen=True)
class End:
    """How a container, or a pod as a whole (`code` is None), ended."""

    node: int
    code: int | None
    reason: str
    at: float  # seconds since the epoch

    @property
    def hopeless(self) -> bool:
        return self.code in HOPELESS or self.reason == OUT_OF_MEMORY

    @property
    def interrupted(self) -> bool:
        return self.taken_away or (not self.hopeless and (self.code == SAVED or self.code in KILLED))

    @property
    def taken_away(self) -> bool:
        return self.code is None

    def __str__(self) -> str:
        if self.code is None:
            return f"node {self.node} was taken away ({self.reason})"
        said = {SAVED: " (saved, to be started again)", 137: " (killed)", 143: " (stopped)"}.get(self.code, "")
        return f"node {self.node} ended with exit code {self.code}{said}"


def node_of(pod: dict) -> int:
    """Give the pod's number among the nodes; -1 where it has none."""
    metadata = pod["metadata"]
    found = (metadata.get("annotations") or {}).get(INDEX) or (metadata.get("labels") or {}).get(INDEX)
    return -1 if found is None else int(found)


def container_of(pod: dict) -> dict:
    """Give the status of the container that trains; empty before there is one."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return next((status for status in statuses if status["name"] == NODE), {})


def ends(pod: dict) -> list[End]:
    """List the failures that the pod still shows: the container's last and present end, and the pod's eviction."""
    found, node, status, container = [], node_of(pod), pod.get("status") or {}, container_of(pod)
    for state in (container.get("lastState") or {}, container.get("state") or {}):
        end = state.get("terminated")
        if end and end["exitCode"] != 0:
            found.append(End(node, end["exitCode"], end.get("reason") or "", _seconds(end.get("finishedAt"))))
    for condition in _conditions(pod):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            found.append(End(node, None, condition.get("reason") or "disruption", _seconds(condition.get("lastTransitionTime"))))
    if status.get("reason") in ("Evicted", "NodeLost", "NodeShutdown", "Terminated", "Shutdown", "Preempting"):
        at = pod["metadata"].get("deletionTimestamp") or status.get("startTime")
        found.append(End(node, None, status["reason"], _seconds(at)))
    return found


def waiting(pod: dict) -> str:
    """Say why a pod does not run; empty when it does, or did."""
    status = pod.get("status") or {}
    if status.get("phase") != "Pending":
        return ""
    for condition in _conditions(pod):
        if condition["type"] == SCHEDULED and condition["status"] == "False":
            return f"{condition.get('reason') or 'not scheduled'}: {condition.get('message') or 'no reason given'}"
    state = (container_of(pod).get("state") or {}).get("waiting") or {}
    if state.get("message"):
        return f"{state['reason']}: {state['message']}"
    return state.get("reason") or "its container is being created"


def _conditions(pod: dict) -> list[dict]:
    return (pod.get("status") or {}).get("conditions") or []


def _seconds(moment: str | None) -> float:
    return datetime.fromisoformat(moment).timestamp() if moment else 0.0
