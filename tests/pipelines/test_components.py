"""Components are thin: one call of the step of the same name, few parameters, nothing from module scope."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

from tunegate.steps import STEPS

ROOT = Path(__file__).resolve().parents[2] / "components"
NAMES = [*STEPS, "report"]


@pytest.mark.parametrize("name", NAMES)
def test_a_component_is_short(name):
    lines = (ROOT / name / "component.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 80
    assert not any("from __future__" in line for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_a_component_has_few_parameters_and_a_docstring(name):
    function = _function(name)
    assert len(inspect.signature(function).parameters) <= 12
    assert function.__doc__.strip().endswith(".") or "\n" in function.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_a_body_uses_only_what_it_imports_itself(name):
    """kfp ships the function's source alone; a name from module scope would fail in the pod, hours later."""
    (definition,) = ast.parse(inspect.getsource(_function(name))).body
    known = {argument.arg for argument in definition.args.args}
    used = set()
    for node in ast.walk(ast.Module(definition.body, [])):
        if isinstance(node, ast.ImportFrom | ast.Import):
            known |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name):
            (known if isinstance(node.ctx, ast.Store) else used).add(node.id)
    assert used <= known | set(dir(__builtins__)), used - known


@pytest.mark.parametrize("name", STEPS)
def test_a_component_runs_the_step_of_its_name(name):
    calls = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(_function(name))))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "steps.run"
    ]
    assert [call.args[0].value for call in calls] == [name]


def test_every_folder_is_a_step():
    assert {path.parent.name for path in ROOT.glob("*/component.py")} == set(NAMES)


def _function(name: str):
    return getattr(import_module(f"components.{name}.component"), name).python_func
