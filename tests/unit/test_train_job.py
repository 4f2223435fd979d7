"""A TrainJob as the API takes it; run against an API server that is a script: started, watched, told, restarted, cleaned up."""

import copy
import dataclasses
import time

import fake_trainer_api
import pytest

from tunegate.errors import BadInput, Refused, Unavailable
from tunegate.train_job import JobRequest, api, job_name, manifest, own_namespace, run
from tunegate.train_job.log import Cursor

IMAGE = "registry.example/tunegate/train@sha256:" + "ab" * 32
REQUEST = JobRequest(
    name=job_name("sft", "k" * 64, "run-1"),
    namespace="ml",
    image=IMAGE,
    command=("python", "-m", "tunegate.train.job", "store:jobs/x.json"),
    nodes=2,
    gpus=4,
    env={"TUNEGATE_RUN_ID": "run-1"},
    secret="tunegate",
    labels={"tunegate/run": "run-1"},
    max_restarts=2,
)
PLACE = f"ml/{REQUEST.name}"


def changed(**fields) -> JobRequest:
    return dataclasses.replace(REQUEST, **fields)


def pod_patch(body: dict) -> dict:
    (patch,) = body["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert job["name"] == "node"
    return job["template"]["spec"]["template"]


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        changed(nodes=1, preemptible=True, queue="gpu", service_account="trainer", runtime="spot"),
        changed(gpus=0, cpus=0.5, memory_gib=0.5, secret="", env={}, labels={}),
        changed(gpu_type="amd.com/gpu", grace_seconds=30, timeout_hours=0.01),
    ],
)
def test_the_api_knows_every_field_of_the_job(request_):
    fake_trainer_api.validate(manifest(request_))


def test_a_field_the_api_does_not_know_does_not_pass():
    for where in ("spec", "patch"):
        body = manifest(REQUEST)
        (body["spec"] if where == "spec" else pod_patch(body)["spec"])["podFailurePolicy"] = {}
        with pytest.raises(AssertionError, match="unknown to the API"):
            fake_trainer_api.validate(body)


def test_what_the_job_asks_for():
    trainer = manifest(REQUEST)["spec"]["trainer"]
    assert trainer["image"] == IMAGE and trainer["command"] == list(REQUEST.command)
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    limits = {"memory": "65536Mi", "nvidia.com/gpu": "4"}
    assert trainer["resourcesPerNode"] == {"requests": {"cpu": "8", **limits}, "limits": limits}
    assert manifest(changed(gpus=0))["spec"]["trainer"]["numProcPerNode"] == 1  # and not one for each core
    assert manifest(changed(timeout_hours=2))["spec"]["activeDeadlineSeconds"] == 7200


def test_keys_of_the_secret_are_optional_variables_and_the_recipes_come_first():
    env = {entry["name"]: entry for entry in manifest(changed(env={"HF_TOKEN": "mine"}))["spec"]["trainer"]["env"]}
    assert env["HF_TOKEN"] == {"name": "HF_TOKEN", "value": "mine"}
    key = {"name": "tunegate", "key": "AWS_ACCESS_KEY_ID", "optional": True}
    assert env["AWS_ACCESS_KEY_ID"]["valueFrom"] == {"secretKeyRef": key}
    assert not any("valueFrom" in entry for entry in manifest(changed(secret=""))["spec"]["trainer"]["env"])


def test_queue_run_and_preemptibility_are_labels():
    body = manifest(changed(queue="gpu", preemptible=True))
    labels = body["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "gpu" and labels["tunegate/run"] == "run-1"
    assert pod_patch(body)["metadata"]["labels"]["tunegate/preemptible"] == "true"
    assert "kueue.x-k8s.io/queue-name" not in manifest(REQUEST)["metadata"]["labels"]


def test_a_retry_has_the_same_name_and_another_run_another():
    assert job_name("sft", "k" * 64, "run-1") == REQUEST.name != job_name("sft", "k" * 64, "run-2")
    assert job_name("prefer", "k" * 64, "run-1") != job_name("sft", "l" * 64, "run-1")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"image": "tunegate/train:latest"}, "has no digest"),
        ({"name": "a" * 50}, "cannot name a TrainJob"),
        ({"name": "1st"}, "cannot name a TrainJob"),
        ({"command": ()}, "needs a command"),
        ({"nodes": 0}, "0 nodes"),
        ({"env": {"PET_NNODES": "3"}}, "PET_NNODES"),
        ({"labels": {"tunegate/run": "a b"}}, "the label tunegate/run"),
    ],
)
def test_a_request_that_cannot_work_is_refused(fields, sentence):
    with pytest.raises(BadInput, match=sentence):
        manifest(changed(**fields))


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setattr(api, "SECOND", 0.01)
    with fake_trainer_api.serving() as (fake, client):
        fake.client = client
        yield fake


