"""Serve a model on Kubernetes: a Deployment with vLLM, or a KServe InferenceService; roll back what does not get ready.

The objects are pure functions of the configuration. They are applied server-side under one field manager, so what other
controllers own in them stays theirs.
"""

import os
import time
from dataclasses import dataclass

from tunegate.errors import BadInput, Unavailable
from tunegate.recipe import Deploy, Serve
from tunegate.steps import say

FIELD_MANAGER = "tunegate"
PORT = 8000
MODEL_PATH = "/models/model"
DIGEST_ANNOTATION = "tunegate/model-digest"
VERDICT_ANNOTATION = "tunegate/verdict-sha256"
WAIVER_ANNOTATION = "tunegate/waiver"
SAY_EVERY_SECONDS = 30.0
USER = 1000  # any number but 0; the images' files are readable to all
INFERENCE_SERVICE = ("serving.kserve.io/v1beta1", "InferenceService")


def served_names(name: str, model_ref: str) -> list[str]:
    """Give the names a server answers to: the model's, and one with its digest, by which a rollout can be told from the old pod."""
    return [name, f"{name}-{model_ref.rpartition('/')[2][:12]}"]


def proof_annotations(verdict_sha256: str, waived: str) -> dict[str, str]:
    """Say on the objects what lets the model be served: its verdict, and whose waiver, where it is not PROMOTE."""
    return {VERDICT_ANNOTATION: verdict_sha256} | ({WAIVER_ANNOTATION: waived} if waived else {})


def objects(
    deploy: Deploy, serve: Serve, served_name: str, model_ref: str, store_uri: str, annotations: dict[str, str] | None = None
) -> list[dict]:
    """Build the Kubernetes objects that serve `model_ref`; what serves it gets `annotations`, its pods do not, so that they stay.

    Raises:
        BadInput: the configuration cannot work on a cluster.
    """
    if not store_uri.startswith("s3://"):
        raise BadInput(f"deploy.target is {deploy.target}, and pods cannot read the store {store_uri}. Use a store on s3://.")
    if serve.engine == "transformers":
        raise BadInput("On a cluster the model is served by vLLM. Set serve.engine to vllm or auto, or deploy.target to local.")
    if deploy.target == "kserve":
        return [_annotated(inference_service(deploy, serve, served_name, model_ref, store_uri), annotations)]
    if not deploy.image:
        raise BadInput("deploy.target is deployment, and deploy.image is empty. Give the serving image with its digest.")
    return [_annotated(deployment(deploy, serve, served_name, model_ref, store_uri), annotations), service(deploy)]


def deployment(deploy: Deploy, serve: Serve, served_name: str, model_ref: str, store_uri: str) -> dict:
    labels = _labels(deploy)
    probe = {"httpGet": {"path": "/v1/models", "port": "http"}}  # answers once the model is loaded; /health only says it runs
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    volumes = [{"name": "models", "mountPath": "/models"}, {"name": "tmp", "mountPath": "/tmp"}]
    environment = _store_environment() + [{"name": "HOME", "value": "/tmp"}, {"name": "HF_HUB_OFFLINE", "value": "1"}]
    credentials = {"envFrom": [{"secretRef": {"name": deploy.secret}}]} if deploy.secret else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(deploy, model_ref),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "progressDeadlineSeconds": serve.start_timeout_seconds,
            "template": {
                "metadata": {"labels": labels, "annotations": {DIGEST_ANNOTATION: model_ref}},
                "spec": {
                    "serviceAccountName": deploy.service_account,
                    "securityContext": {
                        "runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "initContainers": [{
                        "name": "fetch-model",
                        "image": deploy.image,
                        "command": ["python", "-m", "tunegate.fetch", store_uri, model_ref, MODEL_PATH],
                        "env": [*environment, {"name": "TUNEGATE_CACHE", "value": "/models/cache"}],
                        **credentials,
                        "securityContext": restricted,
                        "volumeMounts": volumes,
                        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
                    }],
                    "containers": [{
                        "name": "vllm",
                        "image": deploy.image,
                        "command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
                        "args": [
                            "--model", MODEL_PATH, "--port", str(PORT), *_engine_arguments(serve),
                            "--served-model-name", *served_names(served_name, model_ref),
                        ],
                        "env": environment,
                        "ports": [{"name": "http", "containerPort": PORT}],
                        "startupProbe": {**probe, "periodSeconds": 10, "failureThreshold": max(1, serve.start_timeout_seconds // 10)},
                        "readinessProbe": {**probe, "periodSeconds": 10, "timeoutSeconds": 5},
                        "livenessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 30, "timeoutSeconds": 10},
                        "securityContext": restricted,
                        "volumeMounts": [*volumes, {"name": "shared-memory", "mountPath": "/dev/shm"}],
                        "resources": _resources(deploy),
                    }],
                    "volumes": [
                        {"name": "models", "emptyDir": {}},
                        {"name": "tmp", "emptyDir": {}},
                        # PyTorch's workers share tensors there, and the container default is 64 MiB.
                        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}},
                    ],
                },
            },
        },
    }  # fmt: skip


