"""A store in a directory. Objects are filled under partial/ and appear under objects/ by one rename."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from tunegate.digests import canonical_json, sha256_file, write_atomic
from tunegate.errors import BadInput, Refused, Unavailable
from tunegate.store.base import MANIFEST, Store, parse_manifest, verify


class DirectoryStore(Store):
    def __init__(self, uri: str):
        super().__init__(uri)
        self.root = Path(uri).expanduser().absolute()

    def place(self, ref: str) -> Path:
        return self.root / "objects" / ref

    def has(self, ref: str) -> bool:
        return (self.place(ref) / MANIFEST).is_file()

    def list(self, folder: str) -> list[str]:
        return sorted(path.relative_to(self.root).as_posix() for path in (self.root / folder).rglob("*") if path.is_file())

    @contextlib.contextmanager
    def new_object(self, ref: str, manifest: dict) -> Iterator[Path]:
        """Give an empty directory to fill; on leaving without an error, the object becomes visible in whole."""
        needed = sum(entry["bytes"] for entry in manifest["files"].values())
        partial = self.root / "partial" / uuid.uuid4().hex
        with self.writing(needed):
            try:
                partial.mkdir(parents=True)
                if self._free() < needed:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                yield partial
                write_atomic(partial / MANIFEST, canonical_json(manifest))
                self._show(partial, self.place(ref))
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def _show(self, partial: Path, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir() and not (place / MANIFEST).is_file():
            shutil.rmtree(place)  # someone removed its manifest: the rest is not an object
        try:
            os.rename(partial, place)
        except OSError as error:
            # A writer of the same bytes was first: rename does not replace a directory that holds files.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def _publish(self, ref: str, directory: Path, manifest: dict) -> None:
        with self.new_object(ref, manifest) as partial:
            for relative, entry in manifest["files"].items():
                copy = partial / relative
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy_to_disk(directory / relative, copy)
                if sha256_file(copy) != entry["sha256"]:
                    raise Refused(f"{directory / relative} changed while it was being stored. Let nothing write there, and run again.")

    def _fetch(self, ref: str) -> Path:
        place = self.place(ref)
        if not self.has(ref):
            raise BadInput(f"The store {self.uri} has no object {ref}. It was removed, or it is in another store.")
        verify(place, parse_manifest((place / MANIFEST).read_bytes(), ref, f"{place}/{MANIFEST}"), str(place))
        return place

    def _remove(self, ref: str) -> None:
        with self.writing(0):
            (self.place(ref) / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.place(ref), ignore_errors=True)

    def _read(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _write(self, path: str, data: bytes) -> None:
        with self.writing(len(data)):
            write_atomic(self.root / path, data)

    def _create(self, path: str, data: bytes) -> bool:
        target, partial = self.root / path, self.root / "partial" / uuid.uuid4().hex
        with self.writing(len(data)):
            try:
                write_atomic(partial, data)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(partial, target)  # unlike a rename it replaces nothing, and readers see the whole document
                return True
            except FileExistsError:
                if target.is_file():
                    return False
                raise
            finally:
                partial.unlink(missing_ok=True)

    def _free(self) -> int:
        place = self.root
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    @contextlib.contextmanager
    def writing(self, needed: int) -> Iterator[None]:
        """Turn a disk that is full (for `needed` bytes), or closed to us, into a sentence."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Unavailable(
                    f"The disk of the store {self.uri} is full (needs {needed / 2**20:,.1f} MiB, {self._free() / 2**20:,.1f} MiB free). "
                    "Free some space, or set `store` to another disk."
                ) from None
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
                raise Unavailable(f"The store {self.uri} cannot be written: {error.strerror}. Set `store` to one you own.") from None
            raise


def copy_to_disk(source: Path, target: Path) -> None:
    """Copy a file's bytes and wait until the disk has them: the rename that shows them must not outlive them in a power cut."""
    shutil.copyfile(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
