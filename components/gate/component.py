"""Judge the model by the policy and the per-item results."""

from kfp import dsl
from kfp.dsl import Metrics, Output, OutputPath

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def gate(
    config: str,
    data: str,
    report: str,
    baseline: str,
    verdict: OutputPath(str),
    metrics: Output[Metrics],
    results: str = "",
    model: str = "",
    adapter: str = "",
) -> bool:
    """Write the verdict; return whether the model may go on. Without `results` nothing was trained: DO_NOT_FINE_TUNE.

    The condition is the single unnamed output: kfp's local runner silently skips a `dsl.If` on a named one.
    """
    from pathlib import Path

    from tunegate import steps

    result = steps.run("gate", config, data=data, report=report, baseline=baseline, results=results, model=model, adapter=adapter)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    metrics.metadata["decision"] = result.summary["decision"]
    Path(verdict).write_text(result["verdict"])
    return result.summary["decision"] == "PROMOTE" or result.summary["waiver"] is not None
