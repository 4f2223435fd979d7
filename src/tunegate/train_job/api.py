"""The calls to Kubernetes that a watched TrainJob needs, each repeated while the API server is in trouble."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from tunegate.errors import BadInput, TunegateError, Unavailable
from tunegate.train_job.request import GROUP, NODE, PLURAL, VERSION, JobRequest

OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TIMEOUTS = (5, 60)  # seconds to connect, and between two bytes; without them a dead connection hangs for ever
SECOND = 1.0  # the first pause before a call is repeated; each further one is twice as long
LONGEST_PAUSES = 30
KUEUE = ("kueue.x-k8s.io", "v1beta2", "workloads")


class Silent(Unavailable):
    """The API server did not answer for long; the job may well be running."""


def connect():
    """Give a client that uses the pod's service account, or the current kubeconfig."""
    from kubernetes import client, config

    try:
        config.load_config()
    except config.ConfigException as error:
        raise Unavailable(f"There is no Kubernetes cluster to train on: {error}. Set KUBECONFIG, or resources.nodes to 1.") from None
    return client.ApiClient()


def own_namespace() -> str:
    """Give the namespace of the pod that this runs in."""
    if not OWN_NAMESPACE.is_file():
        raise Unavailable("This is no pod of a Kubernetes cluster, so a TrainJob has no namespace. Train with resources.nodes 1.")
    return OWN_NAMESPACE.read_text().strip()


class JobApi:
    """The TrainJob of one request, its pods and their logs.

    Args:
        patience_seconds: how long a call is repeated while the server fails; an upgrade of a control plane takes minutes.
    """

    def __init__(self, api, request: JobRequest, say: Callable[[str], None], patience_seconds: float = 600.0):
        from kubernetes import client

        self.objects, self.core, self.api = client.CustomObjectsApi(api), client.CoreV1Api(api), api
        self.request, self.say, self.patience = request, say, patience_seconds
        self.place = (GROUP, VERSION, request.namespace, PLURAL)

    def create(self, body: dict) -> dict | None:
        """Create the job; None where one of that name exists."""
        from kubernetes.client import ApiException

        try:
            return self._call(self.objects.create_namespaced_custom_object, *self.place, body)
        except ApiException as error:
            if error.status == 409:
                return None
            if error.status == 404:
                raise BadInput(
                    f"The cluster knows no TrainJob ({GROUP}/{VERSION}), or no namespace {self.request.namespace}. "
                    "Install Kubeflow Trainer 2.3."
                ) from None
            if error.status in (401, 403) and "admission webhook" not in _message(error):
                raise self._refusal("create TrainJobs", error) from None
            raise BadInput(
                f"The cluster refused the TrainJob {self.request.name}: {_message(error)} "
                "Look at the section resources of the recipe, and whether that runtime is installed."
            ) from None

    def read(self) -> dict | None:
        return self._found("get TrainJobs", self.objects.get_namespaced_custom_object, *self.place, self.request.name)

    def delete(self, uid: str) -> None:
        """Delete the job, and no other that took its name since; it stays readable until its pods are gone."""
        from kubernetes.client import ApiException, V1DeleteOptions, V1Preconditions

        options = V1DeleteOptions(propagation_policy="Foreground", preconditions=V1Preconditions(uid=uid))
        try:
            self._call(self.objects.delete_namespaced_custom_object, *self.place, self.request.name, body=options)
        except ApiException as error:
            if error.status not in (404, 409):
                raise self._refusal("delete TrainJobs", error) from None

    def pods(self) -> list[dict]:
        """List the pods that train, the oldest first."""
        selector = f"jobset.sigs.k8s.io/jobset-name={self.request.name},jobset.sigs.k8s.io/replicatedjob-name={NODE}"
        found = self._found("list pods", self.core.list_namespaced_pod, self.request.namespace, label_selector=selector)
        pods = self.api.sanitize_for_serialization(found)["items"] if found else []
        return sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "")

    def log(self, pod: str, since_seconds: int | None = None, previous: bool = False) -> str:
        """Give the log of a pod with a timestamp before each line; empty where it has none (yet)."""
        since = {} if since_seconds is None else {"since_seconds": since_seconds}
        answer = self._found(
            "get pods/log", self.core.read_namespaced_pod_log, pod, self.request.namespace,
            container=NODE, timestamps=True, previous=previous, _preload_content=False, missing=(400, 404), read="data", **since,
        )  # fmt: skip
        return (answer or b"").decode("utf-8", "replace")

    def queue_message(self, uid: str) -> str:
        """Say what Kueue says of the job; empty where there is no Kueue, or it may not be asked."""
        group, version, plural = KUEUE
        found = self._found(
            "list workloads", self.objects.list_namespaced_custom_object, group, version, self.request.namespace, plural,
            label_selector=f"kueue.x-k8s.io/job-uid={uid}", missing=(400, 403, 404),
        )  # fmt: skip
        for workload in (found or {}).get("items") or []:
            for condition in (workload.get("status") or {}).get("conditions") or []:
                if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                    return condition.get("message") or ""
        return ""

    def _found(self, what: str, function, *arguments, missing: tuple[int, ...] = (404,), **named):
        from kubernetes.client import ApiException

        try:
            return self._call(function, *arguments, **named)
        except ApiException as error:
            if error.status in missing:
                return None
            raise self._refusal(what, error) from None

    def _refusal(self, what: str, error) -> TunegateError:
        if error.status in (401, 403):
            return BadInput(
                f"The service account may not {what} in namespace {self.request.namespace}: {_message(error)} "
                "The docstring of tunegate.train_job lists what it needs."
            )
        return Unavailable(f"Kubernetes did not {what} for {self.request.name}: {_message(error)}")

    def _call(self, function, *arguments, read: str = "", **named):
        """Call, again and again while the server is in trouble.

        Args:
            read: attribute of the answer to take, where taking it reads from the network.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        started, pause = time.monotonic(), SECOND
        while True:
            try:
                answer = function(*arguments, _request_timeout=TIMEOUTS, **named)
                return getattr(answer, read) if read else answer
            except ApiException as error:
                if error.status not in (0, 429) and error.status < 500:
                    raise
                trouble = f"{error.status} {error.reason}"
            except (HTTPError, ConnectionError, TimeoutError) as error:
                trouble = str(error) or type(error).__name__
            silent = time.monotonic() - started
            if silent + pause > self.patience:
                raise Silent(
                    f"Kubernetes did not answer for {silent:.0f} s ({trouble}). The TrainJob {self.request.namespace}/{self.request.name} "
                    "was left as it is; a retry finds it."
                )
            if silent > LONGEST_PAUSES * SECOND:
                self.say(f"      Kubernetes does not answer: {trouble}; asked again in {pause:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSES * SECOND)


def _message(error) -> str:
    """Give the sentence in the server's answer."""
    body = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else error.body
    try:
        message = json.loads(body)["message"]
    except (TypeError, ValueError, KeyError):
        message = f"{error.status} {error.reason}"
    return message.rstrip(".") + "."
