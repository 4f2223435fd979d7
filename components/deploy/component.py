"""Serve the version and prove that it answers."""

from kfp import dsl
from kfp.dsl import Metrics, Output

from components import SERVE_IMAGE


@dsl.component(base_image=SERVE_IMAGE, install_kfp_package=False)
def deploy(
    config: str,
    version: str,
    verdict: str,
    model: str,
    data: str,
    results: str,
    metrics: Output[Metrics],
) -> str:
    """Start the model behind its OpenAI API and smoke-test it; return the reference of the endpoint."""
    from tunegate import steps

    result = steps.run("deploy", config, version=version, verdict=verdict, model=model, data=data, results=results)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    return result["endpoint"]