def train(cluster, request=REQUEST, error=None, **settings):
    """Run the job; give what was said, and raise what was raised with it."""
    said = []
    settings = {"poll_seconds": 0.005, "say_every_seconds": 60.0} | settings
    try:
        run(request, cluster.client, said.append, lambda: error, **settings)
    except BaseException as raised:
        raised.said = said
        raise
    return said


def state(sentence: str) -> str:
    return f"      TrainJob {PLACE}: {sentence}"


def test_a_job_is_created_its_log_is_relayed_once_and_it_is_deleted(cluster):
    cluster.story = [
        lambda: None,
        (cluster.add_pods(phase="Pending"), cluster.waits("ContainerCreating")),
        (cluster.add_pods(), cluster.prints("loading", ""), cluster.prints("of the other node", node=1)),
        lambda: None,
        cluster.prints("sft: step 1/2", "sft: step 1/2"),
        (cluster.prints("sft: step 2/2"), cluster.ends(0), cluster.ends(0, node=1), cluster.complete),
    ]
    assert train(cluster) == [
        f"      TrainJob {PLACE} created: 2 nodes with 4 x nvidia.com/gpu",
        state("waiting for the Trainer to start its pods"),
        state("waiting (2 pods of 2): ContainerCreating"),
        "loading",
        "",
        state("running on 2 of 2 nodes"),
        "sft: step 1/2",
        "sft: step 1/2",
        "sft: step 2/2",
        f"      TrainJob {PLACE} is complete",
    ]
    assert cluster.created == [manifest(REQUEST)] and cluster.deleted == ["uid-1"] and not cluster.jobs


def test_a_retried_component_finds_its_job_and_relays_the_log_from_the_beginning(cluster):
    cluster.story = [(cluster.add_pods(), cluster.prints("one")), lambda: None, cluster.complete]
    cluster.troubles = [("GET", "/pods?", 500)] * 99  # the first component gives up
    with pytest.raises(Unavailable, match="a retry finds it"):
        impatient(cluster, 0.05)
    assert cluster.deleted == []
    cluster.troubles = []
    said = train(cluster)
    assert said[:2] == [f"      TrainJob {PLACE} exists already; its log from the beginning:", "one"]
    assert len(cluster.created) == 1 and cluster.deleted == ["uid-1"]


def impatient(cluster, patience):
    from tunegate.train_job import watch

    real = watch.JobApi
    watch.JobApi = lambda *arguments: real(*arguments, patience_seconds=patience)
    try:
        return train(cluster)
    finally:
        watch.JobApi = real


def exists(cluster, body, uid="uid-0"):
    body = copy.deepcopy(body)
    body["metadata"]["uid"] = uid
    cluster.jobs[REQUEST.name] = body
    return body


def test_a_job_that_failed_while_nobody_watched_is_judged_as_if_it_was_watched(cluster):
    exists(cluster, manifest(REQUEST, restarts=1))
    cluster.add_pods()()
    cluster.prints("what went wrong")()
    cluster.story = [(cluster.ends(1), cluster.fail())]
    with pytest.raises(Unavailable, match="node 0 ended with exit code 1. Its last line: what went wrong"):
        train(cluster)
    assert cluster.created == [] and cluster.deleted == ["uid-0"]


def test_a_job_of_this_name_that_asks_for_something_else_is_replaced(cluster):
    exists(cluster, manifest(changed(nodes=3)))
    cluster.story = [lambda: None, cluster.complete]
    assert any("was asked for something else" in line for line in train(cluster))
    assert cluster.deleted == ["uid-0", "uid-1"] and cluster.created[0]["spec"]["trainer"]["numNodes"] == 2


def test_a_job_of_somebody_else_is_left_alone(cluster):
    body = exists(cluster, manifest(REQUEST))
    body["metadata"]["annotations"] = {}
    with pytest.raises(Refused, match="tunegate did not create"):
        train(cluster)
    assert cluster.deleted == []


def test_a_job_that_is_being_deleted_is_waited_for(cluster):
    body = exists(cluster, manifest(REQUEST))
    body["metadata"]["deletionTimestamp"] = fake_trainer_api.now()
    cluster.lingering, cluster.story = 3, [cluster.complete]
    assert state("waiting for the deleted job to be gone") in train(cluster)
    assert len(cluster.created) == 1