def service(deploy: Deploy) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": deploy.name, "namespace": deploy.namespace, "labels": _labels(deploy)},
        "spec": {"selector": _labels(deploy), "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]},
    }


def inference_service(deploy: Deploy, serve: Serve, served_name: str, model_ref: str, store_uri: str) -> dict:
    """Build a KServe InferenceService; its runtime for the format vLLM brings the image, the port and the probes."""
    metadata = _metadata(deploy, model_ref)
    metadata["annotations"]["serving.kserve.io/deploymentMode"] = "Standard"
    return {
        "apiVersion": INFERENCE_SERVICE[0],
        "kind": INFERENCE_SERVICE[1],
        "metadata": metadata,
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "serviceAccountName": deploy.service_account,
                "model": {
                    "modelFormat": {"name": "vLLM"},
                    "storageUri": f"{store_uri.rstrip('/')}/objects/{model_ref}",
                    "args": [*_engine_arguments(serve), "--served-model-name", *served_names(served_name, model_ref)],
                    "resources": _resources(deploy),
                    **({"image": deploy.image} if deploy.image else {}),
                },
            }
        },
    }


def _engine_arguments(serve: Serve) -> list[str]:
    # As in serving/engine.py: the sampling defaults and the seed under which the model was judged.
    return ["--dtype", serve.dtype, "--max-model-len", str(serve.max_model_len), "--generation-config", "vllm", "--seed", "0"]


def _labels(deploy: Deploy) -> dict[str, str]:
    return {"app.kubernetes.io/name": "tunegate", "app.kubernetes.io/instance": deploy.name}


def _metadata(deploy: Deploy, model_ref: str) -> dict:
    return {
        "name": deploy.name,
        "namespace": deploy.namespace,
        "labels": {**_labels(deploy), "app.kubernetes.io/managed-by": "tunegate"},
        "annotations": {DIGEST_ANNOTATION: model_ref},
    }


def _annotated(found: dict, annotations: dict[str, str] | None) -> dict:
    found["metadata"]["annotations"] |= annotations or {}
    return found


def _resources(deploy: Deploy) -> dict:
    memory = f"{int(deploy.memory_gib * 1024)}Mi"
    gpus = {"nvidia.com/gpu": str(deploy.gpus)} if deploy.gpus else {}
    return {"requests": {"cpu": "2", "memory": memory, **gpus}, "limits": {"memory": memory, **gpus}}


def _store_environment() -> list[dict]:
    # Addresses only; credentials come from the service account or the secret.
    names = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
    return [{"name": name, "value": os.environ[name]} for name in names if os.environ.get(name)]


