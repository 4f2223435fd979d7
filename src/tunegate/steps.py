"""Run one step of the pipeline: find its earlier result by digest, or do the work, keep it in the store and say so.

A step is a function `(config, inputs, output) -> Result`. `inputs` are the directories that the upstream references name,
`output` an empty directory; each directory that the step leaves in `output` becomes one content-addressed object of the
store, and its reference (`name/sha256`) travels to the next step as a plain string. What a step depends on, and nothing
else, is its key: its name, its slice of the recipe, the digest of its code and the references it was given.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from tunegate import digests
from tunegate.errors import BadInput, TunegateError, Unavailable
from tunegate.store import Store, open_store

# In the order they run. Each lives in tunegate.<module>.<function>.
STEPS = {
    "plan": "tunegate.plan:plan_step",
    "ingest": "tunegate.ingest:ingest_step",
    "curate": "tunegate.curate:curate_step",
    "baseline": "tunegate.baseline:baseline_step",
    "sft": "tunegate.train.sft:sft_step",
    "prefer": "tunegate.train.prefer:prefer_step",
    "merge": "tunegate.merge:merge_step",
    "evaluate": "tunegate.evaluate:evaluate_step",
    "gate": "tunegate.gate:gate_step",
    "register": "tunegate.register:register_step",
    "approve": "tunegate.approve:approve_step",
    "deploy": "tunegate.deploy:deploy_step",
    "promote": "tunegate.promote:promote_step",
}
ALWAYS = {"plan", "gate", "register", "approve", "deploy", "promote"}  # cheap or with effects outside: never recalled


@dataclass
class Result:
    """What a step gives back.

    `summary` is small JSON for reports and metrics; `refs` names objects that exist already (a mirrored base, say), beside
    those the step wrote; `metrics` are numbers for MLflow and KFP, units in their names; `line` is said on the screen;
    `when_kept` is called once the result is safe in the store.
    """

    summary: dict = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    line: str = ""
    reused: bool = False
    seconds: float = 0.0
    when_kept: Callable[[], None] = lambda: None

    def __getitem__(self, name: str) -> str:
        return self.refs[name]


@dataclass(frozen=True)
class Inputs:
    """The upstream references of a step, and the directories they name.

    `key` is the digest of all that the step depends on; `where` says on what it may run, which its result does not depend on.
    """

    refs: dict[str, str]
    store: Store
    key: str = ""
    where: dict = field(default_factory=dict)

    def __getitem__(self, name: str) -> Path:
        return self.store.get(self.refs[name])

    def __contains__(self, name: str) -> bool:
        return bool(self.refs.get(name))


def run_id() -> str:
    """Name this pipeline run. It comes from the environment, never from an argument, which would spoil every cache key."""
    return os.environ.get("TUNEGATE_RUN_ID", "")


def code_of(name: str) -> str:
    return digests.code_digest(STEPS[name].partition(":")[0])


def run(name: str, config: str, where: dict | None = None, **refs: str) -> Result:
    """Run step `name` with its canonical configuration slice (JSON) and the references of its inputs.

    `where` adds to what the slice says of the machines it may use; results do not depend on it.

    On an error of ours: the sentence goes to standard error and to `runs/<run id>/error.json` in the store, and the process
    exits with the error's code. A retry after an error that no retry can mend exits at once.
    """
    slice_ = json.loads(config)
    slice_["where"] = slice_.get("where", {}) | (where or {})
    store = open_store(slice_["store"])
    place = f"[{list(STEPS).index(name) + 1:>2}/{len(STEPS)}] {name}"
    try:
        _refuse_hopeless_retry(store, name, config, refs)
        say(f"{place} …")
        return _run(name, place, slice_, store, {k: v for k, v in refs.items() if v})
    except TunegateError as error:
        _record_error(store, name, config, refs, error.code, str(error), error.retryable)
        say(f"{place}: {error}", file=sys.stderr)
        sys.exit(error.code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _unforeseen(store, name, config, refs, error)
        scratch = os.environ.get("TUNEGATE_SCRATCH") or tempfile.gettempdir()
        free = shutil.disk_usage(scratch).free // 2**20
        sentence = f"The disk is full ({free} MiB are free in {scratch}). Free some space, or name another directory with TUNEGATE_SCRATCH."
        _record_error(store, name, config, refs, Unavailable.code, sentence, True)
        say(f"{place}: {sentence}", file=sys.stderr)
        sys.exit(Unavailable.code)
    except Exception as error:
        _unforeseen(store, name, config, refs, error)


def _unforeseen(store, name, config, refs, error) -> NoReturn:
    traceback.print_exc()
    sentence = f"{type(error).__name__}: {error}. This is a fault of tunegate or of a library; the trace is above."
    _record_error(store, name, config, refs, 1, sentence, True)
    sys.exit(1)


def _run(name: str, place: str, slice_: dict, store: Store, refs: dict[str, str]) -> Result:
    key = digests.digest_json({"step": name, "config": slice_["config"], "code": slice_["code"], "inputs": refs})
    started = time.monotonic()
    found = None if name in ALWAYS else store.recall(name, key)
    if found is not None:
        result = Result(found["summary"], found["refs"], found["metrics"], found["line"], True, found["seconds"])
    else:
        module, _, function = STEPS[name].partition(":")
        work = getattr(import_module(module), function)
        with tempfile.TemporaryDirectory(prefix=f"tunegate-{name}-", dir=os.environ.get("TUNEGATE_SCRATCH")) as scratch:
            output = Path(scratch)
            result = work(slice_["config"], Inputs(refs, store, key, slice_["where"]), output)
            for part in sorted(p for p in output.iterdir() if p.is_dir() and not p.name.startswith(".")):
                result.refs[part.name] = store.put(f"{name}-{part.name}", part)
        result.seconds = time.monotonic() - started
        document = {
            "step": name, "key": key, "config": slice_["config"], "inputs": refs, "refs": result.refs,
            "summary": result.summary, "metrics": result.metrics, "line": result.line, "seconds": round(result.seconds, 3),
        }  # fmt: skip
        if name not in ALWAYS:
            store.remember(name, key, document)
        result.when_kept()
    _record(store, name, key, refs, slice_, result)
    reused = f"found by digest (took {result.seconds:.0f} s then)" if result.reused else f"{result.seconds:.1f} s"
    say(f"{place}: {reused}{'; ' if result.line else ''}{result.line}")
    return result


def _record(store, name, key, refs, slice_, result) -> None:
    """Leave what this step did under the run, for the report, and in MLflow."""
    if run_id():
        store.write_json(f"runs/{run_id()}/{name}.json", {
            "step": name, "key": key, "config": slice_["config"], "inputs": refs, "refs": result.refs,
            "summary": result.summary, "metrics": result.metrics, "line": result.line,
            "seconds": round(result.seconds, 3), "reused": result.reused,
        })  # fmt: skip
    from tunegate import tracking

    tracking.log_step(name, slice_["config"], result)


def _error_path(name: str) -> str:
    return f"runs/{run_id()}/error-{name}.json"


def _record_error(store, name, config, refs, code, sentence, retryable) -> None:
    if run_id():
        with contextlib.suppress(TunegateError):
            store.write_json(_error_path(name), {
                "step": name, "code": code, "sentence": sentence, "retryable": retryable,
                "call": digests.digest_json([config, refs]),
            })  # fmt: skip
    from tunegate import tracking

    tracking.flush()  # on a cluster the curve of a training that failed goes with its pod


def _refuse_hopeless_retry(store, name, config, refs) -> None:
    if not run_id():
        return
    before = store.read_json(_error_path(name))
    if before and not before["retryable"] and before["call"] == digests.digest_json([config, refs]):
        error = BadInput(before["sentence"])
        error.code = before["code"]
        raise error


def say(line: str, file=None) -> None:
    """Print one line at once, in one piece; a child's output reaches people through a pipe that others write to as well."""
    stream = file or sys.stdout
    stream.write(line + "\n")
    stream.flush()
