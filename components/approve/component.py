"""Wait for a person where the recipe asks for one."""

from kfp import dsl
from kfp.dsl import Metrics, Output

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def approve(
    config: str,
    version: str,
    metrics: Output[Metrics],
) -> str:
    """Record the approval of the version, or wait for it; pass its reference on."""
    from tunegate import steps

    # deploy takes its version from here, so that it cannot start before the approval is recorded.
    result = steps.run("approve", config, version=version)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    return result["version"]
