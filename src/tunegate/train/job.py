"""The training entry point: `python -m tunegate.train.job STORE RUN`, alone, under torchrun, or in a TrainJob.

It reads training/RUN/request.json from the store, does that work, and leaves result.json there, or error.json; its exit code
is that of the error (75: asked to stop, and saved; 71: out of memory). See tunegate.train.supervise.
"""

import contextlib
import importlib
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tunegate import tracking
from tunegate.errors import BadInput, TunegateError, Unavailable
from tunegate.steps import Inputs, say
from tunegate.store import Store, open_store
from tunegate.train.batch import first_process
from tunegate.train.checkpoints import document
from tunegate.train.full_disk import full_disk
from tunegate.train.supervise import OUT_OF_MEMORY

# What each is given and gives: (config, inputs, output, run) -> summary; directories that it leaves in output are stored.
WORK = {
    "sft": "tunegate.train.sft:sft_work",
    "pairs": "tunegate.train.pairs:pairs_work",
    "prefer": "tunegate.train.preference:prefer_work",
}
KEEP_TRIES = 6  # to store what was trained, 2, 4, 8 … seconds apart: about a minute, on top of the store's own tries


os.environ.setdefault("TQDM_DISABLE", "1")  # bars redraw a terminal line; a log is made of lines


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("Usage: python -m tunegate.train.job STORE RUN", file=sys.stderr)
        return BadInput.code
    uri, run = arguments
    store = open_store(uri)
    first = first_process()
    try:
        request = store.read_json(document(run, "request"))
        if request is None:
            raise BadInput(f"{uri} holds no {document(run, 'request')}. The step that asks for a training writes it.")
        _work(store, request, first)
        return 0
    except TunegateError as error:
        return _leave(store, run, error.code, str(error))
    except Exception as error:
        if _out_of_memory(error):
            return _leave(store, run, OUT_OF_MEMORY, f"Out of memory: {' '.join(str(error).split())[:300]}")
        if full := full_disk(error):
            return _leave(store, run, Unavailable.code, f"{full} Started again it goes on from its last checkpoint.")
        traceback.print_exc()
        return _leave(store, run, 1, f"{type(error).__name__}: {error}. This is a fault of tunegate or of a library; the trace is above.")
    finally:
        tracking.flush()
        _leave_the_others()


def _work(store: Store, request: dict, first: bool) -> None:
    module, _, function = WORK[request["work"]].partition(":")
    work = getattr(importlib.import_module(module), function)
    run = request["run"]
    with tempfile.TemporaryDirectory(prefix="tunegate-train-", dir=os.environ.get("TUNEGATE_SCRATCH")) as scratch:
        output = Path(scratch)
        summary = work(request["config"], Inputs(request["refs"], store), output, run)
        if not first:
            return
        refs = {}
        for part in sorted(path for path in output.iterdir() if path.is_dir() and not path.name.startswith(".")):
            refs[part.name] = _stubbornly(lambda part=part: store.put(f"{request['work']}-{part.name}", part))
        _stubbornly(lambda: store.write_json(document(run, "result"), {"summary": summary, "refs": refs, "run": run}))


def _stubbornly(call):
    """Try again while the store does not answer: what was trained for hours must not be lost to a minute's outage."""
    for wait in (2**n for n in range(1, KEEP_TRIES)):
        try:
            return call()
        except Unavailable as error:
            say(f"      {error} Trying again in {wait} s.")
            time.sleep(wait)
    return call()


def _leave(store: Store, run: str, code: int, sentence: str) -> int:
    with contextlib.suppress(TunegateError):
        store.write_json(document(run, "error"), {"code": code, "sentence": sentence})
    say(f"      {sentence}", file=sys.stderr)
    return code


def _leave_the_others() -> None:
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
