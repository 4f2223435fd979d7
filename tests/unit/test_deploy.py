"""deploy on a real child server with a toy model, and on a cluster that is a dictionary; the Kubernetes objects' structure."""

import copy
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import fake_engine
import httpx
import promoted_model
import pytest

from tunegate import approve, deploy, kubernetes_deploy, registry
from tunegate.deploy import deploy_step
from tunegate.errors import BadInput, Refused, Unavailable
from tunegate.fetch import fetch
from tunegate.recipe import Deploy, Serve
from tunegate.register import register_step
from tunegate.serving.transformers_server import Api, HttpServer, handler_for

# SQLAlchemy about MLflow's own mappers.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

REF = "merge-model/" + "ab" * 32
STORE = "s3://bucket/prefix"
SERVE = Serve(max_model_len=64, start_timeout_seconds=20)


@pytest.fixture
def world(tmp_path, monkeypatch):
    promoted_model.use_database(tmp_path, monkeypatch)
    monkeypatch.setenv("TUNEGATE_SERVE_PYTHON", fake_engine.install(tmp_path / "environment"))
    made = promoted_model.make(tmp_path)
    refs = {"verdict": made.refs["verdict"], "model": made.refs["model"]}
    made.refs["version"] = promoted_model.run(register_step, made, tmp_path / "register", promoted_model.config(), **refs)["version"]
    return made


def deployed(world, directory, **changed):
    refs = {name: world.refs[name] for name in ("version", "verdict", "model")}
    result = promoted_model.run(deploy_step, world, directory, promoted_model.config(**changed), **refs)
    return json.loads((world.store.get(result["endpoint"]) / "endpoint.json").read_text())


def test_an_approved_model_is_served_tested_and_stopped_and_the_test_is_not_repeated(world, tmp_path, monkeypatch):
    approve.approve_at_once("toy", "1")
    first = deployed(world, tmp_path / "first")
    assert first["smoke"] == {"passed": True, "items": 4, "agreed": 4, "seconds": first["smoke"]["seconds"], "recorded": False}
    assert first["engine"] == promoted_model.ENGINE
    assert first["model"] == world.refs["model"]
    assert first["start"] == "start it with: tunegate serve toy@champion"
    monkeypatch.setattr(deploy.engine, "serve", None)  # a second start would fail
    assert deployed(world, tmp_path / "second")["smoke"] == {**first["smoke"], "recorded": True}
    assert json.loads(registry.version("toy", 1).tags[registry.SERVE])["system"] == "Answer."


def test_another_configuration_is_tested_anew(world, tmp_path):
    approve.approve_at_once("toy", "1")
    deployed(world, tmp_path / "first")
    again = deployed(world, tmp_path / "second", serve={"max_model_len": 63, "start_timeout_seconds": 20})
    assert again["smoke"]["recorded"] is False


def test_without_approval_nothing_is_deployed(world, tmp_path):
    with pytest.raises(Refused, match="no recorded approval"):
        deployed(world, tmp_path / "deploy")


def test_the_data_is_the_one_given_or_the_one_the_verdict_names(world):
    named = {"predicate": {"facts": {"inputs": {"data": world.refs["data"]}}}}
    assert deploy.judged_data(world.inputs(), named) == world.store.get(world.refs["data"])
    assert deploy.judged_data(world.inputs(data=world.refs["adapter"]), named) == world.store.get(world.refs["adapter"])
    with pytest.raises(BadInput, match="does not name the data"):
        deploy.judged_data(world.inputs(), {"predicate": {"facts": {}}})


def test_a_version_of_another_model_is_refused(world, tmp_path):
    approve.approve_at_once("toy", "1")
    registry.set_tag("toy", "1", registry.REF, REF)
    with pytest.raises(Refused, match="A verdict holds for its own model only"):
        deployed(world, tmp_path / "deploy")


@pytest.fixture
def server(tmp_path):
    """Serve a toy model that answers every question of the evaluation but the last."""
    answers = {f"question {i}": f"answer {i}" for i in range(9)} | {"question 9": "something else"}
    model = fake_engine.ToyModel(fake_engine.model_directory(tmp_path / "toy", answers), 64)
    http = HttpServer(("127.0.0.1", 0), handler_for(Api(model, f"toy-{'ab' * 6}")))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{http.server_address[1]}", name=f"toy-{'ab' * 6}", log="none", check=lambda: None)
    http.shutdown()
    thread.join()
    http.server_close()


def questions(*numbers):
    return [deploy.Question(str(i), [{"role": "user", "content": f"question {i}"}], f"answer {i}") for i in numbers]


def test_nine_of_ten_same_answers_are_enough_and_eight_of_nine_are_not(server):
    assert deploy.smoke_test(server, questions(*range(10)), 8)["agreed"] == 9
    with pytest.raises(Refused, match="8 of 9 answers.*'something else'.*it was 'answer 9'"):
        deploy.smoke_test(server, questions(*range(1, 10)), 8)


