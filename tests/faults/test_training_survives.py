"""Training that is killed, at whatever point, ends with the very weights of one that was not."""

import functools
import json
import os
import random
import shutil
import signal
import threading

import pytest
from training import SFT, Work, again, ask, at_each_step, die, die_at_copy, together

KILLS = 10
LATEST_SECONDS = 0.5  # after training began; a step takes some 0.05, the first one more


def killed_often(work: Work, seed: int) -> None:
    """Kill ten attempts at random moments of their training; each may have saved a step or two by then."""
    draw = random.Random(seed)
    for _ in range(KILLS):
        assert work.finish(functools.partial(die_while_training, draw.uniform(0, LATEST_SECONDS))) == -signal.SIGKILL


def die_while_training(seconds: float) -> None:
    from tunegate.train.callbacks import LossGuard

    def on_train_begin(self, args, state, control, **kwargs):
        threading.Timer(seconds, die).start()

    LossGuard.on_train_begin = on_train_begin


def test_sft_killed_at_ten_random_moments_ends_with_the_same_weights(uninterrupted):
    work = again(uninterrupted)
    killed_often(work, seed=1)
    assert work.finish() == 0
    assert work.weights == uninterrupted.weights
    assert work.result["summary"]["resumed_from_step"] > 1


def test_dpo_killed_at_ten_random_moments_ends_with_the_same_weights(uninterrupted, tiny_base, tmp_path):
    adapter = uninterrupted.store.get(uninterrupted.result["refs"]["adapter"])
    whole = ask(str(tmp_path / "whole"), "prefer", tiny_base, adapter=adapter)
    assert whole.finish() == 0
    work = again(whole)
    killed_often(work, seed=2)
    assert work.finish() == 0
    assert work.result["summary"]["resumed_from_step"] > 1
    assert work.weights == whole.weights
    assert work.weights != uninterrupted.weights


def test_killed_inside_a_save_after_each_file(tiny_base, tmp_path):
    whole = ask(str(tmp_path / "whole"), "sft", tiny_base, SFT.model_copy(update={"num_train_epochs": 1}))
    assert whole.finish() == 0
    files = sum(1 for path in (whole.store.root / "objects" / _checkpoint(whole)).rglob("*") if path.name != "MANIFEST.json")
    assert files > 6
    for copies in range(files + 1):  # of the second checkpoint; with none, before the manifest of the first, and with all, before its own
        work = again(whole)
        assert work.finish(functools.partial(die_at_copy, files + copies)) == -signal.SIGKILL
        before = [entry["step"] for entry in work.checkpoints]
        assert work.finish() == 0
        assert work.weights == whole.weights
        assert work.result["summary"]["resumed_from_step"] in (0, *before)


def _checkpoint(work: Work) -> str:
    return work.checkpoints[-1]["ref"]


def stopped_in_the_middle(uninterrupted) -> Work:
    """Give a training with two checkpoints, stopped at step 4."""
    work = again(uninterrupted)
    assert work.finish(functools.partial(stop_at, 4)) == 75
    assert [entry["step"] for entry in work.checkpoints] == [3, 4]
    return work


def stop_at(step: int) -> None:
    """Have this process ask itself to stop at a step, as a node that goes does."""
    at_each_step(functools.partial(_stop_at, step))


def _stop_at(wanted: int, saving, step: int) -> None:
    if step == wanted:
        os.kill(os.getpid(), signal.SIGTERM)


def test_asked_to_stop_it_saves_and_ends_with_75(uninterrupted):
    work = stopped_in_the_middle(uninterrupted)
    error = work.store.read_json(f"training/{work.run}/error.json")
    assert error["code"] == 75 and "at step 4 of" in error["sentence"] and "saved a checkpoint" in error["sentence"]
    assert work.finish() == 0
    assert work.result["summary"]["resumed_from_step"] == 4
    assert work.weights == uninterrupted.weights


def test_the_logged_curve_is_that_of_a_training_that_was_not_interrupted(uninterrupted):
    """Saved at step 4, when the mean that is logged at step 6 has begun; the figures of TRL and the count of tokens too."""
    whole, stopped = again(uninterrupted), again(uninterrupted)
    assert whole.finish(log_every_third_step) == 0
    assert stopped.finish(functools.partial(together, log_every_third_step, functools.partial(stop_at, 4))) == 75
    assert stopped.finish(log_every_third_step) == 0
    log = whole.result["summary"]["log"]
    assert [entry["step"] for entry in log][:4] == [1, 3, 6, 9] and {"num_tokens", "mean_token_accuracy"} <= set(log[0])
    assert stopped.result["summary"]["log"] == log
    assert stopped.result["summary"]["resumed_from_step"] == 4 and stopped.result["summary"]["tokens_per_second"] > 0


