"""Measure whether IFD tells an answer to its question from an answer to another one.

    python tests/benchmarks/ifd.py BASE ROWS [--rows N] [--cache FILE] [--bare]

BASE is the directory of an instruct model, ROWS a JSON or JSONL file of instructions in natural language (instruction,
input, output), 500 or more. Half of the answers change places among themselves. Prints the area under the ROC curve of IFD as
a sign of a misplaced answer, its bootstrap 95 % interval and the speed; exits with 1 when the area is below 0.95. With --bare
the loss is compared, as in the papers, with that of the answer's bare text (after the token that begins a text).
"""

import argparse
import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from tunegate import rows
from tunegate.curate import ifd
from tunegate.recipe import Ifd

MIN_ROWS = 500
MIN_AUC = 0.95
RESAMPLES = 2_000


def read(path: Path) -> list[dict]:
    """Read instructions, each once."""
    text = path.read_text(encoding="utf-8")
    entries = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line.strip()]
    questions = ["\n\n".join(filter(None, (entry["instruction"], entry.get("input")))) for entry in entries]
    answered = {question: entry["output"] for question, entry in zip(questions, entries, strict=True) if entry["output"].strip()}
    return [make(question, answer) for question, answer in answered.items()]


def make(question: str, answer: str) -> dict:
    return rows.make_row([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def misplace_half(made: list[dict], seed: int) -> tuple[list[dict], set[str]]:
    """Hand the answers of a random half on to the next row of that half; give all rows, and the ids of those with another's answer."""
    half = random.Random(seed).sample(range(len(made)), len(made) // 2)
    given = {place: rows.answer(made[after]) for place, after in zip(half, half[1:] + half[:1], strict=True)}
    out = [make(row["messages"][0]["content"], given.get(place, rows.answer(row))) for place, row in enumerate(made)]
    # Two rows may have the same answer: then nothing is wrong with it.
    return out, {out[place]["id"] for place in half if out[place]["id"] != made[place]["id"]}


def compare_with_bare_text() -> None:
    ours = ifd._examples

    def bare(rows, tokenizer, *rest):
        before = [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id]
        return [replace(example, empty=before) for example in ours(rows, tokenizer, *rest)]

    ifd._examples = bare


def auc(scores: np.ndarray, misplaced: np.ndarray) -> float:
    """Give the probability that a misplaced answer scores above a right one, ties counting half (Mann-Whitney)."""
    bad, good = misplaced.sum(), (~misplaced).sum()
    return float((rankdata(scores)[misplaced].sum() - bad * (bad + 1) / 2) / (bad * good))


def bootstrap(scores: np.ndarray, misplaced: np.ndarray, seed: int) -> tuple[float, float]:
    """Give the 95 % percentile interval; right and misplaced rows are drawn apart, as they were made."""
    rng = np.random.default_rng(seed)
    bad, good = np.flatnonzero(misplaced), np.flatnonzero(~misplaced)
    drawn = (np.concatenate([rng.choice(bad, len(bad)), rng.choice(good, len(good))]) for _ in range(RESAMPLES))
    low, high = np.quantile([auc(scores[places], misplaced[places]) for places in drawn], [0.025, 0.975])
    return float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--rows", dest="count", type=int, help="score this many rows, drawn by the seed (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bare", action="store_true", help="measure the form of the papers instead of ours")
    parser.add_argument("--cache", type=Path, help="keep losses here, to go on after an interruption (the speed is then of the rest)")
    arguments = parser.parse_args()
    made = read(arguments.rows)
    if arguments.count:
        made = random.Random(arguments.seed).sample(made, min(arguments.count, len(made)))
    if len(made) < MIN_ROWS:
        print(f"{arguments.rows} gives {len(made)} rows with an answer; {MIN_ROWS} are needed for an interval narrow enough to judge by.")
        return 2
    mixed, swapped = misplace_half(made, arguments.seed)
    if arguments.bare:
        compare_with_bare_text()
    started = time.monotonic()
    found = ifd.score_ifd(mixed, arguments.base, Ifd(enabled=True), arguments.cache)
    seconds = time.monotonic() - started
    scores, misplaced = np.array(list(found.values())), np.array([id_ in swapped for id_ in found])
    area, (low, high) = auc(scores, misplaced), bootstrap(scores, misplaced, arguments.seed)
    print(f"rows {len(mixed)}, scored {len(found)} ({misplaced.sum()} misplaced), too short to score {len(mixed) - len(found)}")
    print(f"IFD median: right {np.median(scores[~misplaced]):.3f}, misplaced {np.median(scores[misplaced]):.3f}")
    print(f"at 1 or more: right {np.mean(scores[~misplaced] >= 1):.1%}, misplaced {np.mean(scores[misplaced] >= 1):.1%}")
    print(f"AUC {area:.3f} [95 % {low:.3f} to {high:.3f}], {len(mixed) / seconds:.2f} rows/s, model loading included")
    return 0 if area >= MIN_AUC else 1


if __name__ == "__main__":
    sys.exit(main())
