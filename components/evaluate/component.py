"""Score the merged model as it will be served."""

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output

from components import SERVE_IMAGE


@dsl.component(base_image=SERVE_IMAGE, install_kfp_package=False)
def evaluate(
    config: str,
    model: str,
    data: str,
    results: str,
    resources: str,
    items: Output[Dataset],
    metrics: Output[Metrics],
) -> str:
    """Answer the sealed test and score each item; return the reference of the per-item results."""
    from tunegate import steps

    result = steps.run("evaluate", config, model=model, data=data, results=results)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    items.metadata.update(ref=result["results"], resources=resources)
    return result["results"]
