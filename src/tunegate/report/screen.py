"""Say a run's outcome on one screen of text."""

import textwrap

from tunegate.gate.wording import number, shown, signed
from tunegate.report.collect import gather
from tunegate.report.words import DECISIONS, arm_name, cost

COLUMNS = 118


def terminal_summary(store, run_id: str) -> str:
    """Give the decision, its reasons and the before/after table; for a run that stopped, where and why."""
    run = gather(store, run_id)
    said = []
    if run.verdict:
        decision = run.verdict["decision"]
        said.append(f"{decision}  {DECISIONS[decision][1]}")
        said += [_wrapped(reason) for reason in run.verdict["reasons"]]
    for step, error in run.errors.items():
        said.append(_wrapped(f"The run stopped at {step}: {error['sentence']}"))
    if not said:
        said.append(f"The run {run_id} has no verdict yet; it got as far as {list(run.records)[-1] if run.records else 'nothing'}.")
    return "\n".join(said + (["", *_rows(run.table)] if run.table else []))


def _wrapped(sentence: str) -> str:
    return textwrap.fill(sentence, COLUMNS, initial_indent="  · ", subsequent_indent="    ", break_on_hyphens=False)


def _rows(table: list[dict]) -> list[str]:
    head = ["", "exact match (95 % interval)", "general loss, change (nats/token)", "prompt tokens", "cost per 1,000"]
    cells = [head]
    for row in table:
        metrics = row["metrics"]
        tokens = metrics.get("serve/prompt_tokens")
        cells.append([
            arm_name(row["arm"], row["few_shot"]), _exact(metrics.get("task/exact")), _general(metrics.get("general/nats_per_token")),
            number(tokens["mean"]) if tokens else "–", cost(row["cost_per_1000_requests"]),
        ])  # fmt: skip
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _exact(found: dict | None) -> str:
    if not found:
        return "–"
    text = shown(found["mean"], found["kind"])
    return text + (f" ({100 * found['ci'][0]:.1f} to {100 * found['ci'][1]:.1f})" if found["ci"] else "")


def _general(found: dict | None) -> str:
    if not found:
        return "–"
    if "change" not in found:
        return number(found["mean"])
    text = f"{number(found['mean'])}, {signed(found['change'], 'number')}"
    return text + (f" ({found['change_ci'][0]:+.3f} to {found['change_ci'][1]:+.3f})" if found["change_ci"] else "")