def log_every_third_step() -> None:
    from tunegate.train import running

    running._logging_steps = lambda *given: 3


def damage(name: str, change):
    def do(directory):
        change(directory / name)

    return do


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def of_another_run(path):
    state = json.loads(path.read_bytes())
    path.write_text(json.dumps(state | {"run": "another"}))


REMOVED = [damage(name, lambda path: path.unlink()) for name in ("optimizer.pt", "rng_state.pth", "trainer_state.json")]
CORRUPTIONS = {
    "no optimizer": (REMOVED[0], "optimizer.pt is missing"),
    "no random state": (REMOVED[1], "rng_state.pth is missing"),
    "no trainer state": (REMOVED[2], "trainer_state.json is missing"),
    "a flipped bit": (damage("adapter_model.safetensors", flip), "adapter_model.safetensors was changed"),
    "a truncated file": (damage("optimizer.pt", truncate), "optimizer.pt was changed"),
    "another run's": (damage("checkpoint.json", of_another_run), "belongs to another run"),
    "cut off while written": (damage("checkpoint-is-incomplete.txt", lambda path: path.touch()), "checkpoint-is-incomplete.txt"),
}


@pytest.mark.parametrize("sealed", [False, True], ids=["after it was stored", "before it was stored"])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_is_found_and_named_and_the_checkpoint_before_is_taken(name, sealed, uninterrupted, half_done, tmp_path):
    """Damage done before a checkpoint is stored is what its manifest cannot show."""
    from tunegate.train.checkpoints import Checkpoints

    change, wanted = CORRUPTIONS[name]
    uri = str(tmp_path / "store")
    shutil.copytree(half_done.uri, uri)
    work = Work(uri, half_done.run)
    said = []
    checkpoints = Checkpoints(work.store, work.run, say=said.append)
    newest = work.store.root / "objects" / _checkpoint(work)
    if sealed:
        if name in ("a flipped bit", "a truncated file"):
            pytest.skip("whole files of other content are a matter of the manifest")
        copy = tmp_path / "copy"
        shutil.copytree(newest, copy)
        change(copy)
        checkpoints.push(copy, 4)
    else:
        change(newest)
    step, directory = checkpoints.newest()
    assert step == 3 and (directory / "optimizer.pt").is_file()
    assert len(said) == 1 and "The checkpoint of step 4 cannot be used" in said[0] and "resuming from step 3" in said[0]
    if sealed:
        assert wanted in said[0]
    assert [entry["step"] for entry in work.checkpoints] == [3]


@pytest.fixture(scope="module")
def half_done(uninterrupted) -> Work:
    return stopped_in_the_middle(uninterrupted)


def test_a_damaged_checkpoint_costs_a_step_and_no_more(uninterrupted, half_done, tmp_path):
    uri = str(tmp_path / "store")
    shutil.copytree(half_done.uri, uri)
    work = Work(uri, half_done.run)
    flip(work.store.root / "objects" / _checkpoint(work) / "optimizer.pt")
    assert work.finish() == 0
    assert work.result["summary"]["resumed_from_step"] == 3
    assert work.weights == uninterrupted.weights


def test_a_budget_ends_training_in_time_and_the_run_goes_on(tiny_base, tmp_path):
    work = ask(str(tmp_path / "store"), "sft", tiny_base, SFT.model_copy(update={"max_hours": 1e-9}))
    assert work.finish() == 0
    assert work.result["summary"]["steps"] == 1 and "budget ended training at step 1 of" in work.result["summary"]["stopped"]
    assert work.weights


def test_training_goes_on_while_the_store_takes_no_checkpoint(uninterrupted):
    work = again(uninterrupted)
    assert work.finish(refuse_checkpoints) == 0
    assert work.checkpoints == [] and work.weights == uninterrupted.weights


def refuse_checkpoints() -> None:
    from tunegate.errors import Unavailable
    from tunegate.train.checkpoints import Checkpoints

    def push(self, directory, step):
        raise Unavailable("the store is away.")

    Checkpoints.push = push
