"""One subcommand a step, on plain files and directories: to try a step alone, or to mend one by hand."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tunegate.errors import BadInput
from tunegate.recipe import Recipe, load_recipe, parse_recipe
from tunegate.steps import Inputs, Result, say

app = typer.Typer()
PANEL = "One step on plain files"

# Settings without a recipe: the defaults of every section. What it says of data, base and policy is never read.
DEFAULTS = """
name: files
base_model: hf://not/read
data: {sources: [hf://not/read]}
policy:
  apiVersion: tunegate/v1
  kind: PromotionPolicy
  name: none
  gates: [{id: none, metric: task/exact, test: absolute_lcb, at_least: 0}]
"""

NOTHING: list[str] = []
RecipeOption = Annotated[Path | None, typer.Option("--recipe", help="Recipe to take the settings from; else the defaults.")]
SetOption = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. sft.learning_rate=1e-4.")]


def directory(text: str):
    return Annotated[Path, typer.Option(help=text, exists=True, file_okay=False)]


Output = Annotated[Path, typer.Option(help="Directory to write; it must not exist or be empty.")]
Base = directory("Model directory in Hugging Face form.")
Data = directory("What curate wrote: train.jsonl, dev.jsonl, test.jsonl.")
Adapter = directory("What sft or prefer wrote.")
Results = directory("What baseline or evaluate wrote: items.parquet and arms.json.")
Merged = directory("What merge wrote.")


def settings(recipe: Path | None, overrides: list[str]) -> Recipe:
    return load_recipe(recipe, overrides) if recipe else parse_recipe(DEFAULTS, overrides)


def empty(output: Path) -> Path:
    """Give a directory to write into; refuse one that holds something."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise BadInput(f"{output} is there already. Give a new or an empty directory.")
    output.parent.mkdir(parents=True, exist_ok=True)
    return output


def tell(result: Result | dict, output: Path) -> None:
    """Print what a step found: its line, or its numbers."""
    if isinstance(result, Result):
        say(result.line)
    else:
        say(json.dumps({k: v for k, v in result.items() if isinstance(v, int | float | str)}, ensure_ascii=False, indent=2))
    say(f"written to {output}")


@app.command(rich_help_panel=PANEL)
def ingest(
    sources: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, globs, hf://, s3:// or https://.", show_default=False)],
    output: Output,
    recipe: RecipeOption = None,
    set_: SetOption = NOTHING,
):
    """Read files of rows; keep the good ones as rows/rows.jsonl and the bad ones, with reasons, as rows/quarantine.jsonl."""
    from tunegate.ingest import describe
    from tunegate.ingest import ingest as work

    report = work(settings(recipe, set_).data.model_copy(update={"sources": sources}), empty(output))
    say(describe(report))
    say(f"written to {output}/rows")


@app.command(rich_help_panel=PANEL)
def curate(
    sources: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files, globs, hf://, s3:// or https://; any known form.", show_default=False)
    ],
    output: Output,
    base: Annotated[
        Path | None, typer.Option(help="Base model directory: its tokenizer counts, and IFD runs on it.", exists=True, file_okay=False)
    ] = None,
    recipe: RecipeOption = None,
    set_: SetOption = NOTHING,
):
    """Clean, deduplicate and split data into train, dev and test.jsonl; rejected.jsonl and report.html say what was dropped and why."""
    from tunegate.curate.files import curate_files

    s = settings(recipe, set_)
    say(curate_files(sources, empty(output), s, base))
    say(f"written to {output}")


@app.command(rich_help_panel=PANEL)
def baseline(base: Base, data: Data, output: Output, recipe: RecipeOption = None, set_: SetOption = NOTHING):
    """Score the base model with zero-shot and few-shot prompts."""
    from tunegate.baseline import baseline as work

    s = settings(recipe, set_)
    tell(work(base, data, empty(output), s.baseline, s.task, s.evaluate, s.serve, s.policy, _digest(base)), output)


StoreOption = Annotated[str, typer.Option("--store", help="Where what is worked on is kept: a directory or s3://bucket/prefix.")]


@app.command(rich_help_panel=PANEL)
def sft(
    base: Base,
    data: Data,
    output: Output,
    replay: Annotated[
        Path | None, typer.Option(help="replay.jsonl that baseline wrote; general rows against forgetting.", exists=True, dir_okay=False)
    ] = None,
    recipe: RecipeOption = None,
    store: StoreOption = "runs/store",
    set_: SetOption = NOTHING,
):
    """Train an adapter on train.jsonl. Started again after it was stopped or killed, it goes on from its last checkpoint."""
    from tunegate.train.sft import sft_step

    with tempfile.TemporaryDirectory() as scratch:
        files = {"base": base, "data": data}
        if replay is not None:
            (Path(scratch) / "replay.jsonl").symlink_to(replay.absolute())
            files["replay"] = Path(scratch)
        _train("sft", sft_step, settings(recipe, set_), ("sft", "task"), store, files, output)


@app.command(rich_help_panel=PANEL)
def prefer(
    base: Base, adapter: Adapter, data: Data, output: Output, recipe: RecipeOption = None, store: StoreOption = "runs/store",
    set_: SetOption = NOTHING,
):  # fmt: skip
    """Improve an adapter by DPO, KTO or ORPO, on the data's own pairs or on pairs mined from its answers. Goes on as sft does."""
    from tunegate.train.prefer import prefer_step

    files = {"base": base, "adapter": adapter, "data": data}
    _train("prefer", prefer_step, settings(recipe, set_), ("prefer", "task", "sft"), store, files, output)


@app.command(rich_help_panel=PANEL)
def merge(base: Base, adapter: Adapter, output: Output, recipe: RecipeOption = None, set_: SetOption = NOTHING):
    """Fold an adapter into the 16-bit base model."""
    from tunegate.merge import merge as work

    tell(work(settings(recipe, set_).merge, base, adapter, empty(output)), output)


@app.command(rich_help_panel=PANEL)
def evaluate(model: Merged, data: Data, baseline_results: Results, output: Output, recipe: RecipeOption = None, set_: SetOption = NOTHING):
    """Score a merged model on dev and the sealed test."""
    from tunegate.evaluate import evaluate as work

    s = settings(recipe, set_)
    tell(work(model, data, baseline_results, empty(output), s.task, s.evaluate, s.serve, _digest(model)), output)


PolicyFile = Annotated[Path, typer.Option("--policy", help="The policy, a YAML file.")]


@app.command(rich_help_panel=PANEL)
def gate(
    policy: PolicyFile,
    results: Annotated[
        list[Path],
        typer.Option(help="What baseline or evaluate wrote. Repeatable: all arms together are judged.", exists=True, file_okay=False),
    ],
    output: Annotated[Path, typer.Option(help="The verdict.json to write; its evidence, items.parquet, is written beside it.")],
    curation: Annotated[
        Path | None, typer.Option(help="What curate wrote: train.jsonl, test.jsonl and report.json.", exists=True, file_okay=False)
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="What merge wrote; it must be the model that was evaluated.", exists=True, file_okay=False)
    ] = None,
    adapter: Annotated[Path | None, typer.Option(help="What sft or prefer wrote.", exists=True, file_okay=False)] = None,
    store: Annotated[str | None, typer.Option(help="Store with the ledger of the sealed test's uses.")] = None,
):
    """Judge a model by a policy and per-item results; write the verdict and its evidence. Exit code 1 where it is ERROR."""
    from tunegate.gate import gate as work
    from tunegate.gate.facts import directory_facts
    from tunegate.gate.policy import load_policy
    from tunegate.gate.signing import claimed
    from tunegate.report import verdict as telling

    if output.name != "verdict.json":
        raise BadInput(
            f"--output is {output}, and a verdict is read from a file verdict.json. Give the path of one in a directory of its own."
        )
    if there := [path for path in (output, output.with_name("items.parquet")) if path.exists()]:
        raise BadInput(f"{there[0]} is there already. Give a verdict.json in a new or an empty directory.")
    verdict = work(load_policy(policy), results, output.parent, directory_facts(model, adapter, curation, store))
    page = telling.write_page(output.parent, curation)
    say(telling.summary(verdict, claimed(output.parent)))
    say(f"\nwritten to {output}; to look at: {page}")
    if verdict["decision"] == "ERROR":
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def policy(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A policy, to be checked.", show_default=False)] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of policies, for editors.")] = False,
):
    """Check a policy and say what it asks, and its digest, or print the schema of policies."""
    from tunegate.gate.policy import load_policy, schema_text

    if schema == (file is not None):
        raise BadInput("Give either the file of a policy, or --schema.")
    if schema:
        say(schema_text())
        return
    asked = load_policy(file)
    say(f"{asked.name} ({asked.digest()})")
    for gate in asked.gates:
        against = f" against {gate.versus}" if gate.versus else ""
        say(f"  {gate.id}: {gate.test} of {gate.metric}{against}{'' if gate.required else ', not required'}")


