"""Measure what prompting the base model achieves: the figure that training has to beat."""

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output, OutputPath

from components import SERVE_IMAGE


@dsl.component(base_image=SERVE_IMAGE, install_kfp_package=False)
def baseline(
    config: str,
    base: str,
    data: str,
    resources: str,
    results: OutputPath(str),
    replay: OutputPath(str),
    items: Output[Dataset],
    metrics: Output[Metrics],
) -> bool:
    """Score the base model, zero-shot and few-shot; return whether training is worth its cost.

    The condition is the single unnamed output: kfp's local runner silently skips a `dsl.If` on a named one.
    """
    from pathlib import Path

    from tunegate import steps

    result = steps.run("baseline", config, base=base, data=data)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    items.metadata.update(ref=result["results"], resources=resources)
    Path(results).write_text(result["results"])
    Path(replay).write_text(result["replay"])
    return result.summary["worth_training"]
