"""Find tasks of lm-evaluation-harness, say what keeps them from being used, and load them.

What a task is can be read from its YAML file without its data, so plan can do it in seconds; to load it is to read its data.
Our own directory is looked through first: the harness's comes with 14,000 files.
"""

import contextlib
import difflib
import io
import random
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tunegate import recipe
from tunegate.errors import BadInput
from tunegate.suites.harness_metrics import measures

SEED = 1234  # the harness's own default for examples and for numpy
PACKAGES = ("lm_eval", "sacrebleu", "rouge_score")  # the first needs the others as soon as it is imported, or for its metrics
STRUCTURE = ("group", "task", "tag")


def problems(suite: recipe.HarnessSuite) -> list[str]:
    """Say, a sentence each, what can be seen to be wrong before the tasks are loaded."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        return [f"Suite '{suite.name}' needs lm-evaluation-harness, and {missing[0]} is not installed: pip install 'tunegate[harness]'."]
    found, owners = [], {}
    for name in suite.tasks:
        try:
            leaves = find(suite, name)
        except KeyError as error:
            found.append(_unknown(suite, error.args[0]))
            continue
        for leaf, config in leaves.items():
            if leaf in owners:
                found.append(f"Suite '{suite.name}' asks the harness task {leaf} twice, in {owners[leaf]} and in {name}; remove one.")
            owners[leaf] = name
            if wrong := _unusable(config):
                found.append(f"Suite '{suite.name}': the harness task {leaf} {wrong}; leave it out.")
    return found


def _unusable(config: dict) -> str:
    if "class" in config:
        return "is a Python class, whose metrics cannot be known before it runs"
    if config.get("unsafe_code"):
        return "runs code that the model wrote, which is not done here"
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        return "shows images or sounds, and models are asked in text here"
    return "" if measures(config) else "has no metric with a value for each item, and a gate compares items"


def _unknown(suite: recipe.HarnessSuite, name: str) -> str:
    near = difflib.get_close_matches(name, _manager(suite.include_path, True).task_index, n=1)
    where = f" (a file in {suite.include_path} that is not valid YAML is passed over)" if suite.include_path else ""
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"Suite '{suite.name}' asks the harness task '{name}', which is not known{where}.{hint}"


def find(suite: recipe.HarnessSuite, name: str) -> dict[str, dict]:
    """Give the YAML of each task that a name of the recipe stands for.

    Raises:
        KeyError: no task, group or tag has that name, or one that it stands for.
    """
    return _find(suite, name)[1]


def _find(suite: recipe.HarnessSuite, name: str) -> tuple:
    """Give the task manager that knows a name, and the YAML of each task."""
    if suite.include_path:
        own = _manager(suite.include_path, False)
        with contextlib.suppress(KeyError):
            return own, _leaves(own.task_index, name, {})
    every = _manager(suite.include_path, True)
    return every, _leaves(every.task_index, name, {})


@cache
def _manager(include_path: str | None, defaults: bool):
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path, include_defaults=defaults)


def _leaves(index: dict, name: str, more: dict) -> dict[str, dict]:
    """Expand groups and tags as the harness does: what a group says beside its members holds for each of them."""
    entry = index[name]
    if entry.cfg is None:
        return {leaf: config for member in sorted(entry.tags) for leaf, config in _leaves(index, member, more).items()}
    if entry.kind.name == "GROUP":
        return _members(index, name, entry.cfg, more)
    return {name: entry.cfg | more}


def _members(index: dict, group: str, config: dict, more: dict) -> dict[str, dict]:
    from lm_eval.tasks._factory import GROUP_FIELD_NAMES

    more = {key: value for key, value in config.items() if key not in GROUP_FIELD_NAMES} | more
    found = {}
    for member in config["task"]:
        given = {} if isinstance(member, str) else member
        name = member if isinstance(member, str) else member.get("group") or member["task"]
        own = more | {key: value for key, value in given.items() if key not in STRUCTURE}
        if name in index:
            found |= _leaves(index, name, own)
        elif "group" in given:
            found |= _members(index, f"{group}::{name}", given, more)
        elif "dataset_path" in own:
            found[f"{group}::{name}"] = own
        else:
            raise KeyError(name)
    return found


def load(suite: recipe.HarnessSuite) -> dict[str, dict]:
    """Load every task with its data: {name in the recipe: {task: lm_eval's Task}}.

    Raises:
        BadInput: a task is not known, or its data cannot be read.
    """
    import numpy

    if wrong := problems(suite):
        raise BadInput(" ".join(wrong))
    found = {}
    for name in suite.tasks:
        manager, configs = _find(suite, name)
        random.seed(0)  # tasks that draw their items do it with these
        numpy.random.seed(SEED)
        try:
            with _quietly(suite.include_path or "."):
                found[name] = manager.load([name])["tasks"]
        except Exception as error:  # datasets and a task's own code raise whatever they like
            raise BadInput(_cannot_load(suite, name, configs, error)) from error
        for task in found[name].values():
            _set_examples(task, suite.num_fewshot)
    return found


@contextlib.contextmanager
def _quietly(directory: str) -> Iterator[None]:
    """Load tasks in `directory`: leave no compiled code beside their files, which may lie in the store, and show no bars."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with contextlib.chdir(directory), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        sys.dont_write_bytecode = before


def _set_examples(task, num_fewshot: int | None) -> None:
    """Set the number of examples in a prompt to what the recipe says, else to what the task says.

    simple_evaluate(num_fewshot=…) would leave a task that says 0 at 0, with a line in its log: an arm with examples would be
    one without.
    """
    said = task.get_config("num_fewshot") or 0
    task.set_config(key="num_fewshot", value=said if num_fewshot is None else num_fewshot)
    task.set_fewshot_seed(seed=SEED)


def _cannot_load(suite: recipe.HarnessSuite, name: str, configs: dict[str, dict], error: Exception) -> str:
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    paths = sorted({str(config["dataset_path"]) for config in configs.values() if config.get("dataset_path")})
    far = [path for path in paths if path not in _PACKAGED_DATASETS_MODULES and not Path(suite.include_path or ".", path).exists()]
    why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300].rstrip(". ")
    hint = (
        f"Its data, {', '.join(far[:3])}, are on the Hugging Face hub: let this machine reach it, or fetch them once and then set "
        "HF_HUB_OFFLINE=1."
        if far
        else "Data files in a YAML file are relative to include_path."
    )
    return f"Suite '{suite.name}': the harness task {name} cannot be loaded ({why}). {hint}"
