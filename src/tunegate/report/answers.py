"""Show answers side by side, and the main metric by task type. Only the task's own items are shown, never those of a suite: the prompts
of a safety suite may be harmful."""

from collections import defaultdict

from tunegate.report.words import arm_name, arm_style, short_arm

MAX_TASK_TYPES = 20
MAX_CHARACTERS = 1200  # of one text; arbitrary, about a screen
COMPARED = ("champion", "base_few_shot", "base_zero_shot")  # the first that was measured is what the candidate is compared with
WINS, LOSSES, BOTH, NEITHER = "won", "lost", "both", "neither"
COUNTS = {WINS: 3, BOTH: 1, LOSSES: 2, NEITHER: 2}
ONLY_DIFFERENT = {WINS: 3, LOSSES: 3}


def by_type(items: list[dict], table: list[dict], metric: str | None) -> dict | None:
    """Average the main metric by task type, the most frequent types first."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        if item["metric"] == metric and item["split"] == "test" and item["task_type"]:
            scores[item["task_type"]][item["arm"]].append(item["score"])
    if not scores or not all(0 <= score <= 1 for by_arm in scores.values() for found in by_arm.values() for score in found):
        return None
    arms = [row for row in table if any(row["arm"] in by_arm for by_arm in scores.values())]
    size = {name: max(map(len, by_arm.values())) for name, by_arm in scores.items()}
    names = sorted(scores, key=lambda name: (-size[name], name))
    lines = []
    for name in names[:MAX_TASK_TYPES]:
        shares = [sum(found) / len(found) if (found := scores[name].get(row["arm"])) else None for row in arms]
        cells = [None if share is None else {"percent": f"{100 * share:.0f}", "css": arm_style(row["arm"])}
                 for share, row in zip(shares, arms, strict=True)]  # fmt: skip
        lines.append({"name": name, "n": size[name], "cells": cells})
    heads = [arm_name(row["arm"], row["few_shot"]) for row in arms]
    return {"heads": heads, "lines": lines, "left_out": len(names) - len(lines)}


def side_by_side(items: list[dict], table: list[dict], metric: str | None, rows: dict[str, dict], counts: dict[str, int]) -> dict | None:
    """Choose items where the candidate won, lost, or neither; the same ones every time, by identifier or by the largest difference.

    Args:
        rows: the rows of the test, by id; an item that is not there is shown without its question.
        counts: how many of each group.
    """
    found: dict[str, dict[str, dict]] = defaultdict(dict)
    for item in items:
        if item["metric"] == metric and item["split"] == "test":
            found[item["item_id"]][item["arm"]] = item
    order = [row for row in table if any(row["arm"] in answers for answers in found.values())]
    compared = next((arm for arm in COMPARED if any(row["arm"] == arm for row in order)), None)
    pairs = [(item_id, answers) for item_id, answers in sorted(found.items()) if {"candidate", compared} <= answers.keys()]
    binary = all(answer["score"] in (0.0, 1.0) for _, answers in pairs for answer in answers.values())
    groups = defaultdict(list)
    for item_id, answers in pairs:
        before, after = answers[compared]["score"], answers["candidate"]["score"]
        group = WINS if after > before else LOSSES if after < before else BOTH if after == 1 else NEITHER
        groups[group].append((-abs(after - before), item_id, answers))
    titles = _titles(short_arm(compared or ""), binary)
    samples = []
    for group in (group for group in counts if titles[group]):
        for _, item_id, answers in sorted(groups[group], key=lambda one: one[:2])[: counts[group]]:
            samples.append(_sample(titles[group], rows.get(item_id), answers, order, binary))
    how = "The first items by identifier in each group" if binary else "The items that differ most"
    return {"samples": samples, "how": f"{how}, so nobody picked them."} if samples else None


def _titles(compared: str, binary: bool) -> dict[str, str]:
    if not binary:
        return {WINS: f"Better than {compared}", LOSSES: f"Worse than {compared}", BOTH: "", NEITHER: ""}
    return {
        WINS: f"Right after fine-tuning, wrong with {compared}", LOSSES: f"Wrong after fine-tuning, right with {compared}",
        BOTH: f"Right after fine-tuning and with {compared}", NEITHER: "Wrong either way",
    }  # fmt: skip


def _sample(title: str, row: dict | None, answers: dict[str, dict], order: list[dict], binary: bool) -> dict:
    given = []
    for arm, few_shot in ((told["arm"], told["few_shot"]) for told in order if told["arm"] in answers):
        answer = answers[arm]
        mark = ("✓" if answer["score"] else "✗") if binary else f"{answer['score']:.3f}"
        css = ("right" if answer["score"] else "wrong") if binary else ""
        given.append({"name": arm_name(arm, few_shot), "mark": mark, "css": css, "text": _cut(answer["output"]) or "(nothing)"})
    # results of before the column `expected` leave it to the row
    expected = answers["candidate"].get("expected") or (row["messages"][-1]["content"] if row else "")
    return {"title": title, "asked": _cut(_question(row)) if row else "", "expected": _cut(expected), "answers": given}


def _cut(text: str) -> str:
    """Keep what a reader can take in, and say how much was left out."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} … ({len(text) - MAX_CHARACTERS:,} more characters)"


def _question(row: dict) -> str:
    """Give what a row asks, without the system prompt and the answer."""
    return "\n".join(turn["content"] for turn in row["messages"][:-1] if turn["role"] != "system")
