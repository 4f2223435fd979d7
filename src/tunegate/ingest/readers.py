"""Read the records of one file, one at a time: JSONL, JSON, Parquet, CSV or TSV, each perhaps in gzip or Zstandard.

What cannot be read becomes a record with its fault: one line or element, or all that is left where a file breaks off. No
more is held than one record of MAX_LINE_BYTES, a megabyte or two of buffers, and of Parquet some pages and BATCH_BYTES.

Not covered: Parquet whose pages unpack to far more than its footer says.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tunegate.errors import BadInput
from tunegate.ingest.decode import decode
from tunegate.ingest.json_list import split_list
from tunegate.ingest.unpack import Broken, open_plain, unpacked_file

MAX_LINE_BYTES = 8 * 2**20  # a conversation of a million tokens is half of this
COMPRESSIONS = (".gz", ".zst")
TEXT_BYTES = 2000  # 500 characters of any script
MAX_UNPACKED_BYTES = 100 * 2**30  # as the recipe's data.max_unpacked_gib
MAX_GROUP_BYTES = 4 * 2**30  # of a Parquet row group, unpacked; pyarrow and Spark write 128 MiB to 1 GiB
BATCH_ROWS, BATCH_BYTES = 64, 128 * 2**20  # of Parquet decoded at once; pyarrow needs up to four times as much for it
BOM = b"\xef\xbb\xbf"


class Record(NamedTuple):
    """One record: where it is, what it says, its bytes where it has some, and why it could not be read, if so."""

    line: int
    value: object = None
    raw: bytes = b""
    fault: str = ""

    @property
    def text(self) -> str:
        """Give the beginning of the record, for people."""
        if self.raw or self.value is None:
            return self.raw[:TEXT_BYTES].decode("utf-8", "replace").strip()
        return json.dumps(self.value, ensure_ascii=False, default=str)[:TEXT_BYTES]


def form(name: str) -> str:
    """Give the form that a file name tells, such as ".jsonl"; empty when it tells none."""
    path = Path(name.lower())
    if path.suffix in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix if path.suffix in READERS else ""


def read_file(path: Path, name: str, max_unpacked: int = MAX_UNPACKED_BYTES) -> Iterator[Record]:
    """Read the records of `path`, whose form `name` tells.

    Args:
        max_unpacked: bytes that a packed file may unpack to.

    Raises:
        BadInput: the form is unknown.
    """
    kind = form(name)
    if not kind:
        raise BadInput(f"{name} has no known form. Known are {', '.join(READERS)}, each also with {' or '.join(COMPRESSIONS)}.")
    if not path.stat().st_size:
        yield Record(1, fault="the file is empty")
        return
    last = 0
    try:
        with open_plain(path, name, max_unpacked) as file:
            for record in READERS[kind](file, name):
                last = record.line
                yield record
    except Broken as error:
        yield Record(last + 1, fault=f"the file cannot be read from here on: {error}")


def _jsonl(file, name: str) -> Iterator[Record]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            start = line[:TEXT_BYTES]
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            yield Record(number, raw=start, fault=f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB")
        elif not line.isspace():
            yield _decoded(number, line.removeprefix(BOM) if number == 1 else line)


def _decoded(number: int, data: bytes) -> Record:
    value, fault = decode(data)
    return Record(number, value, data, fault)


def _json(file, name: str) -> Iterator[Record]:
    """Read a list of records, or, where the file does not begin like one, JSON lines, which many name .json too."""
    beginning = file.peek(TEXT_BYTES)
    rest = beginning.removeprefix(BOM).lstrip()
    if not rest.startswith(b"["):
        yield from _jsonl(file, name)
        return
    file.read(len(beginning) - len(rest))
    for number, (element, whole) in enumerate(split_list(file, MAX_LINE_BYTES, TEXT_BYTES), 1):
        if whole:
            yield _decoded(number, element)
        else:
            yield Record(number, raw=element, fault=f"the element is longer than {MAX_LINE_BYTES // 2**20} MiB")


def _parquet(file, name: str) -> Iterator[Record]:
    if Path(name).suffix.lower() in COMPRESSIONS:
        with unpacked_file(file) as copy:  # Parquet is read from its end
            yield from _parquet(copy, "")
        return
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for group in range(table.num_row_groups):
                if (unpacked := table.metadata.row_group(group).total_byte_size) > MAX_GROUP_BYTES:
                    raise Broken(f"a row group unpacks to {unpacked / 2**30:.1f} GiB; write smaller ones")
                # With a dictionary, which holds a value once, each row may decode to as much as the whole group unpacks to.
                most = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, unpacked)))
                for batch in table.iter_batches(most, row_groups=[group]):
                    for record in _batch(batch, number):
                        number = record.line
                        yield record
                    del batch  # before the next is decoded
    except (pyarrow.ArrowException, OSError, RecursionError) as error:
        raise Broken(f"it is not Parquet that can be read: {' '.join(str(error).split())[:200]}") from None


def _batch(batch, number: int) -> Iterator[Record]:
    if batch.nbytes <= MAX_LINE_BYTES:
        for place, value in enumerate(batch.to_pylist(), number + 1):
            yield Record(place, value)
        return
    for place in range(batch.num_rows):
        one = batch.slice(place, 1)
        if one.nbytes > MAX_LINE_BYTES:
            yield Record(number + place + 1, fault=f"the row is longer than {MAX_LINE_BYTES // 2**20} MiB")
        else:
            yield Record(number + place + 1, one.to_pylist()[0])


class _Lines:
    """The lines of a table, for csv.reader, which goes on after the exception of a row that is too long."""

    def __init__(self, text: io.TextIOWrapper):
        self.text = text
        self.number = 0
        self.characters = 0  # of the row that is being read, which a line break in quotes continues

    def __iter__(self):
        return self

    def __next__(self) -> str:
        line = self.text.readline(MAX_LINE_BYTES + 1)
        self.number += 1
        self.characters += len(line)
        if self.characters > MAX_LINE_BYTES:
            while line and line[-1] not in "\r\n":
                line = self.text.readline(MAX_LINE_BYTES)
            raise csv.Error(f"it is longer than {MAX_LINE_BYTES // 2**20} MiB")
        if not line:
            raise StopIteration
        return line


def _table(delimiter: str):
    def read(file, name: str) -> Iterator[Record]:
        csv.field_size_limit(MAX_LINE_BYTES)
        # Bytes that are not UTF-8 become lone surrogates, which no valid row holds.
        with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            lines = _Lines(text)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            header: list[str] = []
            while True:
                lines.characters = 0
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    if not header:
                        raise Broken(f"its header cannot be read: {error}") from None
                    yield Record(lines.number, fault=f"not a row of the table: {error}")
                    continue
                if not fields:
                    continue
                if not header:
                    header = fields
                    if twice := next((repr(column) for column in header if column and header.count(column) > 1), ""):
                        raise Broken(f"its header has the column {twice} twice")
                    continue
                value, fault = dict(zip(header, fields, strict=False)), ""
                if len(fields) != len(header):
                    fault = f"the row has {'more' if len(fields) > len(header) else 'fewer'} fields than the header"
                    value |= {"…": fields[len(header) :]} if len(fields) > len(header) else {}
                yield Record(lines.number, value, fault=fault)

    return read


READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _table(","), ".tsv": _table("\t")}
