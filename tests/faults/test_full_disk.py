"""A disk that fills up, real and small: training goes on, or ends with a sentence, and the last good checkpoint stays good."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from training import again, at_each_step, together

FILLED = range(3, 9)  # the steps at which the disk is full
ROOM = 32 * 2**10  # bytes more that are left with each of these steps: each fails at another file of the checkpoint


@pytest.fixture
def disk(tmp_path):
    """Mount a disk of 16 MiB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(disk: Path, leave: int) -> None:
    """Take all of a disk but `leave` bytes."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - leave)


def test_a_scratch_disk_that_is_full_for_a_while_costs_checkpoints_and_not_the_training(uninterrupted, disk, tmp_path):
    work, said = again(uninterrupted), tmp_path / "said"
    assert work.finish(functools.partial(fill_the_scratch, disk, said)) == 0
    assert work.weights == uninterrupted.weights
    lines = said.read_text().splitlines()
    assert [int(line.split("step ")[1].split(".")[0]) for line in lines] == list(FILLED)
    assert all("The disk is full (0." in line and f"{disk}). Free some space" in line for line in lines)
    assert not list(disk.glob("tunegate-*")), "the scratch directory is gone"


def fill_the_scratch(disk: Path, said: Path) -> None:
    from tunegate.train import saving

    def say(line: str) -> None:
        with open(said, "a") as file:
            file.write(line + "\n")

    saving.say = say
    os.environ["TUNEGATE_SCRATCH"] = str(disk)
    at_each_step(functools.partial(full_for_a_while, disk))


def full_for_a_while(disk: Path, saving, step: int) -> None:
    if step == FILLED[0]:
        assert saving.pusher.wait(30)  # its directory is room, too
    if step in FILLED:
        fill(disk, (step - FILLED[0]) * ROOM)
    elif step == FILLED[-1] + 1:
        (disk / "filler").unlink()


@pytest.mark.parametrize("full_at, last", [(2, 1), (3, 63)], ids=["one is left", "the older of two makes room"])
def test_a_store_whose_disk_is_full_keeps_its_last_good_checkpoint(full_at, last, uninterrupted, disk):
    from tunegate.train.checkpoints import Checkpoints

    work = again(uninterrupted, str(disk / "store"))
    assert work.finish(functools.partial(together, functools.partial(fill_the_store, disk, full_at), try_once)) == 4
    error = work.store.read_json(f"training/{work.run}/error.json")
    assert error["sentence"].startswith(f"The disk of the store {work.uri} is full") and "Free some space" in error["sentence"]
    step, directory = Checkpoints(work.store, work.run).newest()
    assert step == last and (directory / "optimizer.pt").is_file()
    (disk / "filler").unlink()
    assert work.finish() == 0
    assert work.result["summary"]["resumed_from_step"] == step
    assert work.weights == uninterrupted.weights


def fill_the_store(disk: Path, full_at: int) -> None:
    from tunegate.train.checkpoints import Pusher

    at_each_step(functools.partial(full_from_then_on, disk, full_at))
    real = Pusher.close

    def close(self):
        assert full_at == 2 or self.wait(30)
        real(self)
        fill(disk, 4 * 4096)  # what was pruned last is room for the adapter

    Pusher.close = close


def full_from_then_on(disk: Path, full_at: int, saving, step: int) -> None:
    if step == full_at:
        assert saving.pusher.wait(30)
    if step >= full_at:
        fill(disk, 4 * 4096)  # for the sentence


def try_once() -> None:
    from tunegate.train import job

    job.KEEP_TRIES = 1


def test_a_scratch_disk_without_room_for_the_result_is_said(uninterrupted, disk):
    work = again(uninterrupted)
    assert work.finish(functools.partial(fill_at_the_end, disk)) == 4
    error = work.store.read_json(f"training/{work.run}/error.json")
    assert error["sentence"].startswith("The disk is full (0.") and "goes on from its last checkpoint" in error["sentence"]
    last = work.checkpoints[-1]["step"]
    assert work.finish() == 0
    assert work.result["summary"]["resumed_from_step"] == last > 1 and work.weights == uninterrupted.weights


def fill_at_the_end(disk: Path) -> None:
    from tunegate.train.checkpoints import Pusher

    os.environ["TUNEGATE_SCRATCH"] = str(disk)
    real = Pusher.close

    def close(self):
        real(self)
        fill(disk, 0)  # nothing is removed after this

    Pusher.close = close
