"""Score the merged model as it will be served."""

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output

from components import SERVE_IMAGE


@dsl.component(base_image=SERVE_IMAGE, install_kfp_package=False)
def evaluate(
    config: str,
    model: str,
    base: str,
    adapter: str,
    data: str,
    results: str,
    resources: str,
    items: Output[Dataset],
    metrics: Output[Metrics],
) -> str:
    """Score the model, its adapter and the champion on the sealed test; return the reference of the per-item results."""
    from tunegate import steps

    result = steps.run("evaluate", config, model=model, base=base, adapter=adapter, data=data, results=results)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    items.metadata.update(ref=result["results"], resources=resources)
    return result["results"]
