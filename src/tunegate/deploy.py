"""Serve an approved version and prove that it answers as it did in evaluation; serve a champion for a person.

The smoke test asks the server some of the questions of the evaluation and wants the same answers back. Its record is kept
under a digest of everything it depends on, so that an identical deployment on this machine is not proven twice.
"""

import json
import math
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from tunegate import digests, kubernetes_deploy, prompts, registry
from tunegate.errors import BadInput, Refused, Unavailable
from tunegate.gate.verify import Proven, sealed_digest
from tunegate.proof import promotable, require_same
from tunegate.recipe import Deploy, Serve, Task
from tunegate.results import read_items
from tunegate.serving import client, engine
from tunegate.steps import Inputs, Result, say
from tunegate.store import Store, open_store

AGREEMENT = 0.9  # share of smoke answers that must be the same; arbitrary, below 1 because batching may flip a near-tie in bfloat16
SMOKE_CONCURRENCY = 4


@dataclass(frozen=True)
class Question:
    """One prompt of the smoke test, and what the model answered in evaluation."""

    item_id: str
    messages: list[dict]
    expected: str
    tools: list | None = None


@dataclass(frozen=True)
class RemoteServer:
    """A server of a cluster, as serving/client.py wants one."""

    url: str
    name: str
    log: str = "the pod's log"

    def check(self) -> None:
        """A pod that ended is noticed by its failing connection."""


def deploy_step(config: dict, inputs: Inputs, output: Path) -> Result:
    """Write endpoint/endpoint.json: what serves, where or how to start it, and how its smoke test went."""
    deploy, serve, task = Deploy(**config["deploy"]), Serve(**config["serve"]), Task(**config["task"])
    name, model_ref = config["register"]["model_name"], inputs.refs["model"]
    version = json.loads((inputs["version"] / "version.json").read_text(encoding="utf-8"))
    sealed = sealed_digest(inputs["data"]) if "data" in inputs else None
    proof = require_approval(version, inputs["verdict"], model_ref, sealed)
    questions = smoke_questions(inputs["verdict"], judged_data(inputs, proof.verdict), task, deploy.smoke_items)
    if deploy.target == "local":
        endpoint = deploy_locally(inputs.store, inputs["model"], model_ref, deploy, serve, task, name, questions)
    else:
        annotations = kubernetes_deploy.proof_annotations(version["verdict_sha256"], proof.waived)
        endpoint = deploy_on_cluster(inputs.store.uri, model_ref, deploy, serve, task, name, questions, annotations)
    endpoint |= {"signed": proof.signed, "waiver": proof.waived}
    registry.set_tag(version["name"], version["version"], registry.SERVE, json.dumps({"serve": config["serve"], "system": task.system}))
    digests.write_atomic(output / "endpoint" / "endpoint.json", json.dumps(endpoint, indent=2, sort_keys=True) + "\n")
    smoke = endpoint["smoke"]
    found = " (recorded earlier for the same model, engine and configuration)" if smoke["recorded"] else ""
    waived = f"; WAIVED by {proof.waived}" if proof.waived else ""
    return Result(
        summary=endpoint,
        metrics={"smoke_items": smoke["items"], "smoke_items_agreed": smoke["agreed"], "smoke_seconds": smoke["seconds"]},
        line=f"smoke test: {smoke['agreed']} of {smoke['items']} answers as in evaluation{found}; {endpoint['start']}{waived}",
    )


def require_approval(version: dict, verdict_dir: Path, model_ref: str, sealed_sha256: str | None = None) -> Proven:
    """Give what is proven of the version; refuse one that is another model's, has another verdict, is stale, or was not approved."""
    found = registry.version(version["name"], version["version"])
    require_same(found, verdict_dir, model_ref)
    return promotable(found, registry.champion_ref(version["name"]), sealed_sha256)


def judged_data(inputs: Inputs, verdict: dict) -> Path:
    """Give the data with the questions whose answers the verdict holds: the input `data`, or what the verdict names."""
    if "data" in inputs:
        return inputs["data"]
    ref = verdict["predicate"]["facts"].get("inputs", {}).get("data")
    if not ref:
        raise BadInput("The verdict does not name the data it was made on. Give the directory that curate wrote as `data`.")
    return inputs.store.get(ref)


