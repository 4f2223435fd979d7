"""Say a verdict on one screen of text, so that somebody who knows no statistics can act on it."""

import re
import textwrap

from tunegate.gate.measures import before_after
from tunegate.gate.wording import number, shown
from tunegate.report import facts
from tunegate.report.advice import next_step
from tunegate.report.gates import asked, found, reason, unit_of
from tunegate.report.words import DECISIONS, OUTCOMES, arm_name, cost, gate_name, metric_name, short_arm

LINES, COLUMNS = 24, 100  # of a terminal as it opens (80 columns are too few for a table of five arms)
NAME, GAP = 11, 2  # width of the names at the left, and between columns
WARNINGS, ENOUGH = 3, 6  # as many warnings and gates are told, a line each, before the figures get less room; arbitrary
FIRST = ["error", "failed", "held", "inconclusive", "passed", "skipped"]  # what must be seen comes before what may be left out
COLOURS = {"good": 32, "bad": 31, "unsure": 33, "info": 36, "off": 2}  # SGR codes of terminals (ECMA-48)


def summary(verdict: dict, signed: str = "", waiver: dict | None = None, cost_per_hour: float | None = None) -> str:
    """Tell a verdict in at most 24 lines of 100 columns: decision, figures, gates, and what to do next.

    Args:
        signed: who signed it, as whoever checked the signature says it; "" where nobody did.
        waiver: {"who", "reason", "expires"} of a waiver that holds.
        cost_per_hour: of the serving machine, for a column with the cost of 1,000 requests.
    """
    return tell(verdict, signed, waived(waiver) if waiver else "", cost_per_hour)


def tell(verdict: dict, signed: str, waived: str, cost_per_hour: float | None) -> str:
    """Tell a verdict as `summary` does, with the waiver in words."""
    predicate = verdict["predicate"]
    table = before_after(predicate["measures"], predicate["facts"]["arms"], cost_per_hour)
    table = [row for row in table if row["arm"] != "adapter"]  # a check of the merge, and no rival
    head = _wrapped(f"{verdict['decision']}  ", DECISIONS[verdict["decision"]][1], 2)
    if waived:
        head += _wrapped("WAIVED, NOT PROVEN: ", f"BY {waived.upper()}", 2)
    head += ["", *_about(verdict, table)]
    gates = sorted(predicate["policy"]["document"]["gates"], key=lambda gate: not gate["required"])
    metrics, enough = list(dict.fromkeys(gate["metric"] for gate in gates)), min(len(predicate["gates"]), ENOUGH) + 3
    for arms, spare in ((len(table), False), (len(table), True), (2, True)):  # the gates come first where not everything has room
        told, foot = figures(table[-arms:], metrics), _foot(verdict, signed, spare)
        room = LINES - len(head) - len(told) - len(foot)
        if room >= enough:
            break
    lines = head + told + _gates(predicate, verdict["reasons"], room) + foot
    # task types and reasons may hold what people or models wrote, and a terminal obeys control characters
    return "\n".join("".join(sign if sign.isprintable() else "\ufffd" for sign in line.rstrip()) for line in lines)


def waived(waiver: dict) -> str:
    return f"{waiver['who']} until {waiver['expires']}: {waiver['reason']}"


def coloured(text: str, decision: str) -> str:
    """Colour the decision, a waiver and the marks of the gates, for a terminal."""
    text = re.sub(rf"^{decision}", lambda found: _paint(found[0], DECISIONS[decision][0]), text)
    text = re.sub(r"^WAIVED, NOT PROVEN", lambda found: _paint(found[0], "bad"), text, flags=re.MULTILINE)
    return re.sub(rf"^. ({'|'.join(OUTCOMES)})\b", lambda found: _paint(found[0], OUTCOMES[found[1]][1]), text, flags=re.MULTILINE)


def _paint(text: str, style: str) -> str:
    return f"\x1b[1;{COLOURS[style]}m{text}\x1b[0m"


def _wrapped(name: str, text: str, lines: int) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), COLUMNS, initial_indent=f"{name:<{NAME}}", subsequent_indent=" " * NAME, max_lines=lines, placeholder=" …",
        break_on_hyphens=False,
    )  # fmt: skip


def _about(verdict: dict, table: list[dict]) -> list[str]:
    known = verdict["predicate"]["facts"]
    what = facts.subject(verdict) if known.get("trained") else "no model: nothing was trained"
    recipe = f"{known['recipe']}, " if known.get("recipe") else ""
    rows = f", {known['train_rows']:,} training rows" if known.get("train_rows") is not None else ""
    arms = [short_arm(row["arm"]) for row in table if row["arm"] != "candidate"]
    sizes = sorted({entry["n"] for row in table for entry in row["metrics"].values() if entry["split"] in ("dev", "test")})
    items = f", on {sizes[-1]:,} {'sealed' if known.get('trained') else 'dev'} items" if sizes else ""
    lines = _wrapped("Model", f"{recipe}{what}{rows}", 1)
    return lines + (_wrapped("Against", ", ".join(dict.fromkeys(arms)) + items, 1) if arms else [])


