"""The command line. Errors of ours end in one sentence on standard error and their exit code, without a trace."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tunegate import cli_steps, cli_trust
from tunegate.cli_steps import NOTHING
from tunegate.errors import BadInput, TunegateError
from tunegate.recipe import load_recipe

app = typer.Typer(
    name="tunegate", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Fine-tune a language model, and let it through only when it is proven better than what it replaces.",
)  # fmt: skip
RUN, MODELS = "Run a recipe", "Models in the registry"

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe, e.g. sft.learning_rate=1e-4. Repeatable.")
]
RunsDirectory = Annotated[Path, typer.Option("--runs", envvar="TUNEGATE_RUNS", help="Where runs and the local MLflow database are kept.")]


@app.callback()
def _defaults():
    from tunegate.runner import use_serving_environment

    use_serving_environment()


@app.command(rich_help_panel=RUN)
def run(recipe: RecipePath, set_: Overrides = [], runs: RunsDirectory = Path("runs")):  # noqa: B006
    """Run the whole pipeline on this machine, from sources to a served model or to the reasons why not."""
    from tunegate.runner import run_local

    raise typer.Exit(run_local(load_recipe(recipe, set_), runs))


@app.command(rich_help_panel=RUN)
def plan(recipe: RecipePath, set_: Overrides = NOTHING):
    """Check a recipe in seconds: sources, base model, policy, memory, disk. Nothing is run."""
    from tunegate import plan as planning

    loaded = load_recipe(recipe, set_)
    for line in planning.table(planning.plan(loaded)):
        print(line)
    print(f"{loaded.name} can run.")


@app.command(rich_help_panel=RUN)
def submit(
    recipe: RecipePath,
    host: Annotated[str, typer.Option(help="Address of the Kubeflow Pipelines API, e.g. http://localhost:8888.")],
    image_data: Annotated[str, typer.Option(help="Image of the data steps, with its digest.")],
    image_train: Annotated[str, typer.Option(help="Image of the training steps, with its digest.")],
    image_serve: Annotated[str, typer.Option(help="Image of the serving steps, with its digest.")],
    secret: Annotated[str, typer.Option(help="Kubernetes secret with the credentials of store, MLflow and hub.")] = "tunegate",
    set_: Overrides = NOTHING,
):
    """Start the same pipeline on a cluster. Local sources are uploaded to the store first."""
    from tunegate import runner

    images = {"image_data": image_data, "image_train": image_train, "image_serve": image_serve}
    print(runner.submit(load_recipe(recipe, set_), host, images, {"secret": secret}))


@app.command(rich_help_panel=RUN)
def report(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="Name of a directory under runs/.", show_default=False)],
    runs: RunsDirectory = Path("runs"),
):
    """Print a run's verdict and figures, and write its page again."""
    from tunegate import report as reporting
    from tunegate.recipe import parse_recipe
    from tunegate.store import open_store

    recipe = runs / run_id / "recipe.yaml"
    if not recipe.is_file():
        known = sorted(path.parent.name for path in runs.glob("*/recipe.yaml"))
        raise BadInput(f"There is no run {run_id} in {runs}. {'The latest is ' + known[-1] if known else 'There are no runs'}.")
    store = open_store(parse_recipe(recipe.read_text(encoding="utf-8")).store)
    page = runs / run_id / "report.html"
    reporting.write_report(store, run_id, page)
    print(reporting.terminal_summary(store, run_id))
    print(f"\n{page}")


@app.command(rich_help_panel=RUN)
def verdict(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A verdict.json, or the directory that gate wrote.", show_default=False)],
):
    """Tell a verdict on one screen. What it says is shown, not proven."""
    from tunegate.report import verdict as telling

    found, directory = telling.read_verdict(path)
    text = telling.summary(found, telling.signature_beside(directory))
    print(telling.coloured(text, found["decision"]) if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text)


Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the registered model.", show_default=False)]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Number of the version.", show_default=False)]


@app.command(rich_help_panel=MODELS)
def serve(
    which: Annotated[str, typer.Argument(metavar="MODEL@ALIAS", help="E.g. tunegate@champion, or tunegate/3.", show_default=False)],
    port: Annotated[int, typer.Option(help="Port of the OpenAI API; 0 takes any free one.")] = 8000,
):
    """Serve a registered and approved model here until Ctrl-C; its verdict is verified first."""
    from tunegate.deploy import serve_champion

    serve_champion(which, port)


@app.command(rich_help_panel=MODELS)
def approve(model: Model, version: Version, who: Annotated[str, typer.Option(help="Who approves.")] = os.environ.get("USER", "")):
    """Approve a version that waits for a person."""
    from tunegate.approve import approve as record

    record(model, version, who)
    print(f"{model} version {version} is approved by {who}.")


@app.command(rich_help_panel=MODELS)
def promote(model: Model, version: Version):
    """Make an approved version the champion; its verdict is verified first."""
    from tunegate.promote import promote as move

    _say_champion(move(model, version))


@app.command(rich_help_panel=MODELS)
def rollback(model: Model):
    """Make the previous champion champion again; its verdict is verified first."""
    from tunegate.promote import rollback as swap

    _say_champion(swap(model))


def _say_champion(now: dict) -> None:
    before = f"; the one before is version {now['previous']}" if now["previous"] else ""
    print(f"The champion of {now['name']} is version {now['champion']}{before}. Its verdict is {now['signed']}.")
    if now["waiver"]:
        print(f"It is WAIVED, not proven: by {now['waiver']}")


app.add_typer(cli_trust.app)
app.add_typer(cli_steps.app)


def main() -> None:
    """Run the command line; the entry point of the `tunegate` program."""
    try:
        app()
    except TunegateError as error:
        print(f"tunegate: {error}", file=sys.stderr)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
