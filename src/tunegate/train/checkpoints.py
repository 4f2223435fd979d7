"""Checkpoints of one training run in the store: pushed while training goes on, checked whole before one is resumed from.

A checkpoint is an object of the store, so its files come first and its manifest, with the sha256 of each, last. Which there
are stands in `training/<run>/checkpoints.json`, newest last, written after the object. Hugging Face's Trainer resumes without a word
from a checkpoint whose optimizer or random state is missing, whose weights changed on disk, or which another run wrote; here
each of these is found and named, and the checkpoint before it is taken.

Optimizer, scheduler and random states are files of torch.save, which Trainer reads with weights_only: no code in them runs.
"""

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tunegate.digests import write_atomic
from tunegate.errors import Refused, TunegateError, Unavailable
from tunegate.steps import say
from tunegate.store import Store

STATE = "checkpoint.json"  # ours, in each checkpoint: {"run", "step", "processes", "seconds", "curve"}
NOT_NEEDED = ("training_args.bin",)  # a pickle that nothing reads
SENTINEL = "checkpoint-is-incomplete.txt"  # transformers leaves it where its own save on SIGTERM was cut off, and ignores it
WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
RETRY_SECONDS = 30.0  # between tries to push while the store does not answer; arbitrary


def document(run: str, name: str) -> str:
    """Give the place in the store of what is written down about a training: request, settings, checkpoints, error or result."""
    return f"training/{run}/{name}.json"


class Checkpoints:
    """The checkpoints of the run that `run` names: a digest of all that the trained weights depend on."""

    def __init__(self, store: Store, run: str, limit: int = 2, say: Callable[[str], None] = say):
        self.store, self.run, self.limit, self.say = store, run, limit, say
        self.path = document(run, "checkpoints")

    def push(self, directory: Path, step: int) -> None:
        """Store a checkpoint and forget those before it, down to `limit`. A full disk costs the older ones first."""
        known = self._known()
        try:
            ref = self.store.put("checkpoint", directory)
        except Unavailable:
            if len(known) < 2:
                raise
            known = self._prune(known, 1)
            ref = self.store.put("checkpoint", directory)
        known = sorted([entry for entry in known if entry["step"] != step] + [{"step": step, "ref": ref}], key=lambda e: e["step"])
        self._write(known)
        self._prune(known, self.limit)

    def newest(self) -> tuple[int, Path] | None:
        """Give step and directory of the newest checkpoint that is whole; say of each that is not what is wrong, and remove it."""
        known = self._known()
        while known:
            entry = known[-1]
            try:
                directory = self.store.get(entry["ref"])
                check(directory, self.run, entry["step"])
                return entry["step"], directory
            except Unavailable:
                raise
            except TunegateError as error:
                known.pop()
                older = f"resuming from step {known[-1]['step']}" if known else "none is left: training starts anew"
                self.say(f"      The checkpoint of step {entry['step']} cannot be used: {error} Removed; {older}.")
                self.store.remove(entry["ref"])
                self._write(known)
        return None

    def forget(self) -> None:
        """Remove all of them, when the model they led to is stored."""
        self._prune(self._known(), 0)

    def _known(self) -> list[dict]:
        try:
            entries = (self.store.read_json(self.path) or {"checkpoints": []})["checkpoints"]
            return [{"step": int(entry["step"]), "ref": str(entry["ref"])} for entry in entries]
        except (ValueError, KeyError, TypeError):
            self.say(f"      The list of checkpoints {self.path} is damaged: none can be found by it, and training starts anew.")
            return []

    def _write(self, known: list[dict]) -> None:
        self.store.write_json(self.path, {"run": self.run, "checkpoints": known})

    def _prune(self, known: list[dict], keep: int) -> list[dict]:
        gone, kept = known[: len(known) - keep], known[len(known) - keep :]
        if gone:
            self._write(kept)
            for entry in gone:
                self.store.remove(entry["ref"])
        return kept


