"""What is asked of a TrainJob, and the object that asks for it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tunegate import digests
from tunegate.errors import BadInput

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
NODE = "node"  # the runtimes' name for both the replicated job that trains and its container
MANAGER = "tunegate/train-job"
REQUEST_ANNOTATION = "tunegate/request"
RESTARTS_ANNOTATION = "tunegate/restarts"
# Keys of the Kubernetes secret, each handed to every step, and to the nodes of a TrainJob, as the variable of the same name.
SECRET_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "HF_TOKEN",
)
RESERVED = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")  # set by the Trainer
LAST_WORDS_SECONDS = 15  # of the grace period: for torchrun and the entry point to end after the workers


@dataclass(frozen=True)
class JobRequest:
    """What one TrainJob is asked for.

    Args:
        name: from `job_name`, so that a retry finds what runs.
        image: with its digest, as in `registry/name@sha256:…`.
        command: the entry point; see the package's docstring for what it must do.
        gpus: in each node; as many processes run there, or one where there are none.
        memory_gib: of each node; /dev/shm counts.
        preemptible: marks job and pods with the label tunegate/preemptible, and lengthens the default grace period.
        grace_seconds: between SIGTERM and SIGKILL; by default 600 if preemptible, else 120 (both arbitrary: time to save).
        secret: a Kubernetes secret; its `secret_keys` become variables of the same name, and absent keys are no error.
        labels: of the job and its pods; put the id of the pipeline run here.
        max_restarts: new jobs after interruptions, beyond the restarts that the cluster does by itself.
        timeout_hours: of one start, queueing excepted; enforced by the Trainer, also when nobody watches.
    """

    name: str
    namespace: str
    image: str
    command: tuple[str, ...]
    runtime: str = "torch-distributed"
    nodes: int = 1
    gpus: int = 1
    gpu_type: str = "nvidia.com/gpu"
    cpus: float = 8
    memory_gib: float = 64
    queue: str = ""
    preemptible: bool = False
    grace_seconds: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    secret: str = ""
    secret_keys: tuple[str, ...] = SECRET_KEYS
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    max_restarts: int = 10  # arbitrary
    timeout_hours: float = 24  # arbitrary

    @property
    def grace(self) -> int:
        return self.grace_seconds or (600 if self.preemptible else 120)


def job_name(step: str, key: str, run_id: str = "") -> str:
    """Name the job of `step` with `key` in one pipeline run; each run has its own, because a job reports under its run."""
    return f"tunegate-{step}-{digests.digest_json([step, key, run_id])[:12]}"


def manifest(request: JobRequest, restarts: int = 0) -> dict:
    """Build the TrainJob.

    Raises:
        BadInput: the request cannot work.
    """
    _check(request)
    labels = {**request.labels, "app.kubernetes.io/name": "tunegate", "app.kubernetes.io/managed-by": "tunegate"}
    if request.preemptible:
        labels["tunegate/preemptible"] = "true"
    spec = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": request.runtime},
        "activeDeadlineSeconds": max(1, round(request.timeout_hours * 3600)),
        "trainer": {
            "image": request.image,
            "command": list(request.command),
            "numNodes": request.nodes,
            "numProcPerNode": max(1, request.gpus),  # left out, a node without GPUs would run a process for each of its cores
            "resourcesPerNode": _resources(request),
            "env": _environment(request),
        },
        "runtimePatches": [{
            "manager": MANAGER,
            "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [{
                "name": NODE,
                "template": {"spec": {"template": _pod_patch(request, labels)}},
            }]}}},
        }],
    }  # fmt: skip
    queue = {"kueue.x-k8s.io/queue-name": request.queue} if request.queue else {}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": request.name,
            "namespace": request.namespace,
            "labels": {**labels, **queue},
            "annotations": {REQUEST_ANNOTATION: digests.digest_json(spec), RESTARTS_ANNOTATION: str(restarts)},
        },
        "spec": spec,
    }


def _pod_patch(request: JobRequest, labels: Mapping[str, str]) -> dict:
    """Everything here is in the list of what a runtime patch may change; variables are not, for the container `node`."""
    account = {"serviceAccountName": request.service_account} if request.service_account else {}
    return {
        # A service mesh's proxy would stand between the nodes, and outlive the training.
        "metadata": {"labels": {**labels, "sidecar.istio.io/inject": "false"}},
        "spec": {
            **account,
            "terminationGracePeriodSeconds": request.grace,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": NODE,
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
            }],
            # NCCL and data loaders meet there, and the container default is 64 MiB.
            "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": _shared_memory(request)}}],
        },
    }  # fmt: skip


def _shared_memory(request: JobRequest) -> str:
    return f"{max(64, int(request.memory_gib * 1024 / 8))}Mi"  # an eighth: arbitrary; it is used only as far as it is filled


def _resources(request: JobRequest) -> dict:
    memory = f"{int(request.memory_gib * 1024)}Mi"
    gpus = {request.gpu_type: str(request.gpus)} if request.gpus else {}
    return {"requests": {"cpu": f"{request.cpus:g}", "memory": memory, **gpus}, "limits": {"memory": memory, **gpus}}


def _environment(request: JobRequest) -> list[dict]:
    values = {
        "HOME": "/tmp",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, request.grace - LAST_WORDS_SECONDS)),
        **request.env,
    }
    keys = [key for key in request.secret_keys if request.secret and key not in values]
    return [{"name": name, "value": value} for name, value in values.items()] + [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": request.secret, "key": key, "optional": True}}} for key in keys
    ]


def _check(request: JobRequest) -> None:
    if not re.search(r"@sha256:[0-9a-f]{64}$", request.image):
        raise BadInput(f"The image {request.image!r} of the TrainJob has no digest. Give it as name@sha256:….")
    pod = f"{request.name}-{NODE}-0-{request.nodes - 1}-abcde"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", request.name) or len(pod) > 63:
        raise BadInput(f"{request.name!r} cannot name a TrainJob: its pods would be called {pod}. Use 40 of a-z, 0-9 and '-' at most.")
    if request.nodes < 1 or request.gpus < 0 or not request.command:
        raise BadInput(f"A TrainJob needs a command and a node; asked were {request.nodes} nodes with {request.gpus} GPUs each.")
    if taken := [name for name in RESERVED if name in request.env]:
        raise BadInput(f"The variable {taken[0]} of a TrainJob is set by the Trainer. Remove it from the job's variables.")
    for name, value in request.labels.items():
        if not re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", value):
            raise BadInput(f"{value!r} cannot be the value of the label {name}. Use 63 letters, digits, '-', '_' and '.' at most.")