def smoke_questions(verdict_dir: Path, data: Path, task: Task, count: int) -> list[Question]:
    """Choose `count` questions the candidate answered and ended in evaluation, dev rows before test rows.

    Raises:
        BadInput: there are none.
    """
    rows = {}
    for split in ("test", "dev"):
        path = data / f"{split}.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            row = json.loads(line)
            rows[row["id"]] = row
    items = [
        item for item in read_items(verdict_dir)
        if item["arm"] == "candidate" and item["metric"] == "task/exact" and item["finish_reason"] == "stop" and item["item_id"] in rows
    ]  # fmt: skip
    items.sort(key=lambda item: (item["split"] != "dev", item["item_id"]))
    if not items:
        raise BadInput(f"The evidence in {verdict_dir} has no finished answer of the candidate to a row of {data}, so nothing to ask.")
    chosen = items[:count]
    asked = [rows[item["item_id"]] for item in chosen]
    prompted = zip(chosen, prompts.candidate(asked, task), prompts.tools_of(asked), strict=True)
    return [Question(item["item_id"], messages, item["output"], tools) for item, messages, tools in prompted]


def smoke_test(server, questions: list[Question], max_new_tokens: int) -> dict:
    """Ask the server the questions; count the answers that come back as in evaluation and end by themselves.

    Raises:
        Refused: fewer than AGREEMENT of them do; the first that does not is in the sentence.
    """
    started = time.monotonic()
    answers = client.chat(
        server, [question.messages for question in questions], max_new_tokens, concurrency=SMOKE_CONCURRENCY,
        tools=[question.tools for question in questions],
    )  # fmt: skip
    pairs = list(zip(questions, answers, strict=True))
    wrong = [(q, a) for q, a in pairs if a.finish_reason != "stop" or a.text.strip() != q.expected.strip()]
    agreed = len(questions) - len(wrong)
    if agreed < math.ceil(AGREEMENT * len(questions)):
        question, answer = wrong[0]
        raise Refused(
            f"The smoke test failed: {agreed} of {len(questions)} answers are as in evaluation, {AGREEMENT:.0%} must be. "
            f"To row {question.item_id[:12]} the server says {answer.text[:120]!r} (ended by {answer.finish_reason}), and in evaluation "
            f"it was {question.expected[:120]!r}. Check that engine, dtype and system prompt are those of the evaluation."
        )
    return {"passed": True, "items": len(questions), "agreed": agreed, "seconds": round(time.monotonic() - started, 3)}


def deploy_locally(
    store: Store, model_dir: Path, model_ref: str, deploy: Deploy, serve: Serve, task: Task, name: str, questions: list[Question]
) -> dict:
    """Start the server, smoke-test it and stop it, unless the same deployment passed before."""
    identity = engine.identify(serve)
    asked = [[question.messages, question.tools, question.expected] for question in questions]
    key = digests.digest_json({
        "model": model_ref, "engine": identity, "serve": serve.model_dump(), "deploy": deploy.model_dump(), "name": name,
        "max_new_tokens": task.max_new_tokens, "questions": asked,
    })  # fmt: skip
    smoke = store.read_json(f"smoke/{key}.json")
    recorded = smoke is not None and smoke["passed"]
    if not recorded:
        with engine.serve(model_dir, serve, served_name=name, port=deploy.port) as server:
            require_listed(server, name)
            smoke = smoke_test(server, questions, task.max_new_tokens)
        store.write_json(f"smoke/{key}.json", smoke)
    return {
        "target": "local", "model": model_ref, "engine": identity, "smoke": {**smoke, "recorded": recorded}, "url": None,
        "start": f"start it with: tunegate serve {name}@champion",
    }  # fmt: skip


