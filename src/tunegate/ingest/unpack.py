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
# One call gives all that its input unpacks to: at most 1,032 times as much in gzip (zlib's technical notes), and 128 KiB from
# each 4 bytes in Zstandard (RFC 8878, 3.1.1.2). Either is at most 32 MiB.
INPUT_BYTES = {".gz": 16 * 2**10, ".zst": 2**10}
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
        if suffix not in INPUT_BYTES:
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
        self.file, self.input_bytes, self.max_unpacked = file, INPUT_BYTES[suffix], max_unpacked
        self.part, self.packed, self.unpacked, self.ready = None, 0, 0, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.ready:
            piece = self.file.read(self.input_bytes)
            if not piece:
                if self.part is not None:
                    raise Broken("it breaks off in the middle: it was not copied in whole")
                return 0
            self.packed += len(piece)
            self.ready = memoryview(self._unpack(piece))
        given = min(len(buffer), len(self.ready))
        buffer[:given], self.ready = self.ready[:given], self.ready[given:]
        return given

    def _unpack(self, piece: bytes) -> bytes:
        made = []
        while piece:  # a file may be several packed parts, one after the other
            self.part = self.part or self.new_part()
            try:
                made.append(self.part.decompress(piece))
            except self.errors as error:
                raise Broken(f"it cannot be decompressed: {error}") from None
            piece = self.part.unused_data if self.part.eof else b""
            self.part = None if self.part.eof else self.part
        self.unpacked += sum(map(len, made))
        if self.unpacked > self.max_unpacked:
            raise Broken(f"it unpacks to more than {self.max_unpacked / 2**30:g} GiB; data.max_unpacked_gib allows no more")
        if self.unpacked > RATIO_FROM_BYTES and self.unpacked > MAX_RATIO * self.packed:
            raise Broken(f"it unpacks to more than {MAX_RATIO} times its size, as a decompression bomb does")
        return b"".join(made)
