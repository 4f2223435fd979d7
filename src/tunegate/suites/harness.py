"""Measure tasks of lm-evaluation-harness on a served model, item by item.

A metric is called `<suite>/<name in the recipe>.<metric>`, and where the task has filters `<suite>/<name>.<metric>.<filter>`.
A group or tag of the recipe is one metric over the items of all its tasks, each of which counts once; which task an item is
of stands in task_type, for slices. Items with the same document are one cluster.

Not covered: metrics that exist only for a whole set (corpus BLEU, F1, perplexity). They are left out, and a task that has no
other is refused.
"""

import contextlib
import io
import logging
import warnings

from tunegate import digests, recipe, results
from tunegate.steps import say
from tunegate.suites import harness_metrics, harness_tasks
from tunegate.suites.harness_tasks import problems

__all__ = ["measure", "measures", "problems"]


def measures(suite: recipe.HarnessSuite) -> list[str]:
    """Name what the suite measures, without its own name."""
    named = [
        (name, measure)
        for name in suite.tasks
        for leaf in harness_tasks.find(suite, name).values()
        for measure in harness_tasks.measures(leaf)
    ]
    return sorted({f"{name}.{measure}" for name, measure in named})


def measure(server, arm: str, suite: recipe.HarnessSuite, concurrency: int, label: str) -> list[dict]:
    """Ask every item of every task; give lines of results."""
    tasks = harness_tasks.load(suite)
    from lm_eval import evaluator

    from tunegate.suites.served_model import ServedModel

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    leaves = {leaf: task for loaded in tasks.values() for leaf, task in loaded.items()}
    model = ServedModel(server, concurrency, label, any(map(_asks_likeliest, leaves.values())))
    # Its progress bars (ours are lines), and warnings about averages, which are not used.
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
        found = evaluator.evaluate(
            model, {"tasks": leaves, "groups": {}}, bootstrap_iters=0, apply_chat_template=suite.chat_template, fewshot_as_multiturn=True
        )
    items, left_out = [], set()
    for name, loaded in tasks.items():
        for leaf, task in loaded.items():
            for sample in found["samples"][leaf]:
                item_id = digests.digest_json([leaf, sample["doc_id"], sample["doc_hash"]])
                about = _about(leaf, sample)
                for metric in sample["metrics"]:
                    # Where a metric has no way to be summed up, the harness takes the mean.
                    score = harness_metrics.value(metric, sample[metric], task.aggregation().get(metric, "mean"))
                    if score is None:
                        left_out.add(f"{leaf}.{metric}")
                        continue
                    called = f"{suite.name}/{name}.{harness_metrics.measure(metric, sample['filter'])}"
                    items.append(results.item(arm, suite.name, item_id, called, score, **about))
    if left_out:
        say(f"      {label}: left out, for they have no value for each item: {', '.join(sorted(left_out))}")
    return items


def _about(leaf: str, sample: dict) -> dict:
    requests = [list(arguments) for arguments in sample["arguments"]]
    answer = sample["resps"][0][0]
    return {
        "cluster_id": sample["doc_hash"], "task_type": leaf, "source": "lm-evaluation-harness",
        "prompt_hash": digests.digest_json(requests),
        "output": answer if isinstance(answer, str) else "", "expected": str(sample["target"]),
    }  # fmt: skip


def _asks_likeliest(task) -> bool:
    """Tell whether a task may ask if greedy decoding would give a continuation."""
    return task.OUTPUT_TYPE == "loglikelihood" or (
        task.OUTPUT_TYPE == "multiple_choice" and ("exact_match" in task.aggregation() or callable(task.config.process_results))
    )
