"""Gather the wheels that the GPU benchmarks need on a machine that has PyTorch for CUDA 13 and transformers, but no package index.

    python tests/gpu/carry.py DIRECTORY [--python 3.12] [--unsloth]

Run it where there is a package index; take DIRECTORY and this repository to the machine. Versions are those of constraints.txt.
bitsandbytes is packed anew with its library for CUDA 13.0 alone, which makes 4 MB of 40. Fails above 64 MiB.
"""

import argparse
import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
# TRL and what it needs, and what tunegate.train imports: the recipe's models (pydantic) and rows (orjson). transformers and PEFT
# because 5.17 does not know activation_checkpointing. huggingface_hub stays the machine's: 2.x would ask for httpx2.
PACKAGES = (
    "trl", "datasets", "dill", "multiprocess", "xxhash", "bitsandbytes", "transformers", "peft",
    "pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions", "orjson",
)  # fmt: skip
# The peer pins what it works with. Not carried: torchao, xformers, diffusers and hf_transfer, which it names and which weigh more than
# all else here; that it goes without them was not tried. transformers 5.17 is taken from the machine.
UNSLOTH = (
    "unsloth==2026.10.9", "unsloth_zoo==2026.10.9", "trl==1.15.0", "datasets==4.8.5", "cut_cross_entropy==25.1.1", "tyro==1.0.17",
    "docstring_parser==0.18.0", "typeguard", "msgspec==0.22.0", "json5==0.17.3", "nest_asyncio==1.6.0", "structlog==26.1.0",
)  # fmt: skip
LIBRARY = "libbitsandbytes_cuda130.so"
GLIBC = (17, 24, 26, 27, 28, 31, 34)  # manylinux_2_N; pip takes no lower one for granted
LIMIT = 64 * 2**20


def pins() -> dict[str, str]:
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return {normal(name): line for line in lines if "==" in line for name in [line.partition("==")[0]]}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def download(wanted: list[str], python: str, directory: Path) -> None:
    platforms = ["manylinux2014_x86_64", "manylinux1_x86_64", *(f"manylinux_2_{n}_x86_64" for n in GLIBC)]
    subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", python,
            "--implementation", "cp", *(part for platform in platforms for part in ("--platform", platform)), "-d", str(directory), *wanted,
        ],
        check=True,
    )  # fmt: skip


def repack(wheel: Path, keep: str = LIBRARY) -> None:
    """Write the wheel anew without the libraries of other devices; its RECORD lists what is left."""
    small = wheel.with_suffix(".small")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as new:
        names = [n for n in old.namelist() if not (re.search(r"libbitsandbytes_\w+\.so$", n) and Path(n).name != keep)]
        if not any(Path(name).name == keep for name in names):
            sys.exit(f"{wheel.name} holds no {keep}.")
        record = next(name for name in names if name.endswith(".dist-info/RECORD"))
        lines = []
        for name in names:
            if name == record:
                continue
            data = old.read(name)
            new.writestr(old.getinfo(name), data, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(data)}\n")
        new.writestr(record, "".join(lines) + f"{record},,\n")
    small.replace(wheel)


def gather(directory: Path, wanted: list[str], python: str) -> int:
    """Fill a directory with wheels; give its size in bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    download(wanted, python, directory)
    for wheel in directory.glob("bitsandbytes-*.whl"):
        repack(wheel)
    size = sum(wheel.stat().st_size for wheel in directory.glob("*.whl"))
    print(f"{directory}: {len(list(directory.glob('*.whl')))} wheels, {size / 2**20:.1f} MiB")
    return size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--python", default="3.12", help="of the machine (default: 3.12)")
    parser.add_argument("--unsloth", action="store_true", help="the peer and what it pins too, in DIRECTORY/unsloth")
    arguments = parser.parse_args()
    pinned = pins()
    size = gather(arguments.directory, [pinned[normal(name)] for name in PACKAGES], arguments.python)
    if arguments.unsloth:
        size += gather(arguments.directory / "unsloth", list(UNSLOTH), arguments.python)
    if size > LIMIT:
        print(f"Together they are more than {LIMIT >> 20} MiB.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
