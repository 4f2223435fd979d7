"""Name the metrics of harness tasks, and give their values for single items."""

import math
from numbers import Real

PER_ITEM = ("mean", "nanmean")  # ways to sum up a metric that has a value for each item


def measures(config: dict) -> list[str]:
    """Name the metrics that a task's YAML promises a value of for each item."""
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    listed = config.get("metric_list")
    if listed is None:
        listed = [{"metric": name} for name in DEFAULT_METRIC_REGISTRY[config.get("output_type", "generate_until")]]
    filters = [entry["name"] for entry in config.get("filter_list") or [{"name": "none"}]]
    # A function of the task's own is written as the path of its file, a dot and its name.
    names = [entry["metric"].rpartition(".")[2] if "/" in entry["metric"] else entry["metric"] for entry in listed]
    kept = [name for name, entry in zip(names, listed, strict=True) if is_per_item(name, entry.get("aggregation"))]
    return [measure(name, one) for name in kept for one in filters]


def measure(metric: str, filter_name: str) -> str:
    """Name a metric of the harness; where answers pass one of several filters first, its name is part of it."""
    return metric if filter_name == "none" else f"{metric}.{filter_name}"


def is_per_item(metric: str, aggregation=None) -> bool:
    """Tell whether a metric is the mean of one value for each item.

    `aggregation` is its name or its function; none: the metric's own. bits_per_byte, which the harness weights by length, is
    counted in: each text has its own.
    """
    from lm_eval.api import metrics, registry

    chosen = aggregation if aggregation is not None else registry.get_metric_aggregation(metric)
    known = [*PER_ITEM, *(getattr(metrics, name) for name in PER_ITEM)]
    return metric == "bits_per_byte" or chosen in known


def value(metric: str, found, aggregation) -> float | None:
    """Give an item's own value of a metric from what the harness found; None where it has none.

    bits_per_byte comes as log-likelihood and number of bytes.
    """
    if not is_per_item(metric, aggregation):
        return None
    if metric == "bits_per_byte":
        nats, count = found
        return -nats / count / math.log(2)
    return float(found) if isinstance(found, Real) else None