def test_an_answer_that_does_not_end_is_no_agreement(server):
    asked = [deploy.Question("x", [{"role": "user", "content": "never seen"}], "unknown unknown")]
    with pytest.raises(Refused, match="ended by length"):
        deploy.smoke_test(server, asked, 2)


def test_a_server_that_serves_something_else_is_refused(server):
    deploy.require_listed(server, server.name)
    with pytest.raises(Refused, match="and not toy"):
        deploy.require_listed(server, "toy")


def test_a_person_is_served_the_champion(world, tmp_path):
    approve.approve_at_once("toy", "1")
    registry.set_alias("toy", "champion", "1")
    registry.set_tag("toy", "1", registry.SERVE, json.dumps({"serve": SERVE.model_dump(), "system": "Answer."}))
    log = tmp_path / "log"
    program = "from tunegate.deploy import serve_champion; serve_champion('toy@champion', 0)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(deploy.__file__).parents[1]), *sys.path])}
    # A test run in the background of a script has SIGINT ignored, and its children with it; a terminal has not.
    listening = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    with open(log, "wb") as sink:
        child = subprocess.Popen([sys.executable, "-c", program], stdout=sink, stderr=sink, env=environment, preexec_fn=listening)
    try:
        deadline = time.monotonic() + 60
        while "Stop it with" not in log.read_text() and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.05)
        text = log.read_text()
        assert "Stop it with" in text, text
        url = text.partition("answers at ")[2].split("/v1")[0]
        assert httpx.get(f"{url}/v1/models", trust_env=False).json()["data"][0]["id"] == "toy"
        *_, address, _, kind, _, body = shlex.split(next(line for line in text.splitlines() if line.startswith("curl ")))
        assert json.loads(body)["messages"][0] == {"role": "system", "content": "Answer."}
        asked = body.replace("Hello", "question 5").encode()
        answer = httpx.post(address, content=asked, headers=dict([kind.split(": ")]), trust_env=False).json()
        assert answer["choices"][0]["message"]["content"] == "answer 5"
    finally:
        child.send_signal(signal.SIGINT)
        code = child.wait(30)
    assert code == 0
    assert "Stopped." in log.read_text()


def test_a_version_that_somebody_else_registered_is_not_served(world):
    registry.client().create_model_version("toy", source="file:///elsewhere")
    with pytest.raises(Refused, match="has no tag tunegate.ref"):
        deploy.serve_champion("toy/2")


def test_the_deployment_is_probed_restricted_and_names_its_model():
    settings = Deploy(target="deployment", name="chat", namespace="ml", image="serve@sha256:1", gpus=2, memory_gib=1.5, secret="store")
    found, service = kubernetes_deploy.objects(settings, SERVE, "toy", REF, STORE)
    pod = found["spec"]["template"]["spec"]
    container, init = pod["containers"][0], pod["initContainers"][0]
    assert found["spec"]["template"]["metadata"]["annotations"] == {"tunegate/model-digest": REF}
    assert init["command"][-3:] == [STORE, REF, "/models/model"]
    assert container["args"][-3:] == ["--served-model-name", "toy", "toy-" + "ab" * 6]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == "/v1/models"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["resources"]["limits"] == {"memory": "1536Mi", "nvidia.com/gpu": "2"}
    assert init["envFrom"] == [{"secretRef": {"name": "store"}}] and "envFrom" not in container
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted["shared-memory"] == "/dev/shm"
    assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
    selector = found["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"] == selector
    assert selector.items() <= found["spec"]["template"]["metadata"]["labels"].items()