def test_a_deleted_job_that_stays_is_reported(cluster, monkeypatch):
    body = exists(cluster, manifest(REQUEST))
    body["metadata"]["deletionTimestamp"] = fake_trainer_api.now()
    cluster.lingering = 10**6
    monkeypatch.setattr("tunegate.train_job.watch.BURIAL_SECONDS", -120.0)
    with pytest.raises(Unavailable, match="is still there after .* See what holds it"):
        train(cluster)


def test_a_queued_job_says_what_kueue_says(cluster):
    def suspend():
        cluster.job()["spec"]["suspend"] = True
        message = "insufficient unused quota for nvidia.com/gpu, 4 more needed"
        condition = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": message}
        cluster.workloads = [{"metadata": {"labels": {"uid": cluster.job()["metadata"]["uid"]}}, "status": {"conditions": [condition]}}]

    def resume():
        cluster.job()["spec"]["suspend"] = False
        cluster.condition("Suspended", "Resumed", status="False")()

    cluster.story = [(suspend, cluster.condition("Suspended", "Suspended")), lambda: None, (resume, cluster.add_pods()), cluster.complete]
    said = train(cluster, changed(queue="gpu"))
    assert said.count(state("waiting (queue gpu): insufficient unused quota for nvidia.com/gpu, 4 more needed")) == 1
    assert state("running on 2 of 2 nodes") in said


def test_a_cluster_that_does_not_tell_about_the_queue_is_no_failure(cluster):
    cluster.troubles = [("GET", "/workloads", 403)]
    cluster.story = [cluster.condition("Suspended", "Suspended"), (cluster.condition("Suspended", status="False"), cluster.complete)]
    assert state("waiting (suspended): nothing is said about why") in train(cluster)


@pytest.mark.parametrize(
    ("reason", "message", "sentence"),
    [
        ("Unschedulable", "0/3 nodes are available", "Unschedulable: 0/3 nodes are available"),
        ("ImagePullBackOff", "Back-off pulling image", "ImagePullBackOff: Back-off pulling image"),
        ("ContainerCreating", "", "ContainerCreating"),
    ],
)
def test_a_waiting_pod_says_why_once_and_again_after_a_silence(cluster, reason, message, sentence):
    for every, times in ((60.0, 1), (0.0, 6)):
        cluster.story = [(cluster.add_pods(phase="Pending"), cluster.waits(reason, message)), *[lambda: None] * 5, cluster.complete]
        said = train(cluster, say_every_seconds=every)
        assert said.count(state(f"waiting (2 pods of 2): {sentence}")) == times


def test_progress_is_said_where_the_trainer_knows_it(cluster):
    def progress():
        cluster.job()["status"] = {"trainerStatus": {"progressPercentage": 40, "lastUpdatedTime": fake_trainer_api.now()}}

    cluster.story = [(cluster.add_pods(), progress), cluster.complete]
    assert state("running on 2 of 2 nodes, 40 % done") in train(cluster)


@pytest.mark.parametrize(("code", "kind"), [(2, BadInput), (3, Refused)])
def test_a_hopeless_failure_ends_the_job_at_once_with_its_own_sentence(cluster, code, kind):
    cluster.story = [cluster.add_pods(), cluster.restarts(code, node=1)]  # the kubelet would go on trying
    with pytest.raises(kind, match="^Training diverged. Lower sft.learning_rate.$"):
        train(cluster, error={"code": code, "sentence": "Training diverged. Lower sft.learning_rate.", "retryable": False})
    assert cluster.deleted == ["uid-1"] and not cluster.story


@pytest.mark.parametrize("error", [None, {"code": 4, "sentence": "of an earlier attempt", "retryable": True}])
def test_without_a_sentence_about_this_failure_the_last_line_is_told(cluster, error):
    cluster.story = [(cluster.add_pods(), cluster.prints("ValueError: no rows", "")), cluster.ends(2)]
    with pytest.raises(BadInput, match=f"{PLACE} failed: node 0 ended with exit code 2. Its last line: ValueError: no rows"):
        train(cluster, error=error)


def test_a_node_out_of_memory_is_not_tried_again(cluster):
    cluster.story = [cluster.add_pods(), cluster.ends(137, node=1, reason="OOMKilled")]
    with pytest.raises(BadInput, match="Node 1 of .* used more than 64 GiB. Raise resources.memory_gib"):
        train(cluster)


