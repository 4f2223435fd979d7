"""Row stages and signatures are the same in this process, in several, and under Ray."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_stage
from toy_stage import row

from tunegate.curate import executor, near_duplicates
from tunegate.curate.executor import ROWS_FOR_PROCESSES, Executor, run_row_stage
from tunegate.curate.row_stages import Context, run_batch
from tunegate.errors import BadInput, Unavailable
from tunegate.recipe import Curate, Task

CONTEXT = Context(Task(system="so"))
SETTINGS = {"quality": {"rubric": {"answers": ["yes", "no"], "forbid": ["n.$"]}}}
# More than two batches, and the last one not full.
ROWS = [row(f"question {n}", ("yes", "no", "perhaps")[n % 3]) for n in range(ROWS_FOR_PROCESSES + 123)]
STAGES = ("toy_stage", "tunegate.curate.rubric")


def run_all(**settings) -> bytes:
    with Executor(Curate(**SETTINGS, **settings)) as executor:
        return json.dumps([executor.run(stage, ROWS, CONTEXT) for stage in STAGES]).encode()


@pytest.fixture(scope="module")
def expected() -> bytes:
    return json.dumps([run_batch(stage, ROWS, Curate(**SETTINGS), CONTEXT) for stage in STAGES]).encode()


def test_one_process_and_three_give_the_same_bytes(expected):
    toy, rubric = json.loads(expected)
    assert toy[10] == "ends in 0, says so" and toy[5]["extra"] == {"n": [1, 2.5, None]} and toy[1] is None
    assert rubric[:3] == [None, "answer contains what rubric.forbid names: n.$", "answer is none of rubric.answers"]
    assert run_all(workers=1) == run_all(workers=3) == expected


@pytest.fixture
def ray_workers_find_the_toy_stage(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(toy_stage.__file__).parent), *sys.path]))


@pytest.mark.usefixtures("ray_workers_find_the_toy_stage")
def test_ray_gives_the_same_bytes_and_the_same_errors(expected):
    assert run_all(workers=2, executor="ray") == expected
    with pytest.raises(BadInput, match="^The toy breaks.$"):
        run_row_stage("toy_stage", [row("a"), row("refuse")], Curate(workers=2, executor="ray"), CONTEXT)


def test_signatures_are_the_same_in_threads_and_under_ray(monkeypatch):
    pytest.importorskip("ray")
    texts = ["", "abc", "abc\0", "\0", "今日はとても良い天気です", "𝒜𝒷𝒸𝒹𝑒𝒻𝑔𝒽"] + [f"question {n} of many" for n in range(500)]
    keys = near_duplicates.band_keys(texts)
    monkeypatch.setattr(near_duplicates, "BATCH_CHARACTERS", 1_000)
    monkeypatch.setattr(executor, "BATCHES_IN_RAY", 20)  # more than two times over
    with Executor(Curate(workers=3)) as threads, Executor(Curate(workers=2, executor="ray")) as ray:
        assert np.array_equal(threads.band_keys(texts), keys)
        assert threads.band_keys([]).shape == ray.band_keys([]).shape == (32, 0)
        monkeypatch.setattr(near_duplicates, "signatures", None)  # in this process only: Ray's workers have modules of their own
        assert np.array_equal(ray.band_keys(texts), keys)


def test_many_rows_go_to_other_processes_and_few_do_not():
    made = [row("who are you")] * ROWS_FOR_PROCESSES
    said = run_row_stage("toy_stage", made, Curate(workers=2), CONTEXT)
    assert len(said) == len(made) and f"process {os.getpid()}" not in said
    assert run_row_stage("toy_stage", made[1:3], Curate(workers=2), CONTEXT) == [f"process {os.getpid()}"] * 2


def test_a_killed_worker_ends_in_a_sentence():
    with pytest.raises(Unavailable, match="A worker of toy_stage was killed.*Lower curate.workers"):
        run_row_stage("toy_stage", [row("die")] * ROWS_FOR_PROCESSES, Curate(workers=2), CONTEXT)


def test_an_error_of_the_stage_arrives_as_it_is():
    with pytest.raises(BadInput, match="^The toy breaks.$"):
        run_row_stage("toy_stage", [row("refuse")] * ROWS_FOR_PROCESSES, Curate(workers=2), CONTEXT)


def test_ray_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"Ray is not installed.*tunegate\[ray\]"):
        run_row_stage("toy_stage", [row("a")], Curate(executor="ray"), CONTEXT)


def test_no_rows_give_no_outcomes():
    assert run_row_stage("toy_stage", [], Curate(workers=3), CONTEXT) == []