def deploy_on_cluster(
    store_uri: str, model_ref: str, deploy: Deploy, serve: Serve, task: Task, name: str, questions: list[Question],
    annotations: dict[str, str], cluster=None,
) -> dict:  # fmt: skip
    """Roll the model out and smoke-test it through its Service; what was served before comes back if either fails.

    Not covered: from outside the cluster the Service cannot be reached, so this runs in a pod.
    """
    wanted = kubernetes_deploy.objects(deploy, serve, name, model_ref, store_uri, annotations)
    cluster = cluster or kubernetes_deploy.Cluster.connect()
    proven = {}

    def check():
        url = service_url(cluster, deploy, wanted)
        # The name with the digest: a pod of the model before would answer to the plain one.
        server = RemoteServer(url, kubernetes_deploy.served_names(name, model_ref)[1])
        require_listed(server, server.name)
        proven.update(url=url, smoke=smoke_test(server, questions, task.max_new_tokens))

    kubernetes_deploy.roll_out(cluster, wanted, serve.start_timeout_seconds, check)
    # The image fixes the version; it is not asked for it.
    identity = {"name": "vllm", "version": deploy.image or "of the serving runtime", "dtype": serve.dtype}
    smoke = {**proven["smoke"], "recorded": False}
    url = proven["url"]
    return {"target": deploy.target, "model": model_ref, "engine": identity, "smoke": smoke, "url": url, "start": f"it answers at {url}"}


def service_url(cluster, deploy: Deploy, wanted: list[dict]) -> str:
    if deploy.target == "deployment":
        return f"http://{deploy.name}.{deploy.namespace}.svc:{kubernetes_deploy.PORT}"
    status = (cluster.get(wanted[0]) or {}).get("status", {})
    url = status.get("address", {}).get("url")
    if not url:
        raise Unavailable(f"The InferenceService {deploy.namespace}/{deploy.name} is ready and names no address. Look at its status.")
    return url.rstrip("/")


def require_listed(server, name: str) -> None:
    """Refuse a server that does not list `name` among its models."""
    import httpx

    try:
        reply = httpx.get(f"{server.url}/v1/models", timeout=30, trust_env=False)
        reply.raise_for_status()
        listed = [model["id"] for model in reply.json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise Unavailable(f"{server.url}/v1/models did not answer: {error}. Look at {server.log}.") from None
    if name not in listed:
        raise Refused(f"{server.url} serves {', '.join(listed)}, and not {name}. Something else listens there.")


def serve_champion(which: str, port: int = 8000) -> None:
    """Serve MODEL@ALIAS (or MODEL/VERSION) in the foreground until it is interrupted; the verdict is verified first."""
    found = registry.resolve(which)
    # Both were proven beside the champion of their time; whatever else is served must be proven beside that of now.
    standing = {number for alias, number in registry.aliases(found.name).items() if alias in ("champion", "previous")}
    beside = {} if str(found.version) in standing else {"champion": registry.champion_ref(found.name)}
    proof = promotable(found, **beside)
    store, ref = open_store(found.tags[registry.STORE]), found.tags[registry.REF]
    how = json.loads(found.tags.get(registry.SERVE, "{}"))
    title = f"{found.name} version {found.version}"
    say(f"Starting {title} ({ref[:40]}…), verdict {proof.verdict['decision']}, {proof.signed}")
    if proof.waived:
        say(f"WAIVED, not proven: by {proof.waived}")
    try:
        with engine.serve(store.get(ref), Serve(**how.get("serve", {})), served_name=found.name, port=port) as server:
            say(f"\n{title} answers at {server.url}/v1 ({server.engine['name']} {server.engine['version']}). Try:\n")
            say(curl_command(server.url, found.name, how.get("system", "")))
            say("\nStop it with Ctrl-C.")
            while True:
                server.check()
                time.sleep(1)
    except KeyboardInterrupt:
        say("Stopped.")


def curl_command(url: str, name: str, system: str) -> str:
    """Write a command that a person can paste; it carries the system prompt the model was trained with."""
    turns = [{"role": "system", "content": system}] if system else []
    body = {"model": name, "messages": [*turns, {"role": "user", "content": "Hello"}], "temperature": 0}
    return f"curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
