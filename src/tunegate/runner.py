"""Run the compiled pipeline: here, through kfp.local, or on a cluster. The only module that knows kfp.

Both load the same file, `pipeline.yaml` beside this one, which `make compile` writes.
"""

import contextlib
import glob
import logging
import os
import re
import secrets
import shutil
import sys
import time
import warnings
from datetime import datetime
from pathlib import Path

from tunegate import plan as planning
from tunegate import steps
from tunegate.errors import BadInput, Unavailable
from tunegate.peak_memory import PeakMemory
from tunegate.recipe import Recipe, dump_recipe
from tunegate.store import Store, open_store

COMPILED = Path(__file__).with_name("pipeline.yaml")
IMAGES = ("image_data", "image_train", "image_serve")  # that `submit` takes

# What kfp's executor and local runner say about themselves; a step's own lines are what people wait for.
KFP_NOISE = re.compile(r"^(\[KFP Executor|-{20,}$|\s*$)")


def run_local(recipe: Recipe, runs_dir: Path, run_id: str | None = None) -> int:
    """Run a recipe on this machine, print what happened and where it is, and return the exit code.

    0 for any verdict but ERROR; otherwise the code of the error that ended the run.
    """
    runs = Path(runs_dir).resolve()
    run_id = run_id or new_run_id()
    if "://" not in recipe.store:
        recipe = recipe.model_copy(update={"store": str(Path(recipe.store).resolve())})
    planning.plan(recipe)  # before anything is copied, and with the paths that the person wrote
    store = open_store(recipe.store)
    text = dump_recipe(stage_local(recipe, store))
    here = runs / run_id
    here.mkdir(parents=True, exist_ok=True)
    (here / "recipe.yaml").write_text(text, encoding="utf-8")
    os.environ.update(_environment(runs, run_id, recipe))
    use_serving_environment()
    steps.say(f"run {run_id}, recipe {recipe.name}")
    started = time.monotonic()
    with PeakMemory().watching() as memory:
        failure = execute(COMPILED, {"recipe": text}, here / "kfp")
    _collect(store, run_id, here)
    _tell(store, run_id, runs, time.monotonic() - started, memory.bytes)
    if failure is not None:
        code, sentence = explain_failure(store, run_id, failure)
        steps.say(sentence, file=sys.stderr)
        return code
    verdict = store.read_json(f"runs/{run_id}/gate.json")
    return 1 if verdict["summary"]["decision"] == "ERROR" else 0


def submit(recipe: Recipe, host: str, images: dict[str, str], resources: dict | None = None, connect=None) -> str:
    """Start a run on a Kubeflow Pipelines server and return the address of its page.

    Args:
        images: image_data, image_train and image_serve, each with its digest.
        resources: further pipeline parameters (gpu_type, gpus, cpu, memory, secret) that differ from the recipe's.
        connect: called with `host`, gives the client; kfp's own by default.

    Raises:
        BadInput: an image has no digest, or the store is a directory, which a cluster cannot reach.
        Unavailable: the server does not answer.
    """
    for name in IMAGES:
        if "@sha256:" not in images.get(name, ""):
            option = "--" + name.replace("_", "-")
            raise BadInput(f"{option} must be an image with its digest, name@sha256:…; a tag may move between two steps.")
    if not recipe.store.startswith("s3://"):
        raise BadInput(f"The store {recipe.store} is a directory, which a cluster cannot reach. Set `store: s3://bucket/prefix`.")
    planning.plan(recipe)
    text = dump_recipe(stage_local(recipe, open_store(recipe.store)))
    wanted = recipe.resources
    arguments = {
        "recipe": text, **images, **_for_curate(recipe, images),
        "gpu_type": wanted.gpu_type, "gpus": wanted.gpus, "cpu": f"{wanted.cpus:g}", "memory": f"{wanted.memory_gib:g}Gi",
        **(resources or {}),
    }  # fmt: skip
    try:
        client = (connect or _kfp_client)(host)
        run = client.create_run_from_pipeline_package(
            str(COMPILED), arguments=arguments, run_name=f"{recipe.name}-{new_run_id()}", experiment_name=recipe.register_.experiment
        )
    except Exception as error:
        raise Unavailable(f"No run was started on {host}: {_first_line(error)}. Check the address and your login there.") from error
    return f"{host.rstrip('/')}/#/runs/details/{run.run_id}"


def _for_curate(recipe: Recipe, images: dict[str, str]) -> dict:
    """Give curate the training image and accelerators where the recipe lets it run the base model."""
    if not recipe.curate.quality.ifd.enabled:
        return {"image_curate": images["image_data"]}
    return {"image_curate": images["image_train"], "gpus_curate": recipe.resources.gpus}


def stage_local(recipe: Recipe, store: Store) -> Recipe:
    """Put what the recipe names on this machine into the store, and let the recipe name it there."""
    from tunegate.ingest import stage, stage_lines
    from tunegate.suites.files import DIRECTORY, map_files

    def staged(address: str) -> str:
        return address if address.startswith("store:") or "://" in address else stage(store, Path(address))

    def staged_lines(address: str | None) -> str | None:
        # Read here, once, wherever it is: its digest then stands for it in every step's key.
        return stage_lines(store, address) if address and "://" in address else address and staged(address)

    sources = []
    for source in recipe.data.sources:
        local = "://" not in source and glob.has_magic(source)
        sources += [staged(path) for path in (sorted(glob.glob(source, recursive=True)) if local else [source])]
    return recipe.model_copy(update={
        "base_model": staged(recipe.base_model),
        "data": recipe.data.model_copy(update={"sources": sources}),
        "curate": recipe.curate.model_copy(update={
            "test_set": staged_lines(recipe.curate.test_set),
            "decontaminate": recipe.curate.decontaminate.model_copy(update={
                "against": [staged_lines(address) for address in recipe.curate.decontaminate.against],
            }),
        }),
        "baseline": recipe.baseline.model_copy(update={
            key: staged_lines(getattr(recipe.baseline, key)) for key in ("replay_data", "replay_prompts")
        }),
        "evaluate": map_files(
            recipe.evaluate.model_copy(update={"general_text": staged_lines(recipe.evaluate.general_text)}),
            lambda key, path: staged(path) if key == DIRECTORY else staged_lines(path),
        ),
    })  # fmt: skip


