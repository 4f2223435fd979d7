"""The one pipeline: `tunegate run` executes its compiled form on a laptop, `tunegate submit` on a cluster.

`python -m pipelines.pipeline` writes the compiled form to src/tunegate/pipeline.yaml.
"""

import argparse
from pathlib import Path

from kfp import compiler, dsl, kubernetes

from components import DATA_IMAGE, SERVE_IMAGE, TRAIN_IMAGE
from components.approve.component import approve
from components.baseline.component import baseline
from components.curate.component import curate
from components.deploy.component import deploy
from components.evaluate.component import evaluate
from components.gate.component import gate
from components.ingest.component import ingest
from components.merge.component import merge
from components.plan.component import plan
from components.prefer.component import prefer
from components.promote.component import promote
from components.register.component import register
from components.report.component import report
from components.sft.component import sft
from tunegate.gate.signing import CHECKER_KEYS, SIGNER_KEYS
from tunegate.train_job import SECRET_KEYS

COMPILED = Path(__file__).resolve().parent.parent / "src" / "tunegate" / "pipeline.yaml"

RETURNED = "Output"  # what kfp calls the value that a component returns without a name


def _prepare(task, image, secret, cache: bool = True, keys: tuple[str, ...] = ()):
    """Give a task its image, its credentials and `keys` beside them, the id of its run, and say whether KFP may skip it."""
    task.set_container_image(image)
    task.set_caching_options(cache)
    kubernetes.use_secret_as_env(task, secret, {key: key for key in (*SECRET_KEYS, *keys)}, optional=True)
    # An argument would do too, and would spoil every cache key.
    kubernetes.use_field_path_as_env(task, "TUNEGATE_RUN_ID", "metadata.labels['pipeline/runid']")
    return task


@dsl.pipeline(name="tunegate", description="Fine-tune a language model and let it through only when it is proven better.")
def tunegate(
    recipe: str,
    image_data: str = DATA_IMAGE,
    image_train: str = TRAIN_IMAGE,
    image_serve: str = SERVE_IMAGE,
    image_curate: str = DATA_IMAGE,
    gpu_type: str = "nvidia.com/gpu",
    gpus: int = 1,
    gpus_curate: int = 0,
    cpu: str = "8",
    memory: str = "64Gi",
    secret: str = "tunegate",
):
    """Run a recipe from its sources to a served model.

    Args:
        recipe: text of the recipe (YAML), its policy included.
        image_data: image of the steps that need no accelerator.
        image_train: image of sft, prefer and merge.
        image_serve: image of baseline, evaluate and deploy.
        image_curate: image of curate; the training image where it scores rows with the base model (IFD).
        gpu_type: resource name of the accelerator.
        gpus: accelerators for each step that trains, or serves the model under test.
        gpus_curate: accelerators for curate, where it scores rows with the base model.
        cpu: cores for each step that trains, merges or serves the model under test.
        memory: memory for each step that trains, merges or serves the model under test.
        secret: Kubernetes secret with the credentials of the store, of MLflow and of the model hub.
    """
    # A parameter used in a setter alone would not reach the tasks inside ExitHandler and If; as ordinary input it does.
    resources = f"{gpus} x {gpu_type}, {cpu} CPU, {memory}"

    def light(task, cache=True, keys=()):
        return _prepare(task, image_data, secret, cache, keys)

    def heavy(task, image, cache=True, accelerated=True):
        task.set_cpu_limit(cpu).set_memory_limit(memory)
        if accelerated:
            task.set_accelerator_type(gpu_type).set_accelerator_limit(gpus)
        return _prepare(task, image, secret, cache)

    with dsl.ExitHandler(light(report(recipe=recipe), cache=False)):
        config = light(plan(recipe=recipe), cache=False).outputs
        raw = light(ingest(config=config["ingest"])).outputs
        curated = _prepare(
            curate(
                config=config["curate"], rows=raw["rows"], base=raw["base"], tokenizer=raw["tokenizer"],
                resources=f"{gpus_curate} x {gpu_type}",
            ).set_accelerator_type(gpu_type).set_accelerator_limit(gpus_curate),
            image_curate, secret,
        ).outputs  # fmt: skip
        prompted = heavy(
            baseline(config=config["baseline"], base=raw["base"], data=curated["data"], resources=resources),
            image_serve, cache=False,
        ).outputs  # fmt: skip

        with dsl.If(prompted[RETURNED] == True, "worth-training"):  # noqa: E712
            tuned = heavy(
                sft(
                    config=config["sft"], base=raw["base"], data=curated["data"], replay=prompted["replay"],
                    resources=resources, image=image_train, secret=secret,
                ),
                image_train,
            ).set_retry(1).outputs[RETURNED]  # fmt: skip
            preferred = heavy(
                prefer(
                    config=config["prefer"], base=raw["base"], data=curated["data"], adapter=tuned,
                    replay=prompted["replay"], resources=resources, image=image_train, secret=secret,
                ),
                image_train,
            ).set_retry(1).outputs[RETURNED]  # fmt: skip
            merged = merge(config=config["merge"], base=raw["base"], adapter=preferred)
            model = heavy(merged, image_train, accelerated=False).outputs[RETURNED]
            results = heavy(
                evaluate(
                    config=config["evaluate"], model=model, base=raw["base"], adapter=preferred, data=curated["data"],
                    results=prompted["results"], resources=resources,
                ),
                image_serve,
            ).outputs[RETURNED]  # fmt: skip
            judged = light(
                gate(
                    config=config["gate"], data=curated["data"], report=curated["report"], baseline=prompted["results"],
                    results=results, model=model, adapter=preferred,
                ),
                cache=False, keys=(*SIGNER_KEYS, *CHECKER_KEYS),
            ).outputs  # fmt: skip

            with dsl.If(judged[RETURNED] == True, "promoted"):  # noqa: E712
                verdict = judged["verdict"]
                version = light(
                    register(config=config["register"], verdict=verdict, model=model), cache=False, keys=CHECKER_KEYS,
                ).outputs[RETURNED]  # fmt: skip
                approved = light(approve(config=config["approve"], version=version), cache=False).outputs[RETURNED]
                # On a cluster this step only asks for a server and waits; an accelerator would stand idle under it.
                endpoint = _prepare(
                    deploy(
                        config=config["deploy"], version=approved, verdict=verdict, model=model, data=curated["data"],
                        results=results,
                    ),
                    image_serve, secret, cache=False, keys=CHECKER_KEYS,
                ).outputs[RETURNED]  # fmt: skip
                light(
                    promote(config=config["promote"], version=approved, verdict=verdict, endpoint=endpoint),
                    cache=False, keys=CHECKER_KEYS,
                )  # fmt: skip

        with dsl.Else("prompting-is-enough"):
            light(
                gate(config=config["gate"], data=curated["data"], report=curated["report"], baseline=prompted["results"]),
                cache=False, keys=(*SIGNER_KEYS, *CHECKER_KEYS),
            )  # fmt: skip


def compile_to(path: Path) -> None:
    """Write the compiled pipeline, the same bytes for the same source."""
    compiler.Compiler().compile(tunegate, str(path))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=COMPILED)
    compile_to(parser.parse_args().output)
