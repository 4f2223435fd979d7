"""Run row stages over many rows: here, in processes, or under Ray Data, with the same outcomes in the same order.

A stage keeps nothing between rows (see row_stages), so it does not matter who looks at which batch; every outcome goes back
to the place its row came from.
"""

import json
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from tunegate import errors
from tunegate.curate.row_stages import Context, Outcome, run_batch
from tunegate.errors import BadInput, Unavailable
from tunegate.recipe import Curate

BATCH_ROWS = 500  # a few hundred kB of text: little enough to send, long enough to be worth it; arbitrary
ROWS_FOR_PROCESSES = 2_000  # below this the processes take longer to start than the stages to run; arbitrary


class Executor:
    """Run row stages as `curate.executor` and `curate.workers` say; the workers live as long as the `with` block.

    with Executor(config) as executor:
        outcomes = executor.run("tunegate.curate.rubric", rows, context)
    """

    def __init__(self, config: Curate):
        self.config = config
        self._pool: ProcessPoolExecutor | None = None
        self._started_ray = False

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *error) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._started_ray:
            import ray

            ray.shutdown()

    def run(self, module: str, rows: list[dict], context: Context) -> list[Outcome]:
        """Give one outcome a row, in the order of the rows.

        Raises:
            Unavailable: a worker died.
            BadInput: Ray is asked for and not installed.
            TunegateError: whatever the stage itself raises.
        """
        if self.config.executor == "ray":
            return self._run_with_ray(module, rows, context)
        workers = self.config.workers or _cores()
        if workers == 1 or len(rows) < ROWS_FOR_PROCESSES:
            return run_batch(module, rows, self.config, context)
        return self._run_in_processes(module, rows, context, workers)

    def _run_in_processes(self, module: str, rows: list[dict], context: Context, workers: int) -> list[Outcome]:
        if self._pool is None:
            # Not by fork, which copies the locks of whatever threads are running. The server that forks the workers has
            # imported the recipe once for all of them.
            method = multiprocessing.get_context("forkserver")
            method.set_forkserver_preload(["tunegate.curate.row_stages"])
            self._pool = ProcessPoolExecutor(workers, mp_context=method)
        batches = [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]
        futures = [self._pool.submit(run_batch, module, batch, self.config, context) for batch in batches]
        try:
            return [outcome for future in futures for outcome in future.result()]
        except BrokenProcessPool:
            raise Unavailable(
                f"A worker of {module} was killed, most often for want of memory. Lower curate.workers (now {workers}) and try again."
            ) from None

    def _run_with_ray(self, module: str, rows: list[dict], context: Context) -> list[Outcome]:
        self._start_ray()
        import ray.data

        # As JSON, because Arrow would give all rows of a batch the same columns. In ASCII, because a row that no check has
        # seen yet may hold half of a surrogate pair, which UTF-8 cannot.
        items = [{"place": place, "row": json.dumps(row)} for place, row in enumerate(rows)]
        given = {"module": module, "config": self.config, "context": context}
        found = ray.data.from_items(items).map_batches(_run_ray_batch, batch_size=BATCH_ROWS, batch_format="numpy", fn_kwargs=given)
        # Ray Data gives blocks back as they are done.
        entries = sorted(found.iter_rows(), key=lambda entry: entry["place"])
        for entry in entries:
            if entry["error"]:
                raise getattr(errors, entry["error"])(json.loads(entry["outcome"]))
        return [json.loads(entry["outcome"]) for entry in entries]

    def _start_ray(self) -> None:
        try:
            import ray
            import ray.data
        except ImportError:
            raise BadInput(
                "curate.executor is ray, and Ray is not installed here. Install it with `pip install 'tunegate[ray]'`, or set "
                "curate.executor to processes: the result is the same."
            ) from None
        if ray.is_initialized():
            return
        # A cluster (a RayJob sets RAY_ADDRESS) knows its own size and refuses to be told another.
        local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": self.config.workers or _cores(), "include_dashboard": False}
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it would print its plan for every stage
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
        ray.data.DataContext.get_current().enable_progress_bars = False
        self._started_ray = True


def run_row_stage(module: str, rows: list[dict], config: Curate, context: Context) -> list[Outcome]:
    """Run one stage, with workers of its own."""
    with Executor(config) as executor:
        return executor.run(module, rows, context)


def _run_ray_batch(batch: dict, module: str, config: Curate, context: Context) -> dict:
    """Check a batch. An error of ours goes back as a class and a sentence: Ray would make a trace of it."""
    import numpy as np

    error = ""
    try:
        outcomes = run_batch(module, [json.loads(row) for row in batch["row"]], config, context)
    except errors.TunegateError as raised:
        error, outcomes = type(raised).__name__, [str(raised)] * len(batch["place"])
    said = np.array([json.dumps(outcome) for outcome in outcomes], dtype=object)
    return {"place": batch["place"], "outcome": said, "error": np.full(len(said), error, dtype=object)}


def _cores() -> int:
    """Count the cores this process may use; a pod's limit and taskset count, the machine's number does not."""
    import joblib

    return joblib.cpu_count()
