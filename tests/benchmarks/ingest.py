"""Time ingest against datasets and polars on JSON lines of which one in a hundred is bad, and print a table.

    python tests/benchmarks/ingest.py [--megabytes 200] [--repeats 5]

Every run is a process of its own; the readers take turns. What is timed is reading alone, after imports: ours from the file
to rows, quarantine and report on disk; datasets to its Arrow cache on disk; polars to a table in memory. Neither of the other
two gets past a bad line, so they read the same rows without any. MB are those of the file read; CPU is of all threads; the
peak is VmHWM, which a process does not inherit.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

WORDS = 5000
BAD = (b"{oops}", b'{"text": "x"}', b'{"messages": "x"}', b"\xff\xfe\xff", b'{"prompt": "a", "prompt": "b", "completion": "c"}')


def write_files(directory: Path, megabytes: int) -> int:
    """Write mixed.jsonl and the same without bad lines, clean.jsonl; give the number of bad lines."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyzéß", k=rng.randint(2, 10))) for _ in range(WORDS)]
    size = bad = number = 0
    with open(directory / "mixed.jsonl", "wb") as mixed, open(directory / "clean.jsonl", "wb") as clean:
        while size < megabytes * 10**6:
            number += 1
            if number % 100 == 0:
                mixed.write(BAD[bad % len(BAD)] + b"\n")
                bad += 1
                continue
            asked, answered = (" ".join(rng.choices(words, k=k)) for k in (rng.randint(5, 60), rng.randint(10, 150)))
            turns = [{"role": "user", "content": f"{number}: {asked}"}, {"role": "assistant", "content": f"So: {answered}.\n"}]
            line = json.dumps({"messages": turns}, ensure_ascii=False).encode() + b"\n"
            mixed.write(line)
            clean.write(line)
            size += len(line)
    return bad


def tunegate(file: Path, scratch: Path):
    from tunegate.ingest import ingest
    from tunegate.recipe import Data

    def work():
        report = ingest(Data(sources=[str(file)]), scratch)
        return report["rows"], report["quarantined"]

    return work


def datasets(file: Path, scratch: Path):
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    return lambda: (load_dataset("json", data_files=str(file), split="train", cache_dir=str(scratch)).num_rows, 0)


def polars(file: Path, scratch: Path):
    import polars

    return lambda: (polars.read_ndjson(file).height, 0)


READERS = {"tunegate": (tunegate, "mixed"), "datasets": (datasets, "clean"), "polars": (polars, "clean")}


def run_one(name: str, file: Path) -> None:
    """Read `file` once and print what it took; runs in a process of its own."""
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        work = READERS[name][0](file, Path(scratch))
        wall, cpu = time.perf_counter(), time.process_time()
        rows, bad = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"wall": wall, "cpu": cpu, "peak_mib": int(peak.split()[1]) / 1024, "rows": rows, "bad": bad}))


def measure(directory: Path, repeats: int) -> dict[str, list[dict]]:
    """Run every reader `repeats` times, in turns, after one turn that only brings the files into the page cache."""
    found = {name: [] for name in READERS}
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    for turn in range(repeats + 1):
        for name, (_, kind) in READERS.items():
            command = [sys.executable, __file__, "--one", name, "--file", directory / f"{kind}.jsonl"]
            ran = subprocess.run(command, capture_output=True, text=True, env=environment)
            if ran.returncode:
                sys.exit(f"{name} failed:\n{ran.stderr}")
            if turn:
                found[name].append(json.loads(ran.stdout.splitlines()[-1]))
    return found


def table(found: dict[str, list[dict]], directory: Path) -> str:
    lines = ["| reader | file | MB/s, wall | MB/s, CPU | peak RSS, MiB | rows | bad lines reported |", "|---|---|---|---|---|---|---|"]
    for name, runs in found.items():
        kind = READERS[name][1]
        megabytes = (directory / f"{kind}.jsonl").stat().st_size / 10**6
        speeds = [f"{megabytes / median(run[clock] for run in runs):,.1f}" for clock in ("wall", "cpu")]
        bad = f"{runs[0]['bad']:,}" if kind == "mixed" else "none: it stops at one"
        what = "1 % bad lines" if kind == "mixed" else "the same without them"
        lines.append(
            f"| {name} | {what} | {' | '.join(speeds)} | {median(r['peak_mib'] for r in runs):,.0f} | {runs[0]['rows']:,} | {bad} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        run_one(given.one, given.file)
        return
    with tempfile.TemporaryDirectory(prefix="tunegate-bench-", dir=os.environ.get("TUNEGATE_SCRATCH")) as scratch:
        directory = Path(scratch)
        bad = write_files(directory, given.megabytes)
        found = measure(directory, given.repeats)
        assert all(run["bad"] == bad for run in found["tunegate"]), "bad lines were missed"
        assert len({run["rows"] for runs in found.values() for run in runs}) == 1, "the readers differ in the rows they found"
        print(table(found, directory))
        print(f"\nMedians of {given.repeats} runs each, {given.megabytes} MB, {bad:,} bad lines, {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
