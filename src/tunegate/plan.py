"""Fail in seconds what would fail after hours, and give each step its own slice of the recipe.

A slice is canonical JSON: the store, the digest of the step's code, and only the sections that the step reads. A changed
port then does not retrain a model. What could not be looked at from here (no network, a later step reads it) is said.
"""

import glob
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tunegate import steps, suites
from tunegate.digests import canonical_json
from tunegate.errors import BadInput, Unavailable
from tunegate.gate.planning import Sizes, check_policy
from tunegate.predict import shape as shapes
from tunegate.predict import table as predicted
from tunegate.predict.unsuited import refuse_full, refuse_quantised
from tunegate.recipe import Recipe, parse_recipe
from tunegate.store import Store, open_store
from tunegate.suites import files as suite_files

SECTIONS = {
    "ingest": ("data", "base_model"),
    "curate": ("curate", "task", "general_text"),
    "baseline": ("baseline", "task", "evaluate", "serve", "policy"),
    "sft": ("sft", "task"),
    "prefer": ("prefer", "task", "sft"),
    "merge": ("merge",),
    "evaluate": ("evaluate", "task", "serve", "champion"),
    "gate": ("policy", "recipe_name", "cost_per_hour", "champion"),
    "register": ("register", "recipe_name"),
    "approve": ("approve", "register"),
    "deploy": ("deploy", "serve", "register", "task"),
    "promote": ("register",),
}
MODEL_COPIES = 3  # the mirrored base, the merged model, and room for adapters and results
HUB_SECONDS = 10.0


@dataclass
class Plan:
    """What plan found: a configuration string per step, a table for people, and what it could not check."""

    steps: dict[str, str]
    facts: list[tuple[str, str]] = field(default_factory=list)
    estimates: list[str] = field(default_factory=list)  # lines of a table: what each kind of device would need and give
    unchecked: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # what can run, and will likely not end as hoped
    metrics: dict[str, float] = field(default_factory=dict)


def plan_step(config: dict, inputs: steps.Inputs, output: Path) -> steps.Result:
    recipe = parse_recipe(config["recipe"])
    champion = current(recipe.register_.model_name)
    found = plan(recipe, champion, maybe_champion=champion is not None)
    for warning in found.warnings:
        steps.say(f"      plan: warning: {warning}")
    line = f"{dict(found.facts).get('parameters', 'size unknown')}; not checked: {len(found.unchecked)}"
    line += f"; warnings: {len(found.warnings)}" if found.warnings else ""
    summary = {"steps": found.steps, "facts": found.facts, "estimates": found.estimates, "unchecked": found.unchecked}
    summary["warnings"] = found.warnings
    return steps.Result(summary, metrics=found.metrics, line=line)


def step_config(recipe: str) -> str:
    """Make plan's own configuration string from recipe text."""
    return canonical_json({"store": store_of(recipe), "code": steps.code_of("plan"), "config": {"recipe": recipe}}).decode()


def store_of(recipe: str) -> str:
    """Read the store's address from recipe text, even where the rest is wrong, so that the error can be recorded there."""
    try:
        document = yaml.safe_load(recipe)
    except yaml.YAMLError:
        document = None
    store = document.get("store") if isinstance(document, dict) else None
    return store if isinstance(store, str) else Recipe.model_fields["store"].default


def current(model_name: str) -> dict | None:
    """Find the champion that a new model is compared with: {"version", "ref", "store"}; None where there is none.

    Raises:
        Unavailable: MLflow does not answer.
    """
    from tunegate import registry

    found = registry.champion(model_name)
    return {"version": str(found.version), "ref": found.tags[registry.REF], "store": found.tags[registry.STORE]} if found else None


def plan(recipe: Recipe, champion: dict | None = None, *, maybe_champion: bool = True) -> Plan:
    """Check a recipe and slice it.

    Args:
        champion: what `current` found; evaluate and gate compare with it.
        maybe_champion: whether there may be one; False where it was looked for and is not there.

    Raises:
        BadInput: a source, the base model or the policy cannot give a run that ends in a verdict.
        Unavailable: the store does not answer, or its disk is too small.
    """
    store = open_store(recipe.store)
    found = Plan(slices(recipe, champion))
    if champion:
        found.facts.append(("champion", f"version {champion['version']} of {recipe.register_.model_name}, which is measured too"))
    if "://" in recipe.store:
        found.unchecked.append(f"whether {recipe.store} answers, which the first step asks")
    _check_sources(recipe, store, found)
    _check_policy(recipe, store, found, maybe_champion)
    _check_sections_agree(recipe)
    base = _check_base(recipe, store, found)
    _check_disk(recipe, base, found)
    return found