def figures(table: list[dict], metrics: list[str]) -> list[str]:
    """Make a line per arm, and a column for each of `metrics` that was measured, as many as there is room for."""
    if not table:
        return []
    measured = {metric for row in table for metric in row["metrics"]}
    columns = [["", *(arm_name(row["arm"], row["few_shot"]) for row in table)]]
    columns += [[metric_name(metric)[0], *(_figure(row["metrics"].get(metric)) for row in table)] for metric in metrics
                if metric in measured]  # fmt: skip
    if any(row["cost_per_1000_requests"] is not None for row in table):
        columns.insert(3, ["Cost of 1,000", *(cost(row["cost_per_1000_requests"]) for row in table)])
    kept, width = [], 0
    for column in columns:
        size = max(map(len, column))
        if width + size <= COLUMNS:
            kept.append([f"{cell:<{size}}" for cell in column])
            width += size + GAP
    return ["", *((" " * GAP).join(cells) for cells in zip(*kept, strict=True))]


def _figure(entry: dict | None) -> str:
    if not entry:
        return "–"
    if not entry["ci"]:
        return shown(entry["mean"], entry["kind"])
    low, high = (f"{100 * end:.1f}" if entry["kind"] == "share" else number(end) for end in entry["ci"])
    return f"{shown(entry['mean'], entry['kind'])} ({low} to {high})"


def _gates(predicate: dict, reasons: list[str], room: int) -> list[str]:
    """Say each gate in a line: what it asked and what was found; where there is no room, those that passed are only counted."""
    gates = predicate["gates"]
    # what is no gate's sentence (a precondition, evidence that cannot be judged) is a reason of its own
    own = [reason for reason in reasons if reason not in {gate["reason"] for gate in gates}]
    lines = [line for reason in own for line in _wrapped("Because", reason, 3 if len(own) < 3 else 2)][: max(room - 2, 1)]
    room -= len(lines) + 1
    if gates:
        room -= 1
        seen = sorted(gates, key=lambda gate: FIRST.index(gate["outcome"]))
        kept = seen[:room] if len(seen) <= room else seen[: max(room - 1, 0)]
        rows = [_gate(gate, predicate["measures"]) for gate in gates if gate in kept and "kind" in gate]
        marks = max(len(_mark(gate)) for gate in kept) + GAP
        right = max((len(found) for _, _, found in rows), default=0)
        left = min(COLUMNS - marks - right - GAP, max((len(middle) for _, middle, _ in rows), default=0))
        title = f"What had to be proven, with {100 * (1 - predicate['policy']['document']['alpha']):g} % confidence"
        lines.append(f"{'':{marks}}{title:<{left + GAP}}{'Found' if rows else ''}")
        for gate in (gate for gate in gates if gate in kept):
            if "kind" in gate:
                mark, middle, told = _gate(gate, predicate["measures"])
                lines.append(f"{mark:<{marks}}{_shortened(middle, left):<{left + GAP}}{told}")
            else:
                lines.append(_shortened(f"{_mark(gate):<{marks}}{gate_name(gate)}: {reason(gate)}", COLUMNS))
        if others := [gate for gate in gates if gate not in kept]:
            told = ", ".join(f"{sum(gate['outcome'] == outcome for gate in others)} {outcome}" for outcome in FIRST
                             if any(gate["outcome"] == outcome for gate in others))  # fmt: skip
            lines.append(f"{'…':<{marks}}and {told}; the page shows all")
    return ["", *lines] if lines else []


def _gate(gate: dict, measures: list[dict]) -> tuple[str, str, str]:
    name = metric_name(gate["metric"], gate.get("statistic", "mean"))[0]
    advisory = "" if gate["required"] else " (advisory)"
    return _mark(gate), f"{name}: {asked(gate, unit_of(gate, measures))}{advisory}", found(gate)


def _mark(gate: dict) -> str:
    return f"{OUTCOMES[gate['outcome']][0]} {gate['outcome']}"


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _foot(verdict: dict, signed: str, spare: bool) -> list[str]:
    lines = ["", *_wrapped("Next", next_step(verdict), 2 if spare else 3)]
    warnings, most, use = facts.warnings(verdict), 1 if spare else WARNINGS, facts.sealed_use(verdict)
    for warning in warnings[:most]:
        lines += _wrapped("Warning", warning, 1)
    if len(warnings) > most:
        lines += _wrapped("", f"and {len(warnings) - most} more; the page shows all", 1)
    seal = f"; candidate {use} on this sealed test" if use is not None else ""
    policy = verdict["predicate"]["policy"]
    return lines + _wrapped("Verdict", f"{signed or 'unsigned'}{seal}; policy {policy['name']} ({policy['sha256'][:12]})", 1)
