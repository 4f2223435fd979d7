"""Optimise the adapter on preference pairs."""

from kfp import dsl
from kfp.dsl import HTML, Metrics, Model, Output

from components import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def prefer(
    config: str,
    base: str,
    data: str,
    adapter: str,
    replay: str,
    resources: str,
    image: str,
    secret: str,
    model: Output[Model],
    metrics: Output[Metrics],
    curve: Output[HTML],
) -> str:
    """Train the adapter on pairs mined from its own answers; return the better adapter's reference."""
    from tunegate import steps
    from tunegate.report.loss_page import write_loss_page

    result = steps.run("prefer", config, where={"image": image, "secret": secret}, base=base, data=data, adapter=adapter, replay=replay)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    write_loss_page(curve.path, "Preference optimisation", result)
    model.metadata.update(ref=result["adapter"], resources=resources)
    return result["adapter"]