def slices(recipe: Recipe, champion: dict | None = None) -> dict[str, str]:
    """Give the canonical configuration string of each step."""
    document = recipe.model_dump(mode="json", by_alias=True)
    document["recipe_name"] = recipe.name
    document["champion"] = champion
    document["general_text"] = recipe.evaluate.general_text  # curate reads nothing else of that section
    found = {
        step: {"store": recipe.store, "code": steps.code_of(step), "config": {section: document[section] for section in sections}}
        for step, sections in SECTIONS.items()
    }
    for step in ("sft", "prefer"):  # on how many GPUs a model was trained, and at what price, is no reason to train it again
        found[step]["where"] = document["resources"]
    return {step: canonical_json(slice_).decode() for step, slice_ in found.items()}


def locate(store: Store, address: str) -> Path | None:
    """Find a local or staged file or directory; None for an address that is read later, over the network.

    Raises:
        BadInput: it should be here and is not.
    """
    if address.startswith("store:"):
        return store.get(address.removeprefix("store:"))
    if "://" in address:
        return None
    path = Path(address)
    if not path.exists():
        raise BadInput(f"{address} does not exist. Paths in a recipe are relative to the recipe.")
    return path


def _check_sources(recipe: Recipe, store: Store, found: Plan) -> None:
    here = 0
    for source in recipe.data.sources:
        if "://" not in source and glob.has_magic(source):
            if not glob.glob(source, recursive=True):
                raise BadInput(f"No file matches the source {source}. Paths in a recipe are relative to the recipe.")
            here += 1
        elif locate(store, source) is None:
            found.unchecked.append(f"the source {source}, which ingest reads")
        else:
            here += 1
    for named in (
        recipe.baseline.replay_data,
        recipe.baseline.replay_prompts,
        recipe.curate.test_set,
        *recipe.curate.decontaminate.against,
    ):
        if named:
            locate(store, named)
    found.facts.append(("sources", f"{len(recipe.data.sources)}, of which {here} are here"))


def _check_policy(recipe: Recipe, store: Store, found: Plan, maybe_champion: bool) -> None:
    test_set, rows = recipe.curate.test_set, recipe.curate.test_rows
    test = _lines(test_set, store, found) if test_set else rows
    source = f"curate.test_set has {test} rows" if test_set else f"curate.test_rows is {rows}"
    general = _lines(recipe.evaluate.general_text, store, found) if recipe.evaluate.general_text else 0
    outlook = check_policy(recipe, Sizes(test, source, general), _suites(recipe, store, found), maybe_champion)
    found.facts += outlook.facts
    found.warnings += outlook.warnings


def _suites(recipe: Recipe, store: Store, found: Plan) -> set[str] | None:
    """Name the metrics of the recipe's suites; None where a suite's files are read later.

    Raises:
        BadInput: a suite lacks a file, a task or a package.
    """
    if far := [path for suite in recipe.evaluate.suites for path in suite_files.named(suite).values() if "://" in path]:
        found.unchecked.append(f"the suites, which need {', '.join(far)}")
        return None
    settings = suites.with_local_files(recipe.evaluate, store, Path())
    if wrong := suites.problems(settings):
        raise BadInput(" ".join(wrong))
    return suites.metrics_of(settings)


def _lines(address: str, store: Store, found: Plan) -> int | None:
    """Count the lines of a file that is here; None where a later step reads it."""
    path = locate(store, address)
    if path is None:
        found.unchecked.append(f"the length of {address}, which a later step reads")
        return None
    files = sorted(p for p in path.iterdir() if p.name != "MANIFEST.json") if path.is_dir() else [path]
    return sum(1 for file in files for line in file.read_bytes().splitlines() if line.strip())


def _check_sections_agree(recipe: Recipe) -> None:
    if recipe.prefer.method != "none":
        refuse_full(recipe.sft)
    if recipe.task.max_new_tokens >= recipe.serve.max_model_len:
        raise BadInput(
            f"task.max_new_tokens is {recipe.task.max_new_tokens} and serve.max_model_len {recipe.serve.max_model_len}: "
            "no room is left for a prompt."
        )
    if recipe.deploy.target != "local" and "@sha256:" not in recipe.deploy.image:
        raise BadInput(f"deploy.target is {recipe.deploy.target}, which needs deploy.image with its digest (name@sha256:…).")