Verdict = directory("What gate wrote: verdict.json and its evidence.")


@app.command(rich_help_panel=PANEL)
def register(
    model: Merged, verdict: Verdict, output: Output, recipe: RecipeOption = None, store: StoreOption = "runs/store",
    set_: SetOption = NOTHING,
):  # fmt: skip
    """Make a model with a PROMOTE verdict a version in the registry."""
    from tunegate.register import register_step

    s = settings(recipe, set_)
    tell(_step(register_step, s, ("register", "recipe_name"), store, {"model": model, "verdict": verdict}, output), output)


@app.command(rich_help_panel=PANEL)
def deploy(
    version: directory("What register wrote under --output: the directory `version`."),
    model: Merged,
    verdict: Verdict,
    data: Data,
    results: Results,
    output: Output,
    recipe: RecipeOption = None,
    store: StoreOption = "runs/store",
    set_: SetOption = NOTHING,
):
    """Serve an approved version where the recipe says, and smoke-test it."""
    from tunegate.deploy import deploy_step

    s = settings(recipe, set_)
    inputs = {"version": version, "model": model, "verdict": verdict, "data": data, "results": results}
    tell(_step(deploy_step, s, ("deploy", "serve", "register", "task"), store, inputs, output), output)


STORED_AS = {  # as the pipeline names them, so that the same files get the same reference
    "base": "base", "adapter": "sft-adapter", "replay": "baseline-replay", "model": "merge-model", "verdict": "gate-verdict",
    "version": "register-version", "data": "curate-data", "results": "evaluate-results",
}  # fmt: skip


