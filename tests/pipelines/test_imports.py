"""Imports go down only: pipelines → components → tunegate, and one module of tunegate knows kfp."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imported(path: Path) -> set[str]:
    """Name the top-level packages that a file imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", files("src/tunegate"), ids=lambda p: str(p.relative_to(ROOT)))
def test_tunegate_knows_neither_components_nor_pipelines_nor_kfp(path):
    forbidden = {"components", "pipelines"} | (set() if path.name == "runner.py" else {"kfp"})
    assert not imported(path) & forbidden


@pytest.mark.parametrize("path", files("components"), ids=lambda p: str(p.relative_to(ROOT)))
def test_components_do_not_know_pipelines(path):
    assert "pipelines" not in imported(path)


def test_heavy_packages_are_not_imported_with_the_command_line():
    heavy = ["torch", "transformers", "kfp", "mlflow", "boto3", "datasets", "pandas"]
    program = f"import sys, tunegate.cli, tunegate.steps; print(*[m for m in {heavy} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.split() == []