@pytest.mark.parametrize("code", [1, 4])
def test_another_failure_is_left_to_the_clusters_restarts_and_then_unavailable(cluster, code):
    cluster.story = [(cluster.add_pods(), cluster.prints("first")), cluster.restarts(code), (cluster.prints("second"), cluster.fail())]
    with pytest.raises(Unavailable, match="^The store is silent.$") as raised:
        train(cluster, error={"code": code, "sentence": "The store is silent.", "retryable": True})
    lines = [line for line in raised.value.said if not line.startswith("  ")]
    assert lines == ["first", "second"]
    assert len(cluster.created) == 1 and cluster.deleted == ["uid-1"]


def test_a_failure_without_a_trace_is_unavailable(cluster):
    cluster.story = [cluster.fail()]
    with pytest.raises(Unavailable, match="jobset failed due to one or more job failures"):
        train(cluster)


@pytest.mark.parametrize("interruption", ["saved", "evicted", "killed"])
def test_an_interrupted_job_starts_again_from_what_it_saved(cluster, interruption):
    happens = {"saved": cluster.ends(75, node=1), "evicted": cluster.evicts(1), "killed": cluster.ends(143, node=1)}[interruption]
    cluster.lingering = 2
    cluster.story = [
        (cluster.add_pods(), cluster.prints("step 1")),
        (happens, cluster.restarts(1), cluster.fail()),
        (cluster.add_pods(suffix="b"), cluster.prints("resumed at step 1")),
        cluster.complete,
    ]
    said = train(cluster)
    assert any("node 1" in line and "(1 of 2 times)" in line for line in said)
    assert [line for line in said if "step" in line] == ["step 1", "resumed at step 1"]
    assert [body["metadata"]["annotations"]["tunegate/restarts"] for body in cluster.created] == ["0", "1"]
    assert cluster.deleted == ["uid-1", "uid-2"]


def test_interruptions_have_an_end_that_counts_those_before_a_retry(cluster):
    exists(cluster, manifest(REQUEST, restarts=1))
    cluster.add_pods()()
    cluster.story = [(cluster.ends(75), cluster.fail())] + [(cluster.add_pods(), cluster.ends(75), cluster.fail())] * 5
    with pytest.raises(Unavailable, match=r"interrupted again after 2 new starts: node 0 .*exit code 75 \(saved"):
        train(cluster)
    assert len(cluster.created) == 1


def test_nodes_that_save_because_the_job_failed_are_not_its_cause(cluster, monkeypatch):
    times = iter(range(10, 60))
    monkeypatch.setattr(fake_trainer_api, "now", lambda: f"2026-11-24T08:00:{next(times)}Z")
    cluster.story = [cluster.add_pods(), (cluster.ends(1), cluster.ends(75, node=1), cluster.fail())]
    with pytest.raises(Unavailable, match="node 0 ended with exit code 1"):
        train(cluster)
    assert len(cluster.created) == 1


def test_a_pod_that_the_cluster_replaced_goes_on_with_a_new_log(cluster):
    cluster.story = [
        (cluster.add_pods(), cluster.prints("step 1")),
        (cluster.ends(75), cluster.evicts(0), cluster.prints("saved", moment=time.time_ns() + 10**10)),  # its clock is ahead
        (cluster.add_pods(nodes=1, suffix="b"), cluster.prints("step 2")),
        cluster.complete,
    ]
    assert [line for line in train(cluster) if not line.startswith("  ")] == ["step 1", "saved", "step 2"]
    assert len(cluster.created) == 1


def test_the_last_lines_before_a_restart_in_the_pod_are_relayed(cluster):
    cluster.story = [
        (cluster.add_pods(), cluster.prints("a")),
        (cluster.prints("b"), cluster.restarts(1), cluster.prints("c")),
        cluster.complete,
    ]
    assert [line for line in train(cluster) if len(line) == 1] == ["a", "b", "c"]


def test_time_is_up(cluster):
    cluster.story = [cluster.add_pods(), cluster.fail("DeadlineExceeded", "TrainJob exceeded its active deadline")]
    with pytest.raises(Unavailable, match="stopped after 24 h, the time it was given"):
        train(cluster)
    assert cluster.deleted == ["uid-1"]


def test_a_runtime_that_is_not_there_is_told(cluster):
    cluster.story = [cluster.fail("TrainingRuntimeNotSupported", "unsupported runtime")]
    with pytest.raises(BadInput, match="no training runtime 'torch-distributed'"):
        train(cluster)