def _step(work, recipe: Recipe, sections: tuple[str, ...], store_uri: str, files: dict[str, Path], output: Path) -> Result:
    """Call a step that works on references: its directories go into the store first."""
    config, inputs = _asked(recipe, sections, store_uri, files)
    empty(output).mkdir(exist_ok=True)
    return work(config, inputs, output)


def _train(name: str, work, recipe: Recipe, sections: tuple[str, ...], store_uri: str, files: dict[str, Path], output: Path) -> None:
    """Call a step that trains, on this machine, and copy the adapter that it leaves in the store to `output`."""
    from tunegate import digests, steps

    output = empty(output).resolve()
    config, inputs = _asked(recipe, sections, store_uri, files)
    # The key names the training in the store: the same files and settings go on with it, and others begin their own.
    key = digests.digest_json({"step": name, "config": config, "code": steps.code_of(name), "inputs": inputs.refs})
    result = work(config, Inputs(inputs.refs, inputs.store, key, {"hourly_price": recipe.resources.hourly_price}), output)
    partial = output.with_name(f".{output.name}.partial")  # renamed when whole, so that a later start finds all of it or nothing
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(inputs.store.get(result["adapter"]), partial, ignore=shutil.ignore_patterns("MANIFEST.json"))
    partial.replace(output)
    result.when_kept()
    tell(result, output)


def _asked(recipe: Recipe, sections: tuple[str, ...], store_uri: str, files: dict[str, Path]) -> tuple[dict, Inputs]:
    """Give what a step is called with: its slice of the recipe, and the references of directories that are now in the store."""
    from tunegate.store import open_store

    store = open_store(store_uri if "://" in store_uri else str(Path(store_uri).resolve()))
    refs = {name: store.put(STORED_AS[name], path) for name, path in files.items()}
    document = recipe.model_dump(mode="json", by_alias=True) | {"recipe_name": recipe.name}
    return {section: document[section] for section in sections}, Inputs(refs, store)


def _digest(directory: Path) -> str:
    """Name a directory by its files, as the store does."""
    from tunegate.store.base import digest_of, read_directory

    return digest_of(read_directory(directory))
