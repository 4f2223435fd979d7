"""`tunegate sft` and `tunegate prefer` on plain files: watched over, killed, and started again as a step of the pipeline is."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import call
from test_supervision import forked
from tiny_model import command_rows
from training import TASK

from tunegate import rows
from tunegate.store import open_store

TRAINING = {
    "learning_rate": 5e-3, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "lora": {"r": 4, "alpha": 8},
    "save_minutes": 1e-9,
}  # fmt: skip


def options(section: str, settings: dict) -> list[str]:
    task = {"checker": TASK.checker, "system": TASK.system, "max_new_tokens": TASK.max_new_tokens, "max_length": TASK.max_length}
    named = [f"task.{key}={value}" for key, value in task.items()] + [
        f"{section}.{key}={json.dumps(value)}" for key, value in settings.items()
    ]
    return [part for setting in named for part in ("--set", setting)]


@pytest.fixture
def data(tmp_path) -> Path:
    made = command_rows(40)
    rows.write_rows(tmp_path / "data" / "train.jsonl", made[:32])
    rows.write_rows(tmp_path / "data" / "dev.jsonl", made[32:36])
    wrong = [{"role": "assistant", "content": "{}"}]
    pairs = [rows.make_preference(row["messages"][:-1], row["messages"][-1:], wrong) for row in made[:16]]
    rows.write_rows(tmp_path / "data" / "preferences.jsonl", pairs)
    return tmp_path / "data"


def test_sft_that_is_killed_goes_on_when_it_is_started_again(tiny_base, data, tmp_path, monkeypatch, capsys):
    """Real processes: the command's, its warden's, and the one that trains."""
    store, output = tmp_path / "store", tmp_path / "adapter"
    command = ["sft", "--base", tiny_base, "--data", data, "--output", output, "--store", store]
    command += options("sft", TRAINING | {"num_train_epochs": 15, "load_in_4bit": False})
    program = subprocess.Popen([sys.executable, "-m", "tunegate.cli", *map(str, command)])
    deadline = time.monotonic() + 120
    while not list(store.glob("training/*/checkpoints.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    program.send_signal(signal.SIGKILL)
    program.wait()
    (run,) = store.glob("training/*")
    while not (run / "error.json").read_bytes().startswith(b'{"code":75') and time.monotonic() < deadline:
        time.sleep(0.05)  # what trained outlives the command by a checkpoint
    assert not output.exists() or not list(output.iterdir())

    forked(monkeypatch)
    code, out, err = call(monkeypatch, capsys, *command)
    assert (code, err) == (0, "") and f"written to {output}" in out and "tokens/s" in out
    summary = json.loads((run / "result.json").read_bytes())["summary"]
    assert 0 < summary["resumed_from_step"] < summary["steps"]
    assert {"adapter_model.safetensors", "training.json"} <= {file.name for file in output.iterdir()}
    assert not (output / "MANIFEST.json").exists()
    assert json.loads((run / "checkpoints.json").read_bytes())["checkpoints"] == [], "they have served"

    code, _, err = call(monkeypatch, capsys, *command)
    assert code == 2 and "is there already" in err
    command[command.index(output)] = tmp_path / "copy"
    code, out, _ = call(monkeypatch, capsys, *command)
    assert code == 0 and "sft: found done" in out
    assert (tmp_path / "copy/adapter_model.safetensors").read_bytes() == (output / "adapter_model.safetensors").read_bytes()


def test_prefer_improves_an_adapter(tiny_base, uninterrupted, data, tmp_path, monkeypatch, capsys):
    adapter = uninterrupted.store.get(uninterrupted.result["refs"]["adapter"])
    codes = forked(monkeypatch)
    settings = TRAINING | {"num_train_epochs": 2, "min_steps": 2, "pairs": "given"}
    settings.pop("lora")
    command = ["prefer", "--base", tiny_base, "--adapter", adapter, "--data", data, "--store", tmp_path / "store"]
    command += options("prefer", settings)
    code, out, err = call(monkeypatch, capsys, *command, "--output", tmp_path / "better")
    assert (code, err, codes) == (0, "", [0, 0]), out
    assert "16 pairs, 16 steps; exact on dev" in out and "KFP" not in out
    kept = "; kept" in out
    record = json.loads((tmp_path / "better/training.json").read_bytes())
    assert record["stop_token_in_loss"] == 1.0 and ("preference" in record) is kept
    weights = [(place / "adapter_model.safetensors").read_bytes() for place in (adapter, tmp_path / "better")]
    assert (weights[0] == weights[1]) is not kept
    code, out, _ = call(monkeypatch, capsys, *command, "--output", tmp_path / "same", "--set", "prefer.method=none")
    assert code == 0 and (tmp_path / "same/adapter_model.safetensors").read_bytes() == weights[0]


def test_an_error_of_a_training_is_a_sentence_and_its_code(tiny_base, data, tmp_path, monkeypatch, capsys):
    codes = forked(monkeypatch)
    command = ["sft", "--base", tiny_base, "--data", data, "--output", tmp_path / "adapter", "--store", tmp_path / "store"]
    code, _, err = call(monkeypatch, capsys, *command, "--set", "task.max_length=8")
    assert codes == [2] and code == 2 and "fit in 8 tokens" in err.splitlines()[-1]
    assert open_store(str(tmp_path / "store")).list("objects"), "what it was given is kept"
    assert os.listdir(tmp_path) and not (tmp_path / "adapter").exists()
