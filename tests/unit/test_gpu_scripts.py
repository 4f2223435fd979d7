"""Each GPU benchmark runs on a CPU at tiny size, and its table has all its rows, with numbers in them."""

import importlib
import math
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "gpu"
CHECKPOINTING = ("ours, no checkpointing", "ours, selective checkpointing", "ours, checkpointing")
ROWS = {
    "sft_8b": [*CHECKPOINTING, "TRL defaults", "TRL, NF4 and bfloat16", "TRL, the same and packing", "unsloth"],
    "dpo_8b": ["adapter's copy, on the fly", "scored once", "second model"],
    "memory_24gib": ["checkpointing, 1 × 64", "selective, 1 × 64", "no checkpointing, 1 × 64", "a recipe's default: no checkpointing"],
    "memory_70b": ["checkpointing, 1 × 64", "selective, 1 × 64"],
    "packing": ["padded, 2 × 128", "padded, by length, 2 × 128", "packed, sdpa, 2 × 128", "packed, varlen, 2 × 128"],
}  # fmt: skip
SMALL = {"sft_8b": ["--rows", "2"], "memory_24gib": ["--rows", "1"], "packing": ["--rows", "2"], "dpo_8b": ["--pairs", "2"]}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture
def one_thread():
    """Tensors so small gain nothing from two threads, which wait for each other where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.usefixtures("one_thread")
def test_a_benchmark_fills_its_table(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delenv("UNSLOTH_PYTHON", raising=False)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert importlib.import_module(name).main(["--size", "tiny", "--steps", "1", *SMALL.get(name, [])]) == 0
    lines = capsys.readouterr().out.splitlines()
    head, _, *rows = [cells(line) for line in lines if line.startswith("|")]
    assert len(rows) == len(ROWS[name])
    for row, wanted in zip(rows, ROWS[name], strict=True):
        assert row[0].startswith(wanted)
        if wanted == "unsloth":
            assert row[1] == "not installed here"
            continue
        for column, cell in zip(head[1:], row[1:], strict=True):
            if cell != "–":  # only what no prediction is about, and what only one way of training has
                value = float(cell.replace(",", "").rstrip("%"))
                assert math.isfinite(value) and value >= 0, (row[0], column)
            else:
                assert column in ("predicted GiB", "s to score once")


def test_bitsandbytes_is_repacked_with_one_library(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    carry = importlib.import_module("carry")
    wheel, record = tmp_path / "bitsandbytes-1-py3-none-any.whl", "bitsandbytes-1.dist-info/RECORD"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("__init__.py", "libbitsandbytes_cpu.so", "libbitsandbytes_cuda128.so", carry.LIBRARY):
            archive.writestr(f"bitsandbytes/{name}", name)
        archive.writestr(record, "of the old wheel")
    carry.repack(wheel)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.namelist() == ["bitsandbytes/__init__.py", f"bitsandbytes/{carry.LIBRARY}", record]
        listed = [line.split(",")[0] for line in archive.read(record).decode().splitlines()]
    assert listed == ["bitsandbytes/__init__.py", f"bitsandbytes/{carry.LIBRARY}", record]
    assert all(carry.normal(name) in carry.pins() for name in carry.PACKAGES)
