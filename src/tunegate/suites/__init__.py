"""Measure what a model must keep beside its own task: harness tasks, safety, other tasks. Each suite of the recipe is a split.

Every arm is asked the same prompts, in the same order, greedily. A line of results carries the hash of what was sent for it.
"""

from pathlib import Path

from tunegate import recipe
from tunegate.suites import other_task, safety
from tunegate.suites.files import with_local_files

__all__ = ["measure", "metrics_of", "problems", "with_local_files"]


def measure(server, arm: str, settings: recipe.Evaluate, label: str) -> list[dict]:
    """Ask a running server everything in every suite; give lines of results (see tunegate.results).

    Args:
        label: what the lines of progress begin with, for instance the name of the step.

    Raises:
        BadInput: a suite's file or task cannot be used as it is.
    """
    items = []
    for suite in settings.suites:
        items += _of(suite).measure(server, arm, suite, settings.concurrency, f"{label}: {arm} on {suite.name}")
    return items


def metrics_of(settings: recipe.Evaluate) -> set[str]:
    """Name the metrics that a policy may use because of these settings; `problems` must have found none.

    Tasks of the harness are told by their YAML: what a task's own code adds to it is measured, and not named here.
    """
    found = {f"{suite.name}/{measure}" for suite in settings.suites for measure in _of(suite).measures(suite)}
    return found | ({"judge/win", "judge/flip"} if settings.judge.url else set())


def problems(settings: recipe.Evaluate) -> list[str]:
    """Say, a sentence each, what would keep a suite from being measured; what lies behind an address is not looked at."""
    return [sentence for suite in settings.suites for sentence in _missing_files(suite) or _of(suite).problems(suite)]


def _of(suite: recipe.Suite):
    if isinstance(suite, recipe.HarnessSuite):
        from tunegate.suites import harness  # lm-evaluation-harness comes with an extra

        return harness
    return safety if isinstance(suite, recipe.SafetySuite) else other_task


def _missing_files(suite: recipe.Suite) -> list[str]:
    from tunegate.suites.files import is_address, named

    return [
        f"Suite '{suite.name}' names {path} in `{key}`, which does not exist. Paths in a recipe are relative to the recipe."
        for key, path in named(suite).items()
        if not is_address(path) and not Path(path).exists()
    ]
