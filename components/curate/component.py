"""Turn rows into train, dev and sealed test."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def curate(
    config: str,
    rows: str,
    base: str,
    tokenizer: str,
    resources: str,
    splits: Output[Dataset],
    metrics: Output[Metrics],
) -> NamedTuple("Curated", [("data", str), ("report", str)]):
    """Deduplicate and split by near-duplicate cluster; return the references of the splits and of the report."""
    from tunegate import steps

    result = steps.run("curate", config, rows=rows, base=base, tokenizer=tokenizer)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    splits.metadata["ref"] = result["data"]
    return result["data"], result["report"]
