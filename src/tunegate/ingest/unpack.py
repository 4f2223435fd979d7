"""Read gzip and Zstandard files as they unpack, with bounds on memory, on what comes out, and on how much out of how little.

What was unpacked before a file breaks off is given; then Broken says why there is no more.
"""

import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_RATIO = 250  # JSON lines of one template reach about 60 with Zstandard; gzip cannot pass 1,032; arbitrary between
RATIO_FROM_BYTES = 64 * 2**20  # unpacked; below, a high ratio does no harm
# One call gives all that its input unpacks to: in Zstandard at most 128 KiB from each 4 bytes (RFC 8878, 3.1.1.2), so 32 MiB;
# and all that the input would have given is lost when an error is found in it.
INPUT_BYTES = 1024
SUFFIXES = (".gz", ".zst")
BUFFER_BYTES = 2**20


class Broken(Exception):
    """The rest of a file cannot be read; the text says why."""


@contextmanager
def open_plain(path: Path, name: str, max_unpacked: int) -> Iterator[io.BufferedReader]:
    """Open a file for reading, unpacked where its name says that it is packed.

    Args:
        max_unpacked: bytes, of a packed file alone.
    """
    suffix = Path(name.lower()).suffix
    with open(path, "rb", buffering=BUFFER_BYTES) as file:
        if suffix not in SUFFIXES:
            yield file
        else:
            with io.BufferedReader(_Unpacked(file, suffix, max_unpacked), BUFFER_BYTES) as plain:
                yield plain


@contextmanager
def unpacked_file(file: io.BufferedReader) -> Iterator[io.BufferedReader]:
    """Copy to disk what is being unpacked, for readers that must jump about in it."""
    with tempfile.TemporaryFile(prefix="tunegate-unpacked-", dir=os.environ.get("TUNEGATE_SCRATCH")) as copy:
        shutil.copyfileobj(file, copy, BUFFER_BYTES)
        copy.seek(0)
        yield copy


class _Unpacked(io.RawIOBase):
    def __init__(self, file: io.BufferedReader, suffix: str, max_unpacked: int):
        import zstandard

        zstd = zstandard.ZstdDecompressor()
        self.new_part = zstd.decompressobj if suffix == ".zst" else lambda: zlib.decompressobj(wbits=31)
        self.errors = (zlib.error, zstandard.ZstdError)
        self.file, self.max_unpacked = file, max_unpacked
        self.part, self.packed, self.unpacked, self.ready, self.broken = None, 0, 0, memoryview(b""), ""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.ready:
            if self.broken:  # only now, so that what came before is given
                raise Broken(self.broken)
            piece = self.file.read(INPUT_BYTES)
            if piece:
                self._unpack(piece)
            elif self.part is None:
                return 0
            else:
                self.broken = "it breaks off in the middle: it was not copied in whole"
        given = min(len(buffer), len(self.ready))
        buffer[:given], self.ready = self.ready[:given], self.ready[given:]
        return given

    def _unpack(self, piece: bytes) -> None:
        self.packed += len(piece)
        made = []
        while piece and not self.broken:  # a file may be several packed parts, one after the other
            self.part = self.part or self.new_part()
            try:
                made.append(self.part.decompress(piece))
            except self.errors as error:
                self.broken = f"it cannot be decompressed: {error}"
            else:
                piece = self.part.unused_data if self.part.eof else b""
                self.part = None if self.part.eof else self.part
        self.ready = memoryview(b"".join(made))
        self.unpacked += len(self.ready)
        if self.unpacked > self.max_unpacked:
            self.broken = f"it unpacks to more than {self.max_unpacked / 2**30:g} GiB; data.max_unpacked_gib allows no more"
        elif self.unpacked > RATIO_FROM_BYTES and self.unpacked > MAX_RATIO * self.packed:
            self.broken = f"it unpacks to more than {MAX_RATIO} times its size, as a decompression bomb does"