@dataclass
class Cluster:
    """Three things a rollout asks of Kubernetes, for any kind of object."""

    client: object  # kubernetes.dynamic.DynamicClient

    @classmethod
    def connect(cls) -> "Cluster":
        """Use the pod's service account, or the current kubeconfig."""
        from kubernetes import client, config, dynamic
        from urllib3.exceptions import HTTPError

        try:
            config.load_config()
            return cls(dynamic.DynamicClient(client.ApiClient()))
        except (config.ConfigException, client.ApiException, HTTPError) as error:
            raise Unavailable(f"There is no Kubernetes cluster to deploy to: {error}. Set KUBECONFIG, or deploy.target to local.") from None

    def _resource(self, body: dict):
        from kubernetes.dynamic.exceptions import ResourceNotFoundError

        try:
            return self.client.resources.get(api_version=body["apiVersion"], kind=body["kind"])
        except ResourceNotFoundError:
            raise BadInput(f"The cluster has no kind {body['kind']} ({body['apiVersion']}). Install what brings it.") from None

    def get(self, body: dict) -> dict | None:
        from kubernetes.dynamic.exceptions import NotFoundError

        try:
            found = self._resource(body).get(name=body["metadata"]["name"], namespace=body["metadata"]["namespace"])
        except NotFoundError:
            return None
        return found.to_dict()

    def apply(self, body: dict) -> None:
        name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
        self._resource(body).server_side_apply(body=body, name=name, namespace=namespace, field_manager=FIELD_MANAGER, force_conflicts=True)

    def delete(self, body: dict) -> None:
        self._resource(body).delete(name=body["metadata"]["name"], namespace=body["metadata"]["namespace"])


def roll_out(cluster: Cluster, wanted: list[dict], timeout_seconds: float, check, poll_seconds: float = 5.0) -> None:
    """Apply the objects, wait until they are ready, then call `check()`; on any failure put back what was there, and raise."""
    before = [cluster.get(body) for body in wanted]
    try:
        for body in wanted:
            cluster.apply(body)
        _wait_until_ready(cluster, wanted, timeout_seconds, poll_seconds)
        check()
    except BaseException:
        for body, old in zip(wanted, before, strict=True):
            if old is None:
                cluster.delete(body)
            else:
                cluster.apply(_restorable(old))
        say("      the rollout failed; what was served before is back")
        raise


def _restorable(found: dict) -> dict:
    """Keep of an object as read what may be applied again."""
    kept = ("name", "namespace", "labels", "annotations")
    metadata = {key: found["metadata"][key] for key in kept if found["metadata"].get(key)}
    return {**{key: found[key] for key in ("apiVersion", "kind", "spec")}, "metadata": metadata}


def _wait_until_ready(cluster: Cluster, wanted: list[dict], timeout_seconds: float, poll_seconds: float) -> None:
    started = said = time.monotonic()
    while True:
        waiting = [(body, reason) for body in wanted if (reason := not_ready(cluster.get(body)))]
        if not waiting:
            return
        body, reason = waiting[0]
        title = f"{body['kind']} {body['metadata']['namespace']}/{body['metadata']['name']}"
        now = time.monotonic()
        if now - started >= timeout_seconds:
            raise Unavailable(
                f"{title} was not ready after {timeout_seconds:.0f} s (serve.start_timeout_seconds): {reason}. "
                f"Look at it with: kubectl -n {body['metadata']['namespace']} describe {body['kind'].lower()} {body['metadata']['name']}"
            )
        if now - said >= SAY_EVERY_SECONDS:
            said = now
            say(f"      waiting for {title}: {reason}, {now - started:.0f} s")
        time.sleep(poll_seconds)


def not_ready(found: dict | None) -> str:
    """Say why an object as read from the cluster does not serve its newest specification yet; empty when it does."""
    if found is None:
        return "it does not exist"
    if found["kind"] not in ("Deployment", INFERENCE_SERVICE[1]):
        return ""
    status = found.get("status") or {}
    if status.get("observedGeneration", 0) < found["metadata"].get("generation", 0):
        return "the controller has not seen it yet"
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    if found["kind"] == "Deployment":
        replicas = found["spec"]["replicas"]
        if status.get("updatedReplicas", 0) == status.get("availableReplicas", 0) == status.get("replicas", 0) == replicas:
            return ""
        said = conditions.get("Progressing") or conditions.get("Available") or {}
        return said.get("message") or f"{status.get('availableReplicas', 0)} of {replicas} replicas are available"
    ready = conditions.get("Ready", {})
    return "" if ready.get("status") == "True" else ready.get("message") or "its condition Ready is not true"
