"""Check the recipe before anything is spent, and hand each step its own slice of it."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Metrics, Output

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def plan(
    recipe: str,
    metrics: Output[Metrics],
) -> NamedTuple(
    "Plan",
    [
        ("ingest", str),
        ("curate", str),
        ("baseline", str),
        ("sft", str),
        ("prefer", str),
        ("merge", str),
        ("evaluate", str),
        ("gate", str),
        ("register", str),
        ("approve", str),
        ("deploy", str),
        ("promote", str),
    ],
):
    """Check recipe text; return one canonical configuration string per step."""
    from tunegate import steps
    from tunegate.plan import step_config

    result = steps.run("plan", step_config(recipe))
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    slices = result.summary["steps"]
    return (
        slices["ingest"],
        slices["curate"],
        slices["baseline"],
        slices["sft"],
        slices["prefer"],
        slices["merge"],
        slices["evaluate"],
        slices["gate"],
        slices["register"],
        slices["approve"],
        slices["deploy"],
        slices["promote"],
    )
