"""Fine-tune on the training split."""

from kfp import dsl
from kfp.dsl import HTML, Metrics, Model, Output

from components import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def sft(
    config: str,
    base: str,
    data: str,
    replay: str,
    resources: str,
    image: str,
    secret: str,
    model: Output[Model],
    metrics: Output[Metrics],
    curve: Output[HTML],
) -> str:
    """Train an adapter by supervised fine-tuning; return its reference."""
    from tunegate import steps
    from tunegate.report.loss_page import write_loss_page

    result = steps.run("sft", config, where={"image": image, "secret": secret}, base=base, data=data, replay=replay)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    write_loss_page(curve.path, "Supervised fine-tuning", result)
    model.metadata.update(ref=result["adapter"], resources=resources)
    return result["adapter"]
