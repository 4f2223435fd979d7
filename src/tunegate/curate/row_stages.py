"""The stages that look at one row at a time. Each is a module with a name, and two functions:

    off(config, context) -> str               why it does not run here; empty: it runs
    check(rows, config, context) -> outcomes  one outcome a row

An outcome is None (the row stays as it is), a sentence (the row goes, and why) or a row (it stays, changed). A check
keeps nothing between rows, so rows may come in batches of any size, in any process, and under Ray Data: the same rows and
settings give the same outcomes.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tunegate.recipe import Curate, Task

Outcome = None | str | dict

# In the order they run: (name in the report, module).
ROW_STAGES = (
    ("chat format", "tunegate.curate.chat_format"),
    ("language", "tunegate.curate.language"),
    ("secrets", "tunegate.curate.secrets"),
    ("personal data", "tunegate.curate.personal"),
    ("toxicity", "tunegate.curate.toxicity"),
    ("repetition", "tunegate.curate.repetition"),
    ("rubric", "tunegate.curate.rubric"),
)


@dataclass(frozen=True)
class Context:
    """What a check may know beside its settings: the task, and the base model's directory where there is one."""

    task: Task
    base: Path | None = None


def run_batch(module: str, rows: list[dict], config: Curate, context: Context) -> list[Outcome]:
    """Check one batch; what a worker calls."""
    return import_module(module).check(rows, config, context)
