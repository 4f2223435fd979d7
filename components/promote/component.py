"""Call the version champion."""

from kfp import dsl
from kfp.dsl import Metrics, Output

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def promote(
    config: str,
    version: str,
    verdict: str,
    endpoint: str,
    metrics: Output[Metrics],
):
    """Move the alias `champion` to the version and keep `previous`."""
    from tunegate import steps

    result = steps.run("promote", config, version=version, verdict=verdict, endpoint=endpoint)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
