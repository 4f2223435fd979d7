"""Run training in child processes and answer for them: out of memory, asked to stop, killed, several GPUs, several nodes.

What a training is asked for stands in the store under `training/<run>/`: request.json (what to do), settings.json (how the
batch was divided), checkpoints.json, error.json and result.json. So a process, a pod or a job that starts it again finds
whatever the one before it left, and a training that is done is not done twice.
"""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunegate import children
from tunegate.digests import digest_json
from tunegate.errors import BadInput, Interrupted, Refused, TunegateError, Unavailable
from tunegate.steps import Inputs, run_id, say
from tunegate.store import Store, open_store
from tunegate.train.checkpoints import Checkpoints, document

OUT_OF_MEMORY = 71  # EX_OSERR of sysexits.h
KILLED = 128 + signal.SIGKILL
HALVINGS = 2
ALONE = {"pairs"}  # work of one process
GRACE_SECONDS = 60  # that a child gets to save
ERRORS = {error.code: error for error in (BadInput, Refused, Unavailable, Interrupted)}


@dataclass(frozen=True)
class Training:
    """A piece of work of `tunegate.train.job`, with all that its result depends on."""

    work: str
    config: dict
    refs: dict[str, str]

    def run(self, key: str) -> str:
        """Name it in the store; `key` is that of its step, which covers the code too."""
        return f"{self.work}-{digest_json([key, self.work, self.refs])}"


def train(training: Training, inputs: Inputs) -> dict:
    """Do the work, or find it done; return {"summary", "refs", "run"}.

    It is done on this machine, or, with `nodes` or `preemptible` in `inputs.where`, as a TrainJob.

    Raises:
        BadInput, Refused: as the work does.
        Unavailable: it was killed, or what it needs did not answer; started again it goes on from its last checkpoint.
        Interrupted: it was asked to stop, and saved.
    """
    store, run = inputs.store, training.run(inputs.key)
    job = wants_job(inputs.where)
    done = store.read_json(document(run, "result"))
    if done and all(store.has(ref) for ref in done["refs"].values()):
        say(f"      {training.work}: found done")
        return done
    store.write_json(document(run, "request"), {"work": training.work, "config": training.config, "refs": training.refs, "run": run})
    halved = 0
    while True:
        store.write_json(document(run, "error"), {})
        before = _memory_kills()
        code = _launch_job(training.work, inputs, run) if job else launch(store.uri, run, training.work in ALONE)
        if code == 0:
            return store.read_json(document(run, "result"))
        error = _error(store, run)
        code = error.get("code", code)
        if code == OUT_OF_MEMORY or (code == KILLED and _memory_kills() != before):
            if halved == HALVINGS or not _with_less_memory(store, run):
                raise BadInput(
                    f"{training.work} ran out of memory {halved + 1} times, the last time with the smallest batch that was allowed. "
                    "Shorten task.max_length, set gradient_checkpointing: true or load_in_4bit: true, or use a larger device."
                )
            halved += 1
            continue
        raise _as_error(code, error, training.work)


def forget(run: str, store: Store) -> None:
    """Remove the checkpoints of a training whose result is stored."""
    Checkpoints(store, run).forget()


def price_per_hour(where: dict) -> float:
    """Give the price of an hour on all nodes of `where`, a Resources section; 0 where none is known."""
    return where.get("hourly_price", 0.0) * where.get("nodes", 1)