def execute(compiled: Path, arguments: dict, pipeline_root: Path) -> Exception | None:
    """Run a compiled pipeline with kfp.local in child processes; return what ended it early, if anything did."""
    from kfp import components, local

    with warnings.catch_warnings(), quiet_kfp():
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp")  # images without 'python' in their name
        warnings.filterwarnings("ignore", message=".*have no effect in the current local runner.*")
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(pipeline_root), raise_on_error=True)
        pipeline = components.load_component_from_file(str(compiled))
        try:
            pipeline(**arguments)
        except RuntimeError as error:
            return error
    return None


@contextlib.contextmanager
def quiet_kfp():
    """Let through what steps print, line by line, and nothing of what kfp says about itself."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # kfp sets its own level and handler at every task
    try:
        with contextlib.redirect_stdout(_StepLines(sys.stdout)):
            yield
    finally:
        logging.disable(before)


class _StepLines:
    """A text stream that passes whole lines on at once, without kfp's indent, its rules and its executor's log."""

    def __init__(self, stream):
        self.stream, self.partial, self.in_input = stream, "", False

    def write(self, text: str) -> int:
        *lines, self.partial = (self.partial + text).split("\n")
        for line in lines:
            self._line(line.removeprefix("    "))
        return len(text)

    def _line(self, line: str) -> None:
        if self.in_input:  # the executor prints its input as indented JSON
            self.in_input = line != "}"
        elif KFP_NOISE.match(line):
            self.in_input = line.endswith("Got executor_input:")
        else:
            self.stream.write(line + "\n")
            self.stream.flush()

    def flush(self) -> None:
        self.stream.flush()


def use_serving_environment() -> None:
    """Let the serving engine run in the environment that `make setup` builds beside this one, unless the person named another."""
    python = Path(sys.prefix).parent / ".venv-serve" / "bin" / "python"
    if python.is_file():
        os.environ.setdefault("TUNEGATE_SERVE_PYTHON", str(python))


def new_run_id() -> str:
    """Name a run so that names sort by time."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def explain_failure(store: Store, run_id: str, failure: Exception) -> tuple[int, str]:
    """Find the sentence and the exit code that the failed step left; kfp itself keeps only FAILURE."""
    for name in steps.STEPS:
        error = store.read_json(f"runs/{run_id}/error-{name}.json")
        if error is not None:
            return error["code"], f"The run stopped at {name}: {error['sentence']}"
    return 1, f"The run stopped: {re.sub(chr(27) + r'.[0-9;]*m', '', _first_line(failure))}"


def _environment(runs: Path, run_id: str, recipe: Recipe) -> dict[str, str]:
    """Give what the steps read from their environment; what the person has set stays."""
    wanted = {
        "TUNEGATE_RUN_ID": run_id,
        "TUNEGATE_RUNS": str(runs),
        "TUNEGATE_EXPERIMENT": recipe.register_.experiment,
        "MLFLOW_TRACKING_URI": f"sqlite:///{runs / 'mlflow.db'}",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "0" if recipe.base_model.startswith("hf://") or _from_hub(recipe) else "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    always = {"TUNEGATE_RUN_ID", "TUNEGATE_RUNS", "TUNEGATE_EXPERIMENT"}
    return {name: value for name, value in wanted.items() if name in always or name not in os.environ}


def _from_hub(recipe: Recipe) -> bool:
    return any(source.startswith("hf://") for source in recipe.data.sources)


def _collect(store: Store, run_id: str, here: Path) -> None:
    """Copy the verdict to where people look; the report is there already."""
    gate = store.read_json(f"runs/{run_id}/gate.json")
    if gate is not None:
        shutil.copyfile(store.get(gate["refs"]["verdict"]) / "verdict.json", here / "verdict.json")


def _tell(store: Store, run_id: str, runs: Path, seconds: float, memory: int) -> None:
    """Print the verdict, the table, the time of each step, the memory all of it took, and where everything is."""
    from tunegate import report

    records = {name: store.read_json(f"runs/{run_id}/{name}.json") for name in steps.STEPS}
    if records["gate"] is not None:
        steps.say("\n" + report.terminal_summary(store, run_id))
    taken = [
        f"{name} {'found' if record['reused'] else format(record['seconds'], '.1f') + ' s'}" for name, record in records.items() if record
    ]
    steps.say(f"\nsteps    {', '.join(taken)}; {seconds:.0f} s in all")
    steps.say(f"memory   {memory / 2**30:.1f} GiB at most")
    if (runs / run_id / "report.html").is_file():
        steps.say(f"report   {_short(runs / run_id / 'report.html')}")
    steps.say(f"mlflow   mlflow ui --backend-store-uri {os.environ['MLFLOW_TRACKING_URI']}")
    if records["merge"] is not None:
        steps.say(f"model    {_short(store.get(records['merge']['refs']['model']))}")
    if records["promote"] is not None:
        model = records["promote"]["config"]["register"]["model_name"]
        steps.say(f"talk     tunegate serve {model}@champion")


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _kfp_client(host: str):
    from kfp import Client

    return Client(host=host)
