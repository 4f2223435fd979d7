"""Say a run's outcome on one screen of text."""

import textwrap

from tunegate.report import summary
from tunegate.report.collect import Run, gather


def terminal_summary(store, run_id: str) -> str:
    """Give the verdict of a run as `tunegate verdict` tells it; for a run that stopped, where and why, and what was measured."""
    run = gather(store, run_id)
    said = [_wrapped(f"The run stopped at {step}: {error['sentence']}") for step, error in run.errors.items()]
    if run.verdict:
        return "\n".join([summary.tell(run.verdict, run.signed, run.waived, _cost(run)), *said])
    if not said:
        said.append(f"The run {run_id} has no verdict yet; it got as far as {list(run.records)[-1] if run.records else 'nothing'}.")
    return "\n".join([*said, *summary.figures(run.table, ["task/exact", "general/nats_per_token", "serve/prompt_tokens"])])


def _cost(run: Run) -> float | None:
    return run.records["gate"]["config"].get("cost_per_hour")


def _wrapped(sentence: str) -> str:
    return textwrap.fill(sentence, summary.COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