def test_the_inference_service_reads_the_model_from_the_store():
    (found,) = kubernetes_deploy.objects(Deploy(target="kserve", name="chat", gpus=0), SERVE, "toy", REF, STORE + "/")
    model = found["spec"]["predictor"]["model"]
    assert (found["apiVersion"], found["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert found["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    assert model["storageUri"] == f"{STORE}/objects/{REF}"
    assert model["modelFormat"] == {"name": "vLLM"}
    assert "nvidia.com/gpu" not in model["resources"]["limits"]


@pytest.mark.parametrize(
    ("settings", "serve", "store", "sentence"),
    [
        (Deploy(target="kserve"), SERVE, "/runs/store", "pods cannot read the store"),
        (Deploy(target="deployment"), SERVE, STORE, "deploy.image is empty"),
        (Deploy(target="kserve"), Serve(engine="transformers"), STORE, "served by vLLM"),
    ],
)
def test_what_cannot_work_on_a_cluster_is_said(settings, serve, store, sentence):
    with pytest.raises(BadInput, match=sentence):
        kubernetes_deploy.objects(settings, serve, "toy", REF, store)


def test_a_pod_fetches_the_model_to_a_fixed_place(world, tmp_path):
    for _ in range(2):  # a restarted init container finds its earlier link
        fetch(world.store.uri, world.refs["model"], tmp_path / "models" / "model")
    assert (tmp_path / "models" / "model" / "config.json").is_file()


class DictionaryCluster:
    """Keeps objects in a dictionary; Deployments get ready at once, unless their image is the broken one."""

    def __init__(self):
        self.objects = {}

    def get(self, body):
        return copy.deepcopy(self.objects.get((body["kind"], body["metadata"]["name"])))

    def apply(self, body):
        body = copy.deepcopy(body)
        assert "status" not in body and "resourceVersion" not in body["metadata"]
        key = (body["kind"], body["metadata"]["name"])
        generation = self.objects[key]["metadata"]["generation"] + 1 if key in self.objects else 1
        body["metadata"] |= {"generation": generation, "resourceVersion": str(generation)}
        broken = "broken" in json.dumps(body)
        body["status"] = {
            "observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 0 if broken else 1,
            "conditions": [{"type": "Progressing", "message": "ImagePullBackOff"}] if broken else [],
        }  # fmt: skip
        self.objects[key] = body

    def delete(self, body):
        del self.objects[body["kind"], body["metadata"]["name"]]

    def image(self):
        return self.objects["Deployment", "chat"]["spec"]["template"]["spec"]["containers"][0]["image"]


def roll_out(cluster, image, check=lambda: None, timeout_seconds=5.0):
    settings = Deploy(target="deployment", name="chat", image=image)
    wanted = kubernetes_deploy.objects(settings, SERVE, "toy", REF, STORE)
    kubernetes_deploy.roll_out(cluster, wanted, timeout_seconds, check, poll_seconds=0.01)


def test_a_rollout_that_does_not_get_ready_brings_back_what_was_served():
    cluster = DictionaryCluster()
    roll_out(cluster, "good")
    with pytest.raises(Unavailable, match="Deployment default/chat was not ready.*ImagePullBackOff.*kubectl -n default describe"):
        roll_out(cluster, "broken", timeout_seconds=0.05)
    assert cluster.image() == "good"


def test_a_first_rollout_that_fails_its_smoke_test_leaves_nothing():
    cluster = DictionaryCluster()

    def check():
        raise Refused("other answers")

    with pytest.raises(Refused, match="other answers"):
        roll_out(cluster, "good", check)
    assert cluster.objects == {}


def test_a_cluster_deployment_is_smoke_tested_under_the_name_with_the_digest(server, monkeypatch):
    monkeypatch.setattr(deploy, "service_url", lambda *_: server.url)
    settings = Deploy(target="deployment", name="chat", image="serve@sha256:1")
    place = (STORE, REF, settings, SERVE, promoted_model.TASK, "toy", questions(1, 2, 3))
    cluster, annotations = DictionaryCluster(), kubernetes_deploy.proof_annotations("ab" * 32, "Ada until 2026-12-01: outage")
    endpoint = deploy.deploy_on_cluster(*place, annotations, cluster)
    assert endpoint["smoke"]["agreed"] == 3 and endpoint["url"] == server.url
    told = cluster.objects["Deployment", "chat"]["metadata"]["annotations"]
    assert told["tunegate/verdict-sha256"] == "ab" * 32 and told["tunegate/waiver"] == "Ada until 2026-12-01: outage"


def test_a_service_url_is_that_of_the_service_or_of_the_inference_service():
    settings = Deploy(target="deployment", name="chat", namespace="ml", image="i")
    assert deploy.service_url(None, settings, []) == "http://chat.ml.svc:8000"
    kserve = Deploy(target="kserve", name="chat", namespace="ml")
    wanted = kubernetes_deploy.objects(kserve, SERVE, "toy", REF, STORE)
    cluster = DictionaryCluster()
    cluster.apply(wanted[0])
    with pytest.raises(Unavailable, match="names no address"):
        deploy.service_url(cluster, kserve, wanted)
    cluster.objects["InferenceService", "chat"]["status"]["address"] = {"url": "http://chat-predictor.ml.svc/"}
    assert deploy.service_url(cluster, kserve, wanted) == "http://chat-predictor.ml.svc"


def test_readiness_is_that_of_the_newest_specification():
    found = {"kind": "InferenceService", "metadata": {"generation": 2}, "status": {
        "observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}}  # fmt: skip
    assert "not seen it" in kubernetes_deploy.not_ready(found)
    found["status"]["observedGeneration"] = 2
    assert kubernetes_deploy.not_ready(found) == ""
    found["status"]["conditions"][0] = {"type": "Ready", "status": "False", "message": "no GPU"}
    assert kubernetes_deploy.not_ready(found) == "no GPU"
    assert kubernetes_deploy.not_ready(None) == "it does not exist"
