"""Read the records of one file, a line at a time: JSONL, JSON, Parquet, CSV or TSV, each perhaps in gzip or Zstandard.

A record that cannot be read is given with its fault; a file that cannot be read at all raises.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunegate.errors import BadInput

MAX_LINE_BYTES = 8 * 2**20  # a conversation of a million tokens is half of this
COMPRESSIONS = (".gz", ".zst")
TEXT_BYTES = 2000  # 500 characters of any script


@dataclass(frozen=True)
class Record:
    """One record: where it is, what it says, and, where it could not be read, the bytes there and why."""

    line: int
    value: object = None
    raw: bytes = b""
    fault: str = ""

    @property
    def text(self) -> str:
        """Give the beginning of the record, for people."""
        if self.fault and self.value is None:
            return self.raw[:TEXT_BYTES].decode("utf-8", "replace").strip()
        return json.dumps(self.value, ensure_ascii=False, default=str)[:TEXT_BYTES]


def form(name: str) -> str:
    """Give the form that a file name tells, such as ".jsonl"; empty when it tells none."""
    path = Path(name.lower())
    if path.suffix in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix if path.suffix in READERS else ""


def read_file(path: Path, name: str) -> Iterator[Record]:
    """Read the records of `path`, whose form `name` tells.

    Raises:
        BadInput: the form is unknown, the file breaks off, or it is not of the form.
    """
    kind = form(name)
    if not kind:
        raise BadInput(f"{name} has no known form. Known are {', '.join(READERS)}, each also with {' or '.join(COMPRESSIONS)}.")
    from zstandard import ZstdError

    try:
        with _open(path, name) as file:
            yield from READERS[kind](file, name)
    except (EOFError, gzip.BadGzipFile, zlib.error, ZstdError) as error:
        raise BadInput(f"{name} cannot be decompressed: {error}. It is damaged, or was not copied in whole.") from None


@contextmanager
def _open(path: Path, name: str):
    suffix = Path(name.lower()).suffix
    if suffix == ".gz":
        with gzip.open(path, "rb") as file:
            yield file
    elif suffix == ".zst":
        import zstandard

        with open(path, "rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as plain:
            yield io.BufferedReader(plain, 2**16)
    else:
        with open(path, "rb") as file:
            yield file


def _jsonl(file, name: str) -> Iterator[Record]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            start = line[:TEXT_BYTES]
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            yield Record(number, raw=start, fault=f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB")
        elif line.strip():
            yield _json_line(number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _json_line(number: int, line: bytes) -> Record:
    try:
        return Record(number, json.loads(line.decode("utf-8")))
    except UnicodeDecodeError:
        fault = "not UTF-8"
    except json.JSONDecodeError as error:
        fault = f"not JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError):
        fault = "not JSON that can be read: nested too deep, or a number of thousands of digits"
    return Record(number, raw=line, fault=fault)


def _json(file, name: str) -> Iterator[Record]:
    """Read a list of records, or, where the file does not begin like one, JSON lines, which many name .json too."""
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)
    if not buffered.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from _jsonl(buffered, name)
        return
    try:
        values = json.loads(buffered.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name} is not valid JSON: {error}. Mend it, or write one record a line (.jsonl).") from None
    for number, value in enumerate(values, 1):
        yield Record(number, value)


def _parquet(file, name: str) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        # Parquet is read from its end, so one inside gzip or Zstandard has to be unpacked whole.
        source = file if Path(name).suffix.lower() not in COMPRESSIONS else pyarrow.BufferReader(file.read())
        with pyarrow.parquet.ParquetFile(source) as table:
            for batch in table.iter_batches(batch_size=1000):
                for value in batch.to_pylist():
                    number += 1
                    yield Record(number, value)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{name} is not a Parquet file that can be read: {' '.join(str(error).split())}.") from None


def _table(delimiter: str):
    def read(file, name: str) -> Iterator[Record]:
        csv.field_size_limit(MAX_LINE_BYTES)
        # Bytes that are not UTF-8 become lone surrogates, which no valid row holds.
        with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            reader = csv.DictReader(text, delimiter=delimiter, strict=True)
            while True:
                try:
                    value = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield Record(reader.line_num, fault=f"not a row of the table: {error}")
                    continue
                if None in value:  # where DictReader puts what is left over
                    extra = value.pop(None)
                    yield Record(reader.line_num, value | {"…": extra}, fault="the row has more fields than the header")
                elif None in value.values():
                    yield Record(reader.line_num, value, fault="the row has fewer fields than the header")
                else:
                    yield Record(reader.line_num, value)

    return read


READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _table(","), ".tsv": _table("\t")}