def _check_base(recipe: Recipe, store: Store, found: Plan) -> Path | None:
    base = locate(store, recipe.base_model)
    if base is not None:
        config = check_model_directory(base)
    else:
        found.unchecked.append(f"the tokenizer and chat template of {recipe.base_model}, which ingest mirrors")
        config = _hub_config(recipe.base_model, found) if recipe.base_model.startswith("hf://") else None
    if config is None:
        found.unchecked.append("GPU memory, hours and cost, which need the base model's config.json")
        return base
    refuse_quantised(config, recipe.base_model)
    shape = shapes.read_shape(config)
    if shape is None:
        found.unchecked.append(f"GPU memory, hours and cost: {config.get('model_type', 'this model')} is not built like Llama")
        return base
    found.facts.append(("parameters", _count(shape.parameters)))
    found.facts.append(("adapter parameters", _count(shape.adapter_parameters(recipe.sft.lora))))
    found.metrics["parameters"] = shape.parameters
    longest = config.get("max_position_embeddings")
    if longest and recipe.serve.max_model_len > longest:
        raise BadInput(f"serve.max_model_len is {recipe.serve.max_model_len}; the base model reads at most {longest} tokens.")
    outlook = predicted.refuse_or_predict(shape, recipe)
    found.metrics["training_memory_predicted_gib"] = round(outlook.need_gib, 2)
    found.facts += predicted.facts(shape, recipe, outlook)
    found.estimates += predicted.table(shape, recipe)
    return base


def check_model_directory(base: Path) -> dict:
    """Return a model directory's config.json, parsed.

    Raises:
        BadInput: config, weights, tokenizer or chat template are missing.
    """
    if not (base / "config.json").is_file():
        raise BadInput(f"The base model {base} has no config.json. Give a Hugging Face model directory.")
    if not any(base.glob("*.safetensors")):
        raise BadInput(f"The base model {base} has no .safetensors file. Convert its weights with save_pretrained.")
    settings = base / "tokenizer_config.json"
    if not settings.is_file():
        raise BadInput(f"The base model {base} has no tokenizer_config.json. Save its tokenizer beside the weights.")
    in_settings = "chat_template" in json.loads(settings.read_text(encoding="utf-8"))
    if not in_settings and not any((base / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        raise BadInput(f"The base model {base} has no chat template. Use an instruct model, or add a chat_template.jinja.")
    return json.loads((base / "config.json").read_text(encoding="utf-8"))


def _hub_config(address: str, found: Plan) -> dict | None:
    """Fetch config.json from the hub; without network say so, and let the run find out."""
    import httpx

    name, _, revision = address.removeprefix("hf://").partition("@")
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        found.unchecked.append(f"whether {name} exists on the hub: HF_HUB_OFFLINE is set")
        return None
    url = f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{name}/resolve/{revision or 'main'}/config.json"
    token = os.environ.get("HF_TOKEN")
    try:
        reply = httpx.get(url, headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=HUB_SECONDS, follow_redirects=True)
    except httpx.HTTPError as error:
        found.unchecked.append(f"whether {name} exists on the hub: {error}")
        return None
    if reply.status_code in (401, 403):
        raise BadInput(f"The hub does not let you read {name}. Accept its licence there and set HF_TOKEN.")
    if reply.status_code == 404:
        raise BadInput(f"The hub has no {name} at revision {revision or 'main'}, or it has no config.json.")
    if reply.status_code != 200:
        found.unchecked.append(f"whether {name} exists on the hub: it answered {reply.status_code}")
        return None
    return reply.json()


def _check_disk(recipe: Recipe, base: Path | None, found: Plan) -> None:
    if "://" in recipe.store:
        return
    if base is None:
        found.unchecked.append("disk space, which needs the base model's size")
        return
    needed = MODEL_COPIES * sum(file.stat().st_size for file in base.glob("*.safetensors"))
    place = Path(recipe.store).resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise Unavailable(
            f"The disk of the store {recipe.store} is too small: the run needs about {needed / 2**20:,.0f} MiB, "
            f"{free / 2**20:,.0f} MiB are free. Free some, or set `store` to another disk."
        )
    found.facts.append(("disk", f"{needed / 2**30:.1f} GiB needed at most, {free / 2**30:.1f} GiB free"))


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} billion" if parameters >= 1e9 else f"{parameters / 1e6:.1f} million"


def table(found: Plan) -> list[str]:
    """Lay the plan out for a terminal."""
    width = max(len(name) for name, _ in found.facts)
    lines = [f"{name:<{width}}  {text}" for name, text in found.facts]
    lines += found.estimates + [f"not checked: {what}" for what in found.unchecked]
    return lines + [f"warning: {what}" for what in found.warnings]
