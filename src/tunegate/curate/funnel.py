"""Keep count of the rows that each stage lets through, and of those it drops: why, and which."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tunegate.digests import canonical_json, write_atomic

EXAMPLES = 3
EXAMPLE_CHARACTERS = 300


class Funnel:
    """`rows` came in; `stages` is a list of {stage, rows_in, rows_out, reasons, changed}, both {reason: {count, examples}}."""

    def __init__(self, rows: list[dict]):
        self.rows = rows
        self.stages: list[dict] = []
        self.rejected: list[dict] = []
        self.aside = 0  # rows that later stages do not see, because they are dev or test

    def stage(self, name: str, given: list[dict], dropped: dict[int, tuple[str, int | str | None]]) -> list[dict]:
        """Record a stage that drops rows, and give those that it keeps.

        Args:
            dropped: for each place in `given` that goes: the reason, and what it resembles, if that is why: the place of
                another row, or a text.
        """
        reasons: dict[str, dict] = {}
        for place, (reason, like) in sorted(dropped.items()):
            row = given[place]
            reject = {"stage": name, "reason": reason, "messages": row["messages"]}
            reject |= {"id": row.get("id", ""), "source": row.get("source", "")}
            if like is not None:
                reject["like"] = given[like]["id"] if isinstance(like, int) else like
            self.rejected.append(reject)
            resembled = "" if like is None else f"   like   {_example(given[like]) if isinstance(like, int) else _cut(like)}"
            _count(reasons, reason, _example(row) + resembled)
        kept = [row for place, row in enumerate(given) if place not in dropped]
        self.stages.append({"stage": name, "rows_in": len(given) + self.aside, "rows_out": len(kept) + self.aside, "reasons": reasons})
        return kept

    def checked(self, name: str, given: list[dict], outcomes: list, mask: Callable[[dict], dict] | None = None) -> list[dict]:
        """Record a row stage by its outcomes (see row_stages), and give the rows that stay, changed where it changed them.

        Args:
            mask: gives of a row what may be shown, where the reason to drop it is also one not to show it.
        """
        changed: dict[str, dict] = {}
        after = []
        for row, outcome in zip(given, outcomes, strict=True):
            if isinstance(outcome, dict):
                _count(changed, "redacted", _example(outcome))
                row = outcome
            elif isinstance(outcome, str) and mask:
                row = mask(row)
            after.append(row)
        kept = self.stage(name, after, {i: (outcome, None) for i, outcome in enumerate(outcomes) if isinstance(outcome, str)})
        if changed:
            self.stages[-1]["changed"] = changed
        return kept

    def set_aside(self, rejected: list[dict]) -> None:
        """Keep rejects that are no rows: preference pairs and labelled answers, with their stage and reason."""
        self.rejected += rejected

    def reasons(self) -> Counter:
        return Counter(reject["reason"] for reject in self.rejected)

    def write(self, directory: Path, report: dict) -> None:
        # In ASCII, because a rejected row may hold half of a surrogate pair, which UTF-8 cannot.
        write_atomic(directory / "rejected.jsonl", "".join(json.dumps(reject, sort_keys=True) + "\n" for reject in self.rejected))
        write_atomic(directory / "report.json", canonical_json(report))


def _count(found: dict[str, dict], reason: str, example: str) -> None:
    entry = found.setdefault(reason, {"count": 0, "examples": []})
    entry["count"] += 1
    if len(entry["examples"]) < EXAMPLES:
        entry["examples"].append(example)


def _example(row: dict) -> str:
    turns = [turn for turn in row["messages"] if isinstance(turn, dict)] if isinstance(row["messages"], list) else []
    return _cut(" → ".join(str(turn.get("content")) for turn in turns if turn.get("role") != "system"))


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= EXAMPLE_CHARACTERS else f"{text[:EXAMPLE_CHARACTERS]} …"