def seal(directory: Path, run: str, step: int, processes: int, seconds: float, curve: dict | None = None) -> None:
    """Write down whose checkpoint this is.

    Args:
        seconds: trained so far, over all attempts.
        curve: what the log had gathered, see tunegate.train.curve.
    """
    for name in NOT_NEEDED:
        (directory / name).unlink(missing_ok=True)
    state = {"run": run, "step": step, "processes": processes, "seconds": round(seconds, 3), "curve": curve}
    write_atomic(directory / STATE, json.dumps(state, sort_keys=True))  # not canonical JSON: a figure of the log may be NaN


def read_seal(directory: Path) -> dict:
    return json.loads((directory / STATE).read_bytes())


def check(directory: Path, run: str, step: int) -> None:
    """Refuse a checkpoint that is not whole or not of this run; the bytes of its files were checked by the store.

    Raises:
        Refused: with what is missing or foreign.
    """
    if (directory / SENTINEL).exists():
        raise Refused(f"it was being written when its process ended ({SENTINEL}).")
    try:
        seal = read_seal(directory)
        trainer = json.loads((directory / "trainer_state.json").read_bytes())
        wanted = {"run": run, "step": step}
        if {name: seal[name] for name in wanted} != wanted:
            raise Refused(f"it belongs to another run or step ({seal['run'][:12]}, step {seal['step']}).")
        if trainer["global_step"] != step:
            raise Refused(f"its trainer_state.json is of step {trainer['global_step']}.")
        processes = int(seal["processes"])
    except FileNotFoundError as error:
        raise Refused(f"its {Path(error.filename).name} is missing.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"its state cannot be read ({type(error).__name__}: {error}).") from None
    random = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    for name in ("scheduler.pt", *random):
        if not (directory / name).is_file():
            raise Refused(f"its {name} is missing.")
    if not any((directory / name).is_file() for name in ("optimizer.pt", "optimizer.bin")):
        raise Refused("its optimizer.pt is missing.")
    if not any((directory / name).is_file() for name in WEIGHTS):
        raise Refused("its weights are missing.")


class Pusher:
    """Push checkpoints on a thread of its own, the newest first; a store that does not answer is tried again and again.

    The training loop hands a directory over and goes on; the directory is removed once it is pushed, or overtaken.
    """

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints
        self.waiting: tuple[Path, int] | None = None
        self.busy = self.ended = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self.thread.start()

    def offer(self, directory: Path, step: int) -> None:
        with self.changed:
            overtaken, self.waiting = self.waiting, (directory, step)
            self.changed.notify_all()
        if overtaken:
            shutil.rmtree(overtaken[0], ignore_errors=True)

    def wait(self, seconds: float) -> bool:
        """Wait until all that was offered is in the store; False when it took longer."""
        with self.changed:
            return self.changed.wait_for(lambda: self.waiting is None and not self.busy, seconds)

    def close(self) -> None:
        """Leave without waiting; what was not pushed is dropped."""
        with self.changed:
            self.ended, self.waiting = True, None
            self.changed.notify_all()
        self.thread.join()

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.ended)
                if self.ended:
                    return
                (directory, step), self.waiting, self.busy = self.waiting, None, True
            pushed = self._push(directory, step)
            with self.changed:
                if not pushed and self.waiting is None and not self.ended:
                    self.waiting, self.busy = (again := (directory, step)), False
                    self.changed.wait_for(lambda again=again: self.ended or self.waiting is not again, RETRY_SECONDS)
                    continue
            shutil.rmtree(directory, ignore_errors=True)
            with self.changed:
                self.busy = False
                self.changed.notify_all()

    def _push(self, directory: Path, step: int) -> bool:
        started = time.monotonic()
        try:
            self.checkpoints.push(directory, step)
        except Exception as error:  # whatever a store raises must not cost a training run
            with contextlib.suppress(BrokenPipeError):
                self.checkpoints.say(f"      The checkpoint of step {step} is not stored yet: {error} Training goes on; trying again.")
            return False
        self.checkpoints.say(f"      checkpoint of step {step} stored ({time.monotonic() - started:.1f} s beside training)")
        return True
