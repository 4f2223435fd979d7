"""Keep count of the rows that each stage lets through, and of those it drops: why, and which."""

import json
from collections import Counter
from pathlib import Path

from tunegate.digests import canonical_json, write_atomic

EXAMPLES = 3
EXAMPLE_CHARACTERS = 300


class Funnel:
    """`rows` came in; `stages` is a list of {stage, rows_in, rows_out, reasons: {reason: {count, examples}}}."""

    def __init__(self, rows: list[dict]):
        self.rows = rows
        self.stages: list[dict] = []
        self.rejected: list[dict] = []

    def stage(self, name: str, given: list[dict], dropped: dict[int, tuple[str, int | None]]) -> list[dict]:
        """Record a stage and give the rows that it keeps.

        Args:
            dropped: for each place in `given` that goes: the reason, and the place of the row it resembles, if that is why.
        """
        reasons: dict[str, dict] = {}
        for place, (reason, like) in sorted(dropped.items()):
            row = given[place]
            reject = {"stage": name, "reason": reason, "messages": row["messages"]}
            reject |= {"id": row.get("id", ""), "source": row.get("source", "")}
            if like is not None:
                reject["like"] = given[like]["id"]
            self.rejected.append(reject)
            found = reasons.setdefault(reason, {"count": 0, "examples": []})
            found["count"] += 1
            if len(found["examples"]) < EXAMPLES:
                found["examples"].append(_example(row) + (f"   like   {_example(given[like])}" if like is not None else ""))
        kept = [row for place, row in enumerate(given) if place not in dropped]
        self.stages.append({"stage": name, "rows_in": len(given), "rows_out": len(kept), "reasons": reasons})
        return kept

    def reasons(self) -> Counter:
        return Counter(reject["reason"] for reject in self.rejected)

    def write(self, directory: Path, report: dict) -> None:
        # In ASCII, because a rejected row may hold half of a surrogate pair, which UTF-8 cannot.
        write_atomic(directory / "rejected.jsonl", "".join(json.dumps(reject, sort_keys=True) + "\n" for reject in self.rejected))
        write_atomic(directory / "report.json", canonical_json(report))


def _example(row: dict) -> str:
    turns = [turn for turn in row["messages"] if isinstance(turn, dict)] if isinstance(row["messages"], list) else []
    text = " → ".join(str(turn.get("content")) for turn in turns if turn.get("role") != "system")
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= EXAMPLE_CHARACTERS else f"{text[:EXAMPLE_CHARACTERS]} …"
