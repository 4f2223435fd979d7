"""Make the model a version in the registry."""

from kfp import dsl
from kfp.dsl import Metrics, Output

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def register(
    config: str,
    verdict: str,
    model: str,
    metrics: Output[Metrics],
) -> str:
    """Register the model with its verdict and lineage, alias `candidate`; return the reference of the version."""
    from tunegate import steps

    result = steps.run("register", config, verdict=verdict, model=model)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    return result["version"]
