"""What the README names must be there: paths, make targets and subcommands."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOP = "src|components|pipelines|images|tests|docs|manifests|infra"


def test_every_path_exists():
    named = set(re.findall(rf"(?<![\w/.])(?:{TOP})/[\w./-]*[\w/]", README))
    assert len(named) > 8
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_file_of_the_tree_exists():
    tree = README.partition("## The house")[2].partition("```")[2].partition("```")[0]
    lines = [re.split(r" {3,}", line)[0] for line in tree.strip().splitlines()]
    inside = [name for line in lines if line.startswith("  ") for name in line.split()]
    assert len(inside) > 15
    assert [name for name in inside if not (ROOT / "src" / "tunegate" / name).exists()] == []


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for words in re.findall(r"`make ([a-z -]+)`", README) for name in words.split()}
    assert {"demo", "setup", "test"} <= named <= targets


def test_every_subcommand_exists():
    from typer.main import get_command

    from tunegate.cli import app

    named = set(re.findall(r"tunegate ([a-z]+) ", README)) - {"in"}
    assert {"plan", "run", "serve", "submit", "curate"} <= named <= set(get_command(app).commands)
