"""Measure what a model must keep beside its own task: harness tasks, safety, other tasks. Each suite of the recipe is a split.

Every arm is asked the same prompts, in the same order, greedily. A line of results carries the hash of what was sent for it.
"""

import contextlib
from pathlib import Path

from tunegate import recipe
from tunegate.suites import other_task, safety
from tunegate.suites.files import with_local_files

__all__ = ["identity", "measure", "metrics_of", "problems", "with_local_files"]


def measure(server, arm: str, suite: recipe.Suite, concurrency: int, label: str) -> list[dict]:
    """Ask a running server everything in a suite; give lines of results (see tunegate.results).

    Args:
        label: what the lines of progress begin with, for instance the name of the step and of the arm.

    Raises:
        BadInput: a suite's file or task cannot be used as it is.
    """
    return _of(suite).measure(server, arm, suite, concurrency, f"{label} on {suite.name}")


def identity(suite: recipe.Suite) -> dict:
    """Say all that a suite asks, as JSON: its settings, the bytes of its files, and the versions of the packages it takes items from."""
    from importlib.metadata import PackageNotFoundError, version

    from tunegate.digests import sha256_file
    from tunegate.store.base import digest_of, read_directory
    from tunegate.suites.files import named

    files = {key: Path(path) for key, path in named(suite).items()}
    bytes_of = {key: digest_of(read_directory(path)) if path.is_dir() else sha256_file(path) for key, path in files.items()}
    packages = {}
    for package in ("lm-eval", "garak"):
        with contextlib.suppress(PackageNotFoundError):
            packages[package] = version(package)
    return {"suite": suite.model_dump(mode="json") | bytes_of, "packages": packages}


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