@pytest.mark.parametrize("trouble", [500, 503, 429, fake_trainer_api.RESET])
def test_a_server_in_trouble_is_asked_again(cluster, trouble):
    requests = [("POST", "/trainjobs"), ("GET", "/trainjobs/"), ("GET", "/pods?"), ("GET", "/log?"), ("DELETE", "/trainjobs/")]
    cluster.troubles = [(*request, trouble) for request in requests for _ in range(2)]
    cluster.story = [(cluster.add_pods(), cluster.prints("one")), cluster.prints("two"), cluster.complete]
    assert [line for line in train(cluster) if not line.startswith("  ")] == ["one", "two"]
    assert cluster.troubles == [] and cluster.deleted == ["uid-1"]


def test_a_creation_whose_answer_was_lost_is_found_again(cluster):
    real = cluster.answer

    def answer(method, path, query, body):
        result = real(method, path, query, body)
        return (500, "lost") if method == "POST" and len(cluster.created) == 1 and result[0] == 201 else result

    cluster.answer, cluster.story = answer, [cluster.complete]
    assert any("exists already" in line for line in train(cluster))
    assert len(cluster.created) == 1


@pytest.mark.parametrize(
    ("trouble", "kind", "sentence"),
    [
        (("POST", "/trainjobs", 404), BadInput, "Install Kubeflow Trainer 2.3"),
        (("POST", "/trainjobs", 403), BadInput, "may not create TrainJobs in namespace ml: it was the test's wish"),
        (("POST", "/trainjobs", 422), BadInput, "refused the TrainJob .*: it was the test's wish"),
        (("GET", "/pods?", 403), BadInput, "may not list pods"),
        (("GET", "/trainjobs/", 418), Unavailable, "did not get TrainJobs"),
    ],
)
def test_what_the_server_refuses_is_told_and_nothing_stays_behind(cluster, trouble, kind, sentence):
    cluster.troubles = [trouble]
    with pytest.raises(kind, match=sentence):
        train(cluster)
    assert cluster.jobs == {}


def test_a_job_that_somebody_deleted_is_unavailable(cluster):
    cluster.story = [cluster.add_pods(), lambda: cluster.jobs.clear()]
    with pytest.raises(Unavailable, match="deleted by somebody else"):
        train(cluster)
    assert cluster.deleted == []


def test_ctrl_c_deletes_the_job_and_a_killed_component_leaves_it(cluster):
    def raising(error):
        def say(line):
            if "running" in line:
                raise error

        return say

    for error, left in ((KeyboardInterrupt(), 0), (SystemExit(143), 1)):
        cluster.story = [cluster.add_pods()]
        with pytest.raises(type(error)):
            run(REQUEST, cluster.client, raising(error), poll_seconds=0.005)
        assert len(cluster.jobs) == left


def test_a_job_that_cannot_be_deleted_is_said_and_the_result_stands(cluster):
    cluster.troubles, cluster.story = [("DELETE", "/trainjobs/", 403)], [cluster.complete]
    assert f"Delete it with: kubectl -n ml delete trainjob {REQUEST.name}" in train(cluster)[-1]


def test_lines_of_the_same_nanosecond_and_cut_lines():
    cursor, stamp = Cursor(), "2026-11-24T08:00:00"
    first = f"{stamp}.1Z a\n{stamp}.1Z b\n"
    assert cursor.new_lines(first, ended=False) == ["a", "b"]
    assert cursor.new_lines(first + f"{stamp}.1Z c\n{stamp}.12Z d\n{stamp}.2Z cut", ended=False) == ["c", "d"]
    assert cursor.new_lines(f"{stamp}.12Z d\n{stamp}.2Z cut here", ended=True) == ["cut here"]
    assert cursor.new_lines(f"failed to watch the file\n{stamp}.2Z cut here\n2026-11-24T10:00:00.3+02:00 e\n", ended=False) == ["e"]
    assert cursor.new_lines("2026-11-24T08:00:01Z  indented\n", ended=False) == [" indented"]


def test_outside_of_a_pod_there_is_no_namespace(tmp_path, monkeypatch):
    with pytest.raises(Unavailable, match="no pod of a Kubernetes cluster"):
        own_namespace()
    monkeypatch.setattr(api, "OWN_NAMESPACE", tmp_path / "namespace")
    (tmp_path / "namespace").write_text("ml\n")
    assert own_namespace() == "ml"
