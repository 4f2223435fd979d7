"""Read the sources and mirror the base model."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def ingest(
    config: str,
    snapshot: Output[Dataset],
    metrics: Output[Metrics],
) -> NamedTuple("Ingested", [("rows", str), ("base", str), ("tokenizer", str)]):
    """Validate every row of every source; return the references of the rows, the base model and its tokenizer."""
    from tunegate import steps

    result = steps.run("ingest", config)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    snapshot.metadata["ref"] = result["rows"]
    return result["rows"], result["base"], result["tokenizer"]
