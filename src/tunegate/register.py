"""Make a promoted model a version in the MLflow registry, with its verdict, its lineage and a model card.

The model's files stay where they are, in the store; the version names them by reference and digest. Registering the same
model with the same verdict again finds the version that is there.
"""

import json
import tempfile
from pathlib import Path

from tunegate import digests, registry, tracking
from tunegate.gate.verify import Proven, verify_verdict
from tunegate.steps import Inputs, Result
from tunegate.store import Store

SIGNATURE = {
    "inputs": [{"name": "messages", "type": "list of {role, content}"}],
    "outputs": [{"name": "content", "type": "string"}],
    "task": "llm/v1/chat",
}
INPUT_EXAMPLE = {"messages": [{"role": "user", "content": "Hello"}]}


def register_step(config: dict, inputs: Inputs, output: Path) -> Result:
    """Write version/version.json, which the steps after this one take."""
    name = config["register"]["model_name"]
    refs = {"model": inputs.refs["model"], "verdict": inputs.refs["verdict"]}
    version, found = register(name, config["recipe_name"], refs, inputs["verdict"], inputs.store)
    digests.write_atomic(output / "version" / "version.json", json.dumps(version, indent=2, sort_keys=True) + "\n")
    waived = f"; WAIVED by {version['waiver']}" if version["waiver"] else ""
    there = " is there already" if found else ", alias candidate"
    return Result(summary=version, line=f"{name} version {version['version']}{there}; verdict {version['signed']}{waived}")


def register(name: str, recipe_name: str, refs: dict[str, str], verdict_dir: Path, store: Store) -> tuple[dict, bool]:
    """Register the model `refs["model"]`; give version.json and whether the version was there before.

    Raises:
        Refused: the verdict does not let just this model through, beside the champion of now.
        Unavailable: MLflow does not answer.
    """
    proof = verify_verdict(verdict_dir, refs["model"], store=store, champion=registry.champion_ref(name))
    store_uri = store.uri if "://" in store.uri else str(Path(store.uri).resolve())
    tags = version_tags(proof, verdict_dir, recipe_name, refs, store_uri)
    card = model_card(name, recipe_name, refs["model"], proof)
    with registry.answering():
        _create_model(name)
        version = find(name, tags)
        found = version is not None
        if found:
            _renew(version, tags, card)
        else:
            version = _create_version(name, tags, card)
        registry.set_alias(name, "candidate", version.version)
    return {
        "name": name, "version": str(version.version), "ref": refs["model"], "verdict_sha256": tags[registry.VERDICT_SHA256],
        "source": version.source, "human_approval": proof.needs_person, "signed": proof.signed, "waiver": proof.waived,
    }, found  # fmt: skip


def version_tags(proof: Proven, verdict_dir: Path, recipe_name: str, refs: dict[str, str], store_uri: str) -> dict[str, str]:
    verdict = proof.verdict
    facts = verdict["predicate"]["facts"]
    tags = {
        registry.REF: refs["model"],
        registry.STORE: store_uri,
        registry.VERDICT: refs["verdict"],
        registry.VERDICT_SHA256: digests.sha256_file(verdict_dir / "verdict.json"),
        registry.DECISION: verdict["decision"],
        registry.SIGNED: proof.signed,
        "tunegate.policy_sha256": verdict["predicate"]["policy"]["sha256"],
        "tunegate.recipe": recipe_name,
        "tunegate.signature": json.dumps(SIGNATURE),
        "tunegate.input_example": json.dumps(INPUT_EXAMPLE),
    }
    if proof.waived:
        tags[registry.WAIVER] = proof.waived
    lineage = facts.get("inputs", {})
    tags |= {f"tunegate.{name}": lineage[name] for name in ("data", "adapter") if lineage.get(name)}
    base = facts["arms"].get("base_zero_shot", {}).get("model_digest")
    return tags | ({"tunegate.base": base} if base else {})


def find(name: str, tags: dict[str, str]):
    """Find the version that has this model and this verdict."""
    key = {tag: tags[tag] for tag in (registry.REF, registry.VERDICT_SHA256)}
    condition = " and ".join([f"name = '{name}'", *(f"tags.`{tag}` = '{value}'" for tag, value in key.items())])
    return next(iter(registry.client().search_model_versions(condition)), None)


def _create_model(name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        registry.client().create_registered_model(name, description="Fine-tuned with tunegate; every version passed its gate.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _renew(version, tags: dict[str, str], card: str) -> None:
    """Let a version that is there say what proves it now: the same verdict may have been signed or waived since, or stored elsewhere."""
    for tag in (registry.STORE, registry.VERDICT, registry.SIGNED, registry.WAIVER):
        if version.tags.get(tag) != tags.get(tag):
            registry.set_tag(version.name, version.version, tag, tags[tag])
    if version.description != card:
        registry.client().update_model_version(version.name, version.version, card)


def _create_version(name: str, tags: dict[str, str], card: str):
    store_uri, ref = tags[registry.STORE], tags[registry.REF]
    run = tracking.parent_run()
    location = f"{store_uri.rstrip('/')}/objects/{ref}"
    if "://" not in location:
        if tracking.is_local(tracking.tracking_uri()):
            location = Path(location).as_uri()
        else:
            # A server refuses a path outside a run's artifacts, which it could not read anyway: the source is a pointer.
            run = run or _run_of_its_own(ref)
            location = _log_pointer(run, {"ref": ref, "store": store_uri, "signature": SIGNATURE, "input_example": INPUT_EXAMPLE})
    return registry.client().create_model_version(name, source=location, run_id=run, tags=tags, description=card)


def _run_of_its_own(ref: str) -> str:
    client, uri = registry.client(), tracking.tracking_uri()
    experiment = tracking.experiment_id(client, uri, tracking.experiment_name())
    return client.create_run(experiment, tags={registry.REF: ref}, run_name="register").info.run_id


def _log_pointer(run: str, pointer: dict) -> str:
    folder = "model-" + pointer["ref"].rpartition("/")[2][:12]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "MODEL.json"
        path.write_text(json.dumps(pointer, indent=2) + "\n", encoding="utf-8")
        registry.client().log_artifact(run, str(path), folder)
    return f"runs:/{run}/{folder}"


def model_card(name: str, recipe_name: str, ref: str, proof: Proven) -> str:
    """Write a short card in Markdown: what it is, before and after, what it was proven to do, and by whose word if it was not."""
    from tunegate.gate.measures import before_after
    from tunegate.gate.wording import shown

    verdict, predicate = proof.verdict, proof.verdict["predicate"]
    rows = before_after(predicate["measures"], predicate["facts"]["arms"], None)
    metrics = sorted({metric for row in rows for metric in row["metrics"] if not metric.startswith("serve/")})
    lines = [
        f"# {name}", "", f"Model `{ref}`, trained by the recipe `{recipe_name}`.", "",
        "| arm | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|",
    ]  # fmt: skip
    for row in rows:
        cells = [shown(found["mean"], found["kind"]) if (found := row["metrics"].get(metric)) else "" for metric in metrics]
        lines.append(f"| {row['arm']} | " + " | ".join(cells) + " |")
    lines += ["", f"**{verdict['decision']}** under the policy `{predicate['policy']['name']}`, verdict {proof.signed}:", ""]
    if proof.waived:
        lines[-1:] = ["", f"**WAIVED, not proven: by {proof.waived}**", ""]
    return "\n".join(lines + [f"* {reason}" for reason in verdict["reasons"]]) + "\n"
