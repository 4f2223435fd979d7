"""Read the sources, validate every row, put bad ones aside with line and reason, and mirror the base model into the store."""

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from tunegate import rows
from tunegate.digests import canonical_json, sha256_file, write_atomic
from tunegate.errors import BadInput
from tunegate.ingest import schemas, sources
from tunegate.ingest.base_model import mirror, model_files
from tunegate.recipe import Data
from tunegate.store import Store

QUARANTINED_CHARACTERS = 500


def ingest_step(config: dict, inputs, output: Path):
    """Write rows/ and give the reference of the mirrored base model as `base`."""
    from tunegate.steps import Result

    base = mirror(config["base_model"], inputs.store)
    report = ingest(Data(**config["data"]), output, inputs.store)
    metrics = {"rows_read": float(report["rows"]), "rows_quarantined": float(report["quarantined"]), "files": float(len(report["files"]))}
    files = f"{len(report['files'])} file{'s' if len(report['files']) > 1 else ''}"
    line = f"{report['rows']:,} rows from {files}, {report['quarantined']:,} quarantined"
    return Result(report, {"base": base}, metrics, line)


def ingest(data: Data, output: Path, store: Store | None = None) -> dict:
    """Read all sources into output/rows: rows.jsonl, quarantine.jsonl and ingest.json, which is returned.

    Args:
        store: where `store:` sources are; not needed for others.

    Raises:
        BadInput: a source is missing or not readable, too many rows are bad, or there are none; nothing is written then.
        Unavailable: a source could not be reached.
    """
    schemas.refuse_unknown_columns(data.columns)
    directory = Path(output) / "rows"
    partial = directory.with_name(".rows.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        report, first_bad = _read_all(data, partial, store)
        _refuse_bad(report, first_bad, data)
        report["digest"] = sha256_file(partial / "rows.jsonl")
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
    with (
        open(directory / "rows.jsonl", "wb") as good,
        open(directory / "quarantine.jsonl", "wb") as bad,
        tempfile.TemporaryDirectory(prefix="tunegate-ingest-", dir=os.environ.get("TUNEGATE_SCRATCH")) as scratch,
    ):
        for source in data.sources:
            for label, records in sources.open_source(source, store, Path(scratch)):
                found = {"source": label, "rows": 0, "quarantined": 0, "schemas": Counter()}
                for record in records:
                    row, schema, reason = _row(record, label, data.columns)
                    if not reason:
                        good.write(canonical_json(row) + b"\n")
                        found["rows"] += 1
                        found["schemas"][schema] += 1
                        continue
                    bad.write(canonical_json({"source": label, "line": record.line, "reason": reason, "text": _shown(record.text)}) + b"\n")
                    found["quarantined"] += 1
                    reasons[reason] += 1
                    if len(first_bad) < 3:
                        first_bad.append(f"{label}:{record.line} ({reason})")
                files.append({**found, "schemas": dict(found["schemas"])})
    report = {
        "rows": sum(file["rows"] for file in files), "quarantined": sum(file["quarantined"] for file in files),
        "reasons": dict(reasons), "files": files,
    }  # fmt: skip
    return report, first_bad


def _row(record, label: str, columns: dict[str, str]) -> tuple[dict | None, str, str]:
    """Make a row of a record: the row and its schema, or the reason why there is none."""
    if record.fault:
        return None, "", record.fault
    messages, task_type, schema, fault = schemas.recognise(record.value, columns)
    if fault := fault or rows.problem(messages):
        return None, schema, fault
    return rows.make_row(messages, task_type, label), schema, ""


def _refuse_bad(report: dict, first_bad: list[str], data: Data) -> None:
    good, bad = report["rows"], report["quarantined"]
    if not good and not bad:
        raise BadInput(f"There are no rows in {', '.join(data.sources)}. Give at least one file with rows.")
    share = bad / (good + bad)
    if not good or share > data.max_bad_share:
        raise BadInput(
            f"{bad:,} of {good + bad:,} rows ({share:.1%}) cannot be used; data.max_bad_share allows {data.max_bad_share:.1%}. "
            f"The first: {'; '.join(first_bad)}. Mend the source, or name its columns in data.columns."
        )


def _shown(text: str) -> str:
    return text[:QUARANTINED_CHARACTERS].encode("utf-8", "replace").decode()
