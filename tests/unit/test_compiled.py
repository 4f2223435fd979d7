"""Compiled code is kept where only its user can write."""

import os
import subprocess
import sys
from pathlib import Path

READ_ONLY = """
import os
os.access = lambda path, mode: False  # for root nothing is read-only
from tunegate.curate.near_duplicates import jaccard, similar_pairs
print(similar_pairs(["one and the same row", "one and the same row!"], 0.8), os.environ["NUMBA_CACHE_DIR"])
"""


def run(temporary: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"} | {"TMPDIR": str(temporary)}
    return subprocess.run([sys.executable, "-c", READ_ONLY], env=environment, capture_output=True, text=True, check=True).stdout


def test_a_read_only_package_keeps_it_in_the_users_own_directory(tmp_path):
    own = tmp_path / f"tunegate-numba-{os.getuid()}"
    assert run(tmp_path) == f"[(0, 1, 0.9411764705882353)] {own}\n"
    assert list(own.rglob("*.nbi")) and own.stat().st_mode & 0o077 == 0


def test_a_directory_that_others_can_write_to_is_not_used(tmp_path):
    open_to_all = tmp_path / f"tunegate-numba-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    used = Path(run(tmp_path).split()[-1])
    assert used.parent == tmp_path and used != open_to_all
    assert not list(open_to_all.iterdir()) and list(used.rglob("*.nbi"))
