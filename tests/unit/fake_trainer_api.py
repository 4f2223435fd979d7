"""A Kubernetes API server with the few routes that watching a TrainJob uses, on a real socket.

What the Trainer and the kubelets do is a script: at each time the job is read, the next entry of `story` is called. Thus a test
says what happens in which order, and none depends on how fast it is polled. `troubles` are answered in place of the first requests
that match.
"""

import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

JOBS = re.compile(r"/apis/trainer\.kubeflow\.org/v1alpha1/namespaces/([^/]+)/trainjobs(?:/([^/]+))?$")
PODS = re.compile(r"/api/v1/namespaces/([^/]+)/pods(?:/([^/]+)/log)?$")
WORKLOADS = re.compile(r"/apis/kueue\.x-k8s\.io/v1beta2/namespaces/([^/]+)/workloads$")
RESET = "reset"


def validate(body: dict) -> None:
    """Hold a TrainJob against the models that are generated from the API, and rules of its webhook that they do not express.

    The models ignore what they do not know, so what comes back must be all that went in.
    """
    known = TrainerV1alpha1TrainJob.from_dict(body).to_dict()
    assert known == body, f"unknown to the API: {body} is read as {known}"
    assert {"metadata", "spec"} <= set(body)
    for patch in body["spec"].get("runtimePatches", []):
        assert re.fullmatch(r"[a-z0-9.-]+/[A-Za-z0-9/._-]+", patch["manager"]), "manager must be a path with a domain before it"
        for job in patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]:
            template = job["template"]["spec"]["template"]
            assert set(template["metadata"]) <= {"labels", "annotations"}
            for container in template["spec"].get("containers", []):
                assert container["name"] != "node" or "env" not in container, "must not have envs for the node container"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class FakeCluster:
    """The state of the cluster, and what a test may do to it.

    Attributes:
        story: what happens, an entry at each read of the job; an entry is a function, or several.
        troubles: (method, part of the path, status or RESET), each answered once.
        asked: (method, path with query) of every request.
        lingering: how often a deleted job is still there when it is read.
        patience: reads after the end of the story, after which the job disappears, so that a test fails rather than hangs.
    """

    def __init__(self):
        self.jobs: dict[str, dict] = {}
        self.pods: dict[str, dict] = {}
        self.logs: dict[tuple[str, int], list[tuple[int, str]]] = {}  # of a pod's container, by the number of its restarts
        self.workloads: list[dict] = []
        self.story: list[Callable[[], None] | tuple] = []
        self.troubles: list[tuple[str, str, int | str]] = []
        self.asked: list[tuple[str, str]] = []
        self.created: list[dict] = []
        self.deleted: list[str] = []
        self.lingering, self.patience = 0, 500
        self.lock = threading.Lock()

    # What the Trainer and the kubelets do, to the one job there is.

    def job(self) -> dict:
        (job,) = self.jobs.values()
        return job

    def condition(self, kind: str, reason: str = "", message: str = "", status: str = "True") -> Callable[[], None]:
        def happens():
            conditions = self.job().setdefault("status", {}).setdefault("conditions", [])
            conditions[:] = [one for one in conditions if one["type"] != kind]
            conditions.append({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()})

        return happens

    def complete(self) -> None:
        self.condition("Complete", "AllJobsCompleted", "jobset completed successfully")()

    def fail(self, reason: str = "FailedJobs", message: str = "jobset failed due to one or more job failures") -> Callable[[], None]:
        return self.condition("Failed", reason, message)

    def add_pods(self, nodes: int = 2, phase: str = "Running", suffix: str = "a", since: int = 0) -> Callable[[], None]:
        def happens():
            name = self.job()["metadata"]["name"]
            for node in range(since, since + nodes):
                pod = f"{name}-node-0-{node}-{suffix}"
                labels = {
                    "jobset.sigs.k8s.io/jobset-name": name, "jobset.sigs.k8s.io/replicatedjob-name": "node",
                    "batch.kubernetes.io/job-completion-index": str(node),
                }  # fmt: skip
                metadata = {"name": pod, "namespace": "ml", "uid": f"uid-{pod}", "labels": labels, "creationTimestamp": now()}
                spec = {"containers": [{"name": "node"}]}
                self.pods[pod] = {"metadata": metadata, "spec": spec, "status": {"phase": phase}}
                if phase == "Running":
                    self._container(pod, {"running": {"startedAt": now()}})

        return happens

    def waits(self, reason: str, message: str = "") -> Callable[[], None]:
        """Let all pods wait: unscheduled, or for something of their container."""

        def happens():
            for name, pod in self.pods.items():
                if reason == "Unschedulable":
                    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
                    pod["status"]["conditions"] = [condition]
                else:
                    pod["status"].pop("conditions", None)
                    self._container(name, {"waiting": {"reason": reason, "message": message}})

        return happens

    def prints(self, *lines: str, node: int = 0, moment: int | None = None) -> Callable[[], None]:
        def happens():
            pod = self._pod(node)
            restarts = self._status(pod).get("restartCount", 0)
            log = self.logs.setdefault((pod, restarts), [])
            for line in lines:
                log.append((moment or time.time_ns(), line))

        return happens

    def ends(self, code: int, node: int = 0, reason: str = "Error") -> Callable[[], None]:
        def happens():
            end = {"exitCode": code, "reason": reason, "finishedAt": now(), "startedAt": now()}
            self._container(self._pod(node), {"terminated": end})
            self.pods[self._pod(node)]["status"]["phase"] = "Failed" if code else "Succeeded"

        return happens

    def restarts(self, code: int, node: int = 0) -> Callable[[], None]:
        """Let the kubelet start the container again in its pod."""

        def happens():
            pod = self._pod(node)
            end = {"exitCode": code, "reason": "Error", "finishedAt": now(), "startedAt": now()}
            status = self._status(pod)
            count = status.get("restartCount", 0) + 1
            self._container(pod, {"running": {"startedAt": now()}}, lastState={"terminated": end}, restartCount=count)

        return happens

    def evicts(self, node: int, reason: str = "EvictionByEvictionAPI") -> Callable[[], None]:
        def happens():
            condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": now()}
            self.pods[self._pod(node)]["status"].setdefault("conditions", []).append(condition)

        return happens

    def _pod(self, node: int) -> str:
        return [name for name in self.pods if f"-node-0-{node}-" in name][-1]

    def _status(self, pod: str) -> dict:
        return (self.pods[pod]["status"].get("containerStatuses") or [{}])[0]

    def _container(self, pod: str, state: dict, **more) -> None:
        kept = {"name": "node", "image": "i", "imageID": "i", "ready": True, "restartCount": 0, **self._status(pod)}
        self.pods[pod]["status"]["containerStatuses"] = [{**kept, **more, "state": state}]

    # What the API server does.

    def answer(self, method: str, path: str, query: dict[str, str], body: dict) -> tuple[int, dict | str]:
        if found := JOBS.match(path):
            return getattr(self, f"_{method.lower()}_job")(*found.groups(), body)
        if found := PODS.match(path):
            return self._log(found[2], query) if found[2] else self._pods(query)
        if WORKLOADS.match(path):
            uid = query["labelSelector"].partition("=")[2]
            return 200, {"items": [workload for workload in self.workloads if workload["metadata"]["labels"]["uid"] == uid]}
        return 404, _status(404, "the server could not find the requested resource")

    def _post_job(self, namespace, _, body):
        name = body["metadata"]["name"]
        if name in self.jobs:
            return 409, _status(409, f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        try:
            validate(body)
        except (AssertionError, ValueError) as error:
            return 422, _status(422, str(error))
        self.created.append(json.loads(json.dumps(body)))
        body["metadata"] |= {"uid": f"uid-{len(self.created)}", "creationTimestamp": now()}
        body["spec"].setdefault("suspend", False)
        self.jobs[name] = body
        return 201, body

    def _get_job(self, namespace, name, _):
        job = self.jobs.get(name)
        if job and job["metadata"].get("deletionTimestamp"):
            self.lingering -= 1
            if self.lingering <= 0:
                del self.jobs[name]
        elif job and self.story:
            entry = self.story.pop(0)
            for happens in entry if isinstance(entry, tuple) else (entry,):
                happens()
        elif job:
            self.patience -= 1
            if self.patience < 0:
                del self.jobs[name]
        job = self.jobs.get(name)
        return (200, job) if job else (404, _status(404, f'trainjobs.trainer.kubeflow.org "{name}" not found'))

    def _delete_job(self, namespace, name, body):
        job = self.jobs.get(name)
        if not job:
            return 404, _status(404, "not found")
        if body["preconditions"]["uid"] != job["metadata"]["uid"]:
            return 409, _status(409, "the UID in the precondition does not match")
        self.deleted.append(job["metadata"]["uid"])
        self.pods.clear()
        self.logs.clear()
        if self.lingering:
            job["metadata"]["deletionTimestamp"] = now()
        else:
            del self.jobs[name]
        return 200, _status(200, "")

    def _pods(self, query):
        wanted = dict(part.split("=") for part in query["labelSelector"].split(","))
        found = [pod for pod in self.pods.values() if wanted.items() <= pod["metadata"]["labels"].items()]
        return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": found}

    def _log(self, pod, query):
        if pod not in self.pods:
            return 404, _status(404, f'pods "{pod}" not found')
        status = self._status(pod)
        if not status or "waiting" in status["state"]:
            return 400, _status(400, f'container "node" in pod "{pod}" is waiting to start')
        assert query["container"] == "node" and query["timestamps"] == "True", query
        lines = self.logs.get((pod, status["restartCount"] - (query.get("previous") == "True")), [])
        oldest = time.time_ns() - int(query["sinceSeconds"]) * 10**9 if "sinceSeconds" in query else 0
        return 200, "".join(f"{_stamp(moment)} {line}\n" for moment, line in lines if moment >= oldest)


def _stamp(moment: int) -> str:
    return datetime.fromtimestamp(moment // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{moment % 10**9:09d}Z"


def _status(code: int, message: str) -> dict:
    return {"kind": "Status", "apiVersion": "v1", "status": "Success" if code < 300 else "Failure", "code": code, "message": message}


@contextmanager
def serving():
    """Serve a FakeCluster; give it and a kubernetes.client.ApiClient that talks to it."""
    from kubernetes import client

    cluster = FakeCluster()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # header and body in one packet; two would wait 40 ms for an acknowledgement

        def handle_any(self):
            with cluster.lock:
                self._handle()

        def _handle(self):
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            cluster.asked.append((self.command, self.path))
            trouble = next((t for t in cluster.troubles if t[0] == self.command and t[1] in self.path), None)
            if trouble:
                cluster.troubles.remove(trouble)
                if trouble[2] == RESET:
                    self.close_connection = True
                    self.connection.close()
                    return
                status, answer = trouble[2], _status(trouble[2], "it was the test's wish")
            else:
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                status, answer = cluster.answer(self.command, parts.path, query, body)
            data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    configuration = client.Configuration()
    configuration.host, configuration.retries = f"http://127.0.0.1:{server.server_address[1]}", False
    api = client.ApiClient(configuration)
    try:
        yield cluster, api
    finally:
        api.close()
        api.rest_client.pool_manager.clear()
        server.shutdown()
        thread.join()
        server.server_close()
