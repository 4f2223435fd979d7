"""The program as a person calls it."""

import sys

import pytest

from tunegate import cli


def call(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Run the program in this process; give exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["tunegate", *map(str, arguments)])
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err
