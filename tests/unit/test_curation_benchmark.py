"""The benchmark of near-duplicate search runs, and its own brute force agrees with what we find."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "curation.py"


def test_a_small_corpus_gives_a_table_with_all_planted_pairs():
    command = [sys.executable, str(SCRIPT), "--rows", "200", "400", "--repeats", "1", "--kinds", "rows", "--engines", "tunegate"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert sum(line.startswith("| tunegate |") for line in lines) == 2
    assert sum("recall 1.0000, precision 1.0000" in line for line in lines) == 2
    assert any(line.startswith("Growth (ours): 2 times the rows cost ") for line in lines)
