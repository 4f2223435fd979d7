"""The process that watches over training: out of memory, killed, asked to stop, several processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
from training import PREFER, SFT, Work, ask, die

from tunegate.errors import BadInput, Interrupted, Refused, Unavailable
from tunegate.steps import Inputs
from tunegate.train import supervise

PLAIN = SFT.model_copy(update={"lora": SFT.lora.model_copy(update={"dropout": 0.0}), "num_train_epochs": 2, "save_minutes": 10})


def train(work: Work) -> dict:
    """Ask for a training as its step does."""
    asked = work.store.read_json(f"training/{work.run}/request.json")
    return supervise.train(supervise.Training(asked["work"], asked["config"], asked["refs"]), Inputs(asked["refs"], work.store, "key"))


def forked(monkeypatch, before=None) -> list[int]:
    """Have training done in a process that has imported all already; gives the codes with which these ended."""
    codes = []

    def launch(uri, run, alone):
        code = Work(uri, run).finish(before)
        codes.append(code if code >= 0 else 128 - code)
        return codes[-1]

    monkeypatch.setattr(supervise, "launch", launch)
    return codes


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_optimizer_step(tiny_base, tmp_path, monkeypatch, capfd):
    settings = PLAIN.model_copy(update={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1})
    work = ask(str(tmp_path / "store"), "sft", tiny_base, settings)
    codes = forked(monkeypatch, room_for_one_row)
    summary = train(work)["summary"]
    assert codes == [supervise.OUT_OF_MEMORY] * 2 + [0]
    assert (summary["per_device_train_batch_size"], summary["gradient_accumulation_steps"]) == (1, 4)
    said = capfd.readouterr().out
    assert "with 2 rows at once instead of 4, 2 times" in said and "with 1 rows at once instead of 2, 4 times" in said


def room_for_one_row() -> None:
    import torch
    from trl import SFTTrainer

    real = SFTTrainer.training_step

    def training_step(self, *arguments, **named):
        if self.args.per_device_train_batch_size > 1:
            raise torch.OutOfMemoryError("tried to allocate more than there is")
        return real(self, *arguments, **named)

    SFTTrainer.training_step = training_step


def test_what_never_fits_is_said_after_three_tries(tiny_base, tmp_path, monkeypatch):
    settings = PLAIN.model_copy(update={"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1})
    work = ask(str(tmp_path / "store"), "sft", tiny_base, settings)
    codes = forked(monkeypatch, no_room)
    with pytest.raises(BadInput, match="ran out of memory 3 times"):
        train(work)
    assert codes == [supervise.OUT_OF_MEMORY] * 3


def no_room() -> None:
    from trl import SFTTrainer

    def training_step(self, *arguments, **named):
        raise MemoryError

    SFTTrainer.training_step = training_step


def test_a_killed_child_is_no_hopeless_case(tiny_base, tmp_path, monkeypatch):
    work = ask(str(tmp_path / "store"), "sft", tiny_base, PLAIN)
    forked(monkeypatch, die)
    with pytest.raises(Unavailable, match="was killed"):
        train(work)


def test_a_child_that_the_kernel_killed_for_memory_is_given_less(tiny_base, tmp_path, monkeypatch):
    work = ask(str(tmp_path / "store"), "sft", tiny_base, PLAIN)
    forked(monkeypatch, die)
    counts = iter(range(100))
    monkeypatch.setattr(supervise, "_memory_kills", lambda: next(counts))
    with pytest.raises(BadInput, match="ran out of memory 1 times"):  # it had not come as far as a batch
        train(work)


def test_an_error_of_the_work_reaches_the_step(tiny_base, tmp_path, monkeypatch):
    work = ask(str(tmp_path / "store"), "prefer", tiny_base, SFT.model_copy(update={"method": "full"}), PREFER, tiny_base)
    forked(monkeypatch)
    with pytest.raises(BadInput, match="sft.method is full"):
        train(work)
    work = ask(str(tmp_path / "other"), "sft", tiny_base, PLAIN)
    forked(monkeypatch, lose_the_loss)
    with pytest.raises(Refused, match="diverged"):
        train(work)


def lose_the_loss() -> None:
    from trl import SFTTrainer

    real = SFTTrainer.compute_loss

    def compute_loss(self, model, inputs, **named):
        return real(self, model, inputs, **named) * float("nan")

    SFTTrainer.compute_loss = compute_loss


def test_a_training_that_is_done_is_not_done_again(tiny_base, tmp_path, monkeypatch):
    work = ask(str(tmp_path / "store"), "sft", tiny_base, PLAIN)
    codes = forked(monkeypatch)
    first = train(work)
    assert train(work) == first and codes == [0]


def test_two_processes_give_the_losses_of_one(tiny_base, tmp_path, monkeypatch):
    """At an equal global batch: two processes with two rows each, against one with two rows twice."""
    one = PLAIN.model_copy(update={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 4})
    two = one.model_copy(update={"gradient_accumulation_steps": 1})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    logs = []
    for name, settings, processes in (("one", one, 1), ("two", two, 2)):
        monkeypatch.setenv("TUNEGATE_TRAIN_PROCESSES", str(processes))
        summary = train(ask(str(tmp_path / name), "sft", tiny_base, settings))["summary"]
        assert summary["processes"] == processes
        logs.append([(entry["step"], entry["loss"]) for entry in summary["log"]])
    assert [step for step, _ in logs[0]] == [step for step, _ in logs[1]] and len(logs[0]) > 1
    assert [loss for _, loss in logs[0]] == pytest.approx([loss for _, loss in logs[1]], rel=2e-3)


def test_sigterm_to_the_step_saves_and_the_same_call_goes_on(tiny_base, tmp_path):
    """Real processes: the step's, its warden's, and the one that trains."""
    work = ask(str(tmp_path / "store"), "sft", tiny_base, SFT.model_copy(update={"num_train_epochs": 2000}))
    script = (
        "import sys; sys.path[:0] = sys.argv[3:]; import test_supervision; from training import Work; "
        "test_supervision.train(Work(sys.argv[1], sys.argv[2]))"
    )
    here = [os.path.dirname(__file__), os.path.join(os.path.dirname(__file__), "..", "unit")]
    step = subprocess.Popen([sys.executable, "-c", script, work.uri, work.run, *here], stderr=subprocess.PIPE, text=True)
    trained = Work(work.uri, name_of(work))
    deadline = time.monotonic() + 120
    while not trained.checkpoints and time.monotonic() < deadline:
        time.sleep(0.1)
    step.send_signal(signal.SIGTERM)
    said = step.communicate(timeout=60)[1]
    assert Interrupted.__name__ in said and "saved a checkpoint" in said
    assert trained.store.read_json(f"training/{trained.run}/error.json")["code"] == 75


def name_of(work: Work) -> str:
    asked = work.store.read_json(f"training/{work.run}/request.json")
    return supervise.Training(asked["work"], asked["config"], asked["refs"]).run("key")