def _with_less_memory(store: Store, run: str) -> bool:
    """Halve the micro-batch and double the accumulation, so that the optimizer step stays the same; say whether that was possible."""
    settings = store.read_json(document(run, "settings"))
    if not settings:
        return False  # it did not come as far as a batch: the model alone is too large
    if settings["rows"] % (2 * settings["rows_together"]) == 0:
        less = {**settings, "rows": settings["rows"] // 2, "accumulation": settings["accumulation"] * 2}
        said = f"{less['rows']} rows at once instead of {settings['rows']}, {less['accumulation']} times to an optimizer step"
    elif not settings["checkpointing"]:
        less = {**settings, "checkpointing": True}
        said = "activations are computed again in the backward pass instead of kept (gradient checkpointing)"
    else:
        return False
    store.write_json(document(run, "settings"), less)
    say(f"      Out of memory. Going on from the last checkpoint with {said}.")
    return True


def _error(store: Store, run: str) -> dict:
    """Give what the training said of its end, {"code", "sentence"}; nothing where it could not."""
    return store.read_json(document(run, "error")) or {}


def _as_error(code: int, error: dict, work: str) -> TunegateError:
    if code in ERRORS and error.get("sentence"):
        return ERRORS[code](error["sentence"])
    if code == KILLED:
        return Unavailable(f"{work} was killed (SIGKILL). Run again: it goes on from its last checkpoint.")
    if code in ERRORS:
        return ERRORS[code](f"{work} ended with code {code}; its own words are above.")
    sentence = error.get("sentence") or f"{work} ended with code {code}; the trace is above."
    failure = TunegateError(sentence)
    failure.retryable = True
    return failure


def wants_job(where: dict) -> bool:
    return where.get("nodes", 1) > 1 or where.get("preemptible", False)


def _launch_job(work: str, inputs: Inputs, run: str) -> int:
    """Run the work as a TrainJob, whose nodes each call `main` below; return its exit code."""
    from tunegate import train_job

    where, store = inputs.where, inputs.store
    if "://" not in store.uri:
        raise BadInput(f"A TrainJob needs a store that its nodes can reach, and `store` is {store.uri}. Give an s3:// address.")
    nodes = 1 if work in ALONE else where["nodes"]
    request = train_job.JobRequest(
        name=train_job.job_name(work, run, run_id()), namespace=train_job.own_namespace(), image=where.get("image", ""),
        command=("python", "-m", "tunegate.train.supervise", store.uri, run), runtime=where["runtime"], nodes=nodes, gpus=where["gpus"],
        gpu_type=where["gpu_type"], cpus=where["cpus"], memory_gib=where["memory_gib"], queue=where["queue"],
        preemptible=where["preemptible"], env={"TUNEGATE_RUN_ID": run_id()}, secret=where.get("secret", ""),
        labels={"tunegate/run": run_id()},
    )  # fmt: skip
    try:
        train_job.run(request, train_job.connect(), say, lambda: _error(store, run) or None)
        return 0
    except TunegateError:
        # What ended it is in the store, if it could say so; only running out of memory is answered here.
        if _error(store, run).get("code") != OUT_OF_MEMORY:
            raise
        return OUT_OF_MEMORY


def launch(store_uri: str, run: str, alone: bool) -> int:
    """Run tunegate.train.job in one process for each GPU, or one alone; pass a SIGTERM on to it, and wait for it either way."""
    program = ["-m", "tunegate.train.job", store_uri, run]
    if alone:
        pass
    elif "PET_NNODES" in os.environ:  # a node of a TrainJob: torchrun reads who the others are from variables PET_…
        program = ["-m", "torch.distributed.run", *program]
    elif (processes := int(os.environ.get("TUNEGATE_TRAIN_PROCESSES") or max(1, visible_gpus()))) > 1:
        program = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *program]
    child = children.start([sys.executable, *program], GRACE_SECONDS)
    try:
        with _passing_on_sigterm(child):
            return child.wait()
    finally:
        children.stop(child, GRACE_SECONDS)


@contextlib.contextmanager
def _passing_on_sigterm(child) -> Iterator[None]:
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: children.ask_to_end(child))
    except ValueError:  # not the main thread, which alone can listen
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def visible_gpus() -> int:
    """Count the NVIDIA GPUs of this machine or pod without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip() and name.strip() != "-1"])
    return sum(1 for path in Path("/dev").glob("nvidia[0-9]*") if re.fullmatch(r"nvidia\d+", path.name))


def _memory_kills() -> int:
    """Count the processes that the kernel has killed in this container for want of memory."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            found = re.search(r"^oom_kill (\d+)$", Path(path).read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found[1])
    return 0


def main(arguments: list[str]) -> int:
    """Be one node of a TrainJob: run the workers, and end with their code, which torchrun would not."""
    if len(arguments) != 2:
        print("Usage: python -m tunegate.train.supervise STORE RUN", file=sys.stderr)
        return BadInput.code
    uri, run = arguments
    store = open_store(uri)
    code = launch(uri, run, (store.read_json(document(run, "request")) or {}).get("work") in ALONE)
    if code == 0:
        return 0
    return _error(store, run).get("code", code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
