"""Fold the adapter into the base model."""

from kfp import dsl
from kfp.dsl import Metrics, Model, Output

from components import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def merge(
    config: str,
    base: str,
    adapter: str,
    merged: Output[Model],
    metrics: Output[Metrics],
) -> str:
    """Write the 16-bit model that will be evaluated and served; return its reference."""
    from tunegate import steps

    result = steps.run("merge", config, base=base, adapter=adapter)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    merged.metadata["ref"] = result["model"]
    return result["model"]
