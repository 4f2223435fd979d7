"""Read the sources, validate every row, put bad ones aside with line and reason, and mirror the base model into the store."""

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from tunegate.digests import canonical_json, sha256_file, write_atomic
from tunegate.errors import BadInput
from tunegate.ingest import sources
from tunegate.ingest.base_model import copy_tokenizer, mirror, model_files
from tunegate.ingest.schemas import Recognised, recognise, refuse_unknown_columns
from tunegate.recipe import Data
from tunegate.rows import to_line
from tunegate.store import Store

KINDS = ("rows", "preferences", "labelled")
QUARANTINED_CHARACTERS = 500
REASON_CHARACTERS = 300
MOST_REASONS = 100  # that are counted by name; others, which hostile data may have without end, are counted together
BUFFER_BYTES = 2**20


def ingest_step(config: dict, inputs, output: Path):
    """Write rows/ and tokenizer/, and give the reference of the mirrored base model as `base`."""
    from tunegate.steps import Result

    base = mirror(config["base_model"], inputs.store)
    copy_tokenizer(inputs.store.get(base), output / "tokenizer")
    report = ingest(Data(**config["data"]), output, inputs.store)
    metrics = {
        "rows_read": float(report["rows"]), "preferences_read": float(report["preferences"]), "labelled_read": float(report["labelled"]),
        "rows_quarantined": float(report["quarantined"]), "files": float(len(report["files"])),
    }  # fmt: skip
    return Result(report, {"base": base}, metrics, describe(report))


def describe(report: dict) -> str:
    files = f"{len(report['files'])} file{'s' if len(report['files']) > 1 else ''}"
    more = [f"{report['preferences']:,} preference pairs"] if report["preferences"] else []
    more += [f"{report['labelled']:,} labelled answers"] if report["labelled"] else []
    return ", ".join([f"{report['rows']:,} rows from {files}", *more, f"{report['quarantined']:,} quarantined"])


def ingest(data: Data, output: Path, store: Store | None = None) -> dict:
    """Read all sources into output/rows, and return the report, which is ingest.json there.

    Beside it are rows.jsonl, preferences.jsonl and labelled.jsonl (their forms: tunegate.rows), and quarantine.jsonl with
    the source, line, reason and first characters of each record that is none of these.

    Args:
        store: where `store:` sources are; not needed for others.

    Raises:
        BadInput: a source is missing or not readable, too many rows are bad, or there are none; nothing is written then.
        Unavailable: a source could not be reached.
    """
    refuse_unknown_columns(data.columns)
    directory = Path(output) / "rows"
    partial = directory.with_name(".rows.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        report, first_bad = _read_all(data, partial, store)
        _refuse_bad(report, first_bad, data)
        report["digest"] = sha256_file(partial / "rows.jsonl")
        report["digests"] = {kind: sha256_file(partial / f"{kind}.jsonl") for kind in KINDS}
        write_atomic(partial / "ingest.json", canonical_json(report))
        shutil.rmtree(directory, ignore_errors=True)
        os.rename(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def stage(store: Store, path: Path) -> str:
    """Put one local file or directory into the store and give the address, `store:<ref>`, by which a recipe names it there.

    Of a model directory only what a model is made of is taken: no pickles, no checkpoints of its training.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"{path} does not exist. Paths in a recipe are relative to the recipe.")
    if path.is_dir() and not (path / "config.json").is_file():
        return f"store:{store.put('staged', path)}"
    files = model_files(path) if path.is_dir() else [path]
    with tempfile.TemporaryDirectory(prefix="tunegate-stage-") as scratch:
        for file in files:
            (Path(scratch) / file.name).symlink_to(file.absolute())
        return f"store:{store.put('base' if path.is_dir() else 'staged', Path(scratch))}"


def stage_lines(store: Store, address: str) -> str:
    """Bring a remote file of JSON objects (s3://, https://, hf://) into the store as JSONL, as `stage` does a local one.

    Raises:
        BadInput: it cannot be read whole; unlike training rows, none of these may be bad.
    """
    with tempfile.TemporaryDirectory(prefix="tunegate-stage-") as scratch:
        lines = []
        for label, records in sources.open_source(address, store, Path(scratch)):
            for record in records:
                if record.fault:
                    raise BadInput(f"{label}, line {record.line}: {record.fault}. Mend or remove it.")
                lines.append(canonical_json(record.value) + b"\n")
        file = Path(scratch) / "lines.jsonl"
        file.write_bytes(b"".join(lines))
        return stage(store, file)


def _read_all(data: Data, directory: Path, store: Store | None) -> tuple[dict, list[str]]:
    files, reasons, first_bad = [], Counter(), []
    max_unpacked = int(data.max_unpacked_gib * 2**30)
    with contextlib.ExitStack() as opened:
        good = {kind: opened.enter_context(open(directory / f"{kind}.jsonl", "wb", BUFFER_BYTES)) for kind in KINDS}
        bad = opened.enter_context(open(directory / "quarantine.jsonl", "wb", BUFFER_BYTES))
        scratch = opened.enter_context(tempfile.TemporaryDirectory(prefix="tunegate-ingest-", dir=os.environ.get("TUNEGATE_SCRATCH")))
        for source in data.sources:
            for label, records in sources.open_source(source, store, Path(scratch), max_unpacked):
                counts, found = Counter(), Counter()
                for record in records:
                    made = Recognised(fault=record.fault) if record.fault else recognise(record.value, data.columns, label)
                    if not made.fault:
                        good[made.kind].write(to_line(made.row))
                        found[made.schema] += 1
                        counts[made.kind] += 1
                        continue
                    reason = _shown(made.fault, REASON_CHARACTERS)
                    shown = {"source": label, "line": record.line, "reason": reason, "text": _shown(record.text, QUARANTINED_CHARACTERS)}
                    bad.write(canonical_json(shown) + b"\n")
                    counts["quarantined"] += 1
                    reasons[reason if reason in reasons or len(reasons) < MOST_REASONS else "other reasons"] += 1
                    if len(first_bad) < 3:
                        first_bad.append(f"{label}:{record.line} ({reason})")
                files.append({"source": label, **{name: counts[name] for name in (*KINDS, "quarantined")}, "schemas": dict(found)})
    totals = {name: sum(file[name] for file in files) for name in (*KINDS, "quarantined")}
    return {**totals, "reasons": dict(reasons), "files": files}, first_bad


def _refuse_bad(report: dict, first_bad: list[str], data: Data) -> None:
    good, bad = sum(report[kind] for kind in KINDS), report["quarantined"]
    if not good and not bad:
        raise BadInput(f"There are no rows in {', '.join(data.sources)}. Give at least one file with rows.")
    share = bad / (good + bad)
    if not good or share > data.max_bad_share:
        raise BadInput(
            f"{bad:,} of {good + bad:,} rows ({share:.1%}) cannot be used; data.max_bad_share allows {data.max_bad_share:.1%}. "
            f"The first: {'; '.join(first_bad)}. Mend the source, or name its columns in data.columns."
        )


def _shown(text: str, characters: int) -> str:
    return text[:characters].encode("utf-8", "replace").decode()
