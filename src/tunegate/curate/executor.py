"""Run what looks at one row at a time (row stages, MinHash signatures) here, on all cores, or under Ray Data: the same result.

A stage keeps nothing between rows (see row_stages), and a signature depends on its own text only, so it does not matter who
looks at which batch; every outcome goes back to the place its row came from.
"""

import json
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from tunegate import errors
from tunegate.curate import near_duplicates
from tunegate.curate.row_stages import Context, Outcome, run_batch
from tunegate.errors import BadInput, Unavailable
from tunegate.recipe import Curate

BATCH_ROWS = 500  # a few hundred kB of text: little enough to send, long enough to be worth it; arbitrary
ROWS_FOR_PROCESSES = 2_000  # below this the processes take longer to start than the stages to run; arbitrary
BATCHES_IN_RAY = 128  # of near_duplicates, 512 million characters: what Ray's object store holds of the texts at once; arbitrary


class Executor:
    """Run row stages and sign texts as `curate.executor` and `curate.workers` say; the workers live as long as the `with` block.

    with Executor(config) as executor:
        outcomes = executor.run("tunegate.curate.rubric", rows, context)
        keys = executor.band_keys(texts)
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

    def band_keys(self, texts: list[str]) -> np.ndarray:
        """Sign texts and give their band keys, as near_duplicates.band_keys does.

        In threads, where Ray is not asked for: 88% of the work leaves the interpreter free, and sending a text to another
        process takes as long as the other 12%.

        Raises:
            BadInput: Ray is asked for and not installed.
        """
        if self.config.executor == "ray":
            return self._band_keys_with_ray(texts)
        return near_duplicates.band_keys(texts, self.config.workers or _cores())

    def _run_in_processes(self, module: str, rows: list[dict], context: Context, workers: int) -> list[Outcome]:
        if self._pool is None:
            # Not by fork, which copies the locks of whatever threads are running. The server that forks the workers has
            # imported the recipe once for all of them.
            method = multiprocessing.get_context("forkserver")
            method.set_forkserver_preload(["tunegate.curate.row_stages"])
            self._pool = ProcessPoolExecutor(workers, mp_context=method)
        batches = [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]
        try:
            futures = [self._pool.submit(run_batch, module, batch, self.config, context) for batch in batches]
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

    def _band_keys_with_ray(self, texts: list[str]) -> np.ndarray:
        self._start_ray()
        import pyarrow
        import ray.data

        from tunegate.curate import kernels

        batches = list(near_duplicates.batches(texts))
        edges = np.cumsum([0, *map(len, batches)])
        keys = np.empty((kernels.BANDS, len(texts)), dtype=np.uint32)
        for start in range(0, len(batches), BATCHES_IN_RAY):
            blocks = []
            for n, batch in enumerate(batches[start : start + BATCHES_IN_RAY], start):
                # Arrow all the way: arrays of NumPy's strings lose NUL characters at the end.
                table = pyarrow.table({"place": np.arange(edges[n], edges[n + 1]), "text": pyarrow.array(batch, pyarrow.string())})
                blocks.append(ray.put(table))
            found = ray.data.from_arrow_refs(blocks).map_batches(_sign_ray_batch, batch_size=None, batch_format="pyarrow")
            for signed in found.iter_batches(batch_size=None, batch_format="pyarrow"):
                own = np.frombuffer(b"".join(signed["keys"].to_pylist()), dtype=np.uint32)
                keys[:, signed["place"].to_numpy()] = own.reshape(signed.num_rows, kernels.BANDS).T
        return keys

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
    error = ""
    try:
        outcomes = run_batch(module, [json.loads(row) for row in batch["row"]], config, context)
    except errors.TunegateError as raised:
        error, outcomes = type(raised).__name__, [str(raised)] * len(batch["place"])
    said = np.array([json.dumps(outcome) for outcome in outcomes], dtype=object)
    return {"place": batch["place"], "outcome": said, "error": np.full(len(said), error, dtype=object)}


def _sign_ray_batch(table):
    """Sign a batch; the band keys of a text go back as 128 bytes."""
    import pyarrow

    keys = near_duplicates.band_keys(table["text"].to_pylist()).T
    said = pyarrow.array([row.tobytes() for row in keys], pyarrow.binary())
    return pyarrow.table({"place": table["place"], "keys": said})


def _cores() -> int:
    """Count the cores this process may use; a pod's limit and taskset count, the machine's number does not."""
    import joblib

    return joblib.cpu_count()
