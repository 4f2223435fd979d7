"""What the directory store and the S3 store share: references, manifests, verification, and what steps remember."""

import json
import os
import re
from abc import ABC, abstractmethod
from pathlib import Path

from tunegate.digests import canonical_json, digest_json, sha256_file
from tunegate.errors import BadInput, Refused

MANIFEST = "MANIFEST.json"
REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[0-9a-f]{64}")

_verified: dict[tuple[str, str], Path] = {}  # per process: hashing an 8B model takes half a minute


class Store(ABC):
    """A place of objects and documents. `uri` is the address that `open_store` takes."""

    def __init__(self, uri: str):
        self.uri = uri

    def put(self, name: str, directory: Path | str) -> str:
        """Store the files below `directory` and return their reference; a second put of the same bytes writes nothing.

        A MANIFEST.json at the top is left out: it is that of the object these files were read from.
        """
        directory = Path(directory)
        manifest = read_directory(directory)
        ref = checked_ref(f"{name}/{digest_of(manifest)}")
        if not self.has(ref):
            self._publish(ref, directory, manifest)
        return ref

    def get(self, ref: str) -> Path:
        """Give a directory with the object's files, each checked against the manifest. Treat it as read-only.

        Raises:
            BadInput: there is no such object.
            Refused: a file is not the one that was stored.
        """
        known = _verified.get((self.uri, checked_ref(ref)))
        if known is None or not (known / MANIFEST).is_file():
            known = _verified[self.uri, ref] = self._fetch(ref)
        return known

    def manifest(self, ref: str) -> dict:
        """Give an object's manifest, {"files": {path: {"bytes", "sha256"}}}, without its files.

        Raises:
            BadInput: there is no such object.
            Refused: the manifest is not about it.
        """
        path = f"objects/{checked_ref(ref)}/{MANIFEST}"
        data = self._read(path)
        if data is None:
            raise BadInput(f"The store {self.uri} has no object {ref}. It was removed, or it is in another store.")
        return parse_manifest(data, ref, f"{self.uri}/{path}")

    def remove(self, ref: str) -> None:
        """Take an object away, whole or damaged: its manifest first, so that no reader takes the rest for it."""
        self._remove(checked_ref(ref))
        _verified.pop((self.uri, ref), None)

    def remember(self, step: str, key: str, document: dict) -> None:
        """Note what `step` gave for `key`, so that it need not be done again."""
        self.write_json(f"index/{step}/{key}.json", document)

    def recall(self, step: str, key: str) -> dict | None:
        """Give what was remembered, unless any object it refers to is gone."""
        document = self.read_json(f"index/{step}/{key}.json")
        if document is None or not all(self.has(ref) for ref in document["refs"].values()):
            return None
        return document

    def write_json(self, path: str, value) -> None:
        """Write a small document, over an earlier one."""
        self._write(checked_path(path), canonical_json(value))

    def create_json(self, path: str, value) -> bool:
        """Write a small document where there is none, and say whether it was; of writers at the same moment, one is told True."""
        return self._create(checked_path(path), canonical_json(value))

    def read_json(self, path: str) -> dict | None:
        """Read a small document; None where there is none."""
        data = self._read(checked_path(path))
        return None if data is None else json.loads(data)

    @abstractmethod
    def has(self, ref: str) -> bool:
        """Say whether the object is there in whole."""

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Give the sorted paths of all files below `folder`, relative to the store."""

    @abstractmethod
    def _publish(self, ref: str, directory: Path, manifest: dict) -> None: ...

    @abstractmethod
    def _fetch(self, ref: str) -> Path: ...

    @abstractmethod
    def _remove(self, ref: str) -> None: ...

    @abstractmethod
    def _read(self, path: str) -> bytes | None: ...

    @abstractmethod
    def _write(self, path: str, data: bytes) -> None: ...

    @abstractmethod
    def _create(self, path: str, data: bytes) -> bool: ...


def read_directory(directory: Path) -> dict:
    """Make the manifest of a directory: {"files": {relative path: {"bytes", "sha256"}}}. Links to files are read through."""
    files = {}
    for place, folders, names in os.walk(directory):
        for folder in folders:
            if (Path(place) / folder).is_symlink():
                raise BadInput(f"{place}/{folder} is a link to a directory, which a store cannot hold. Copy the directory there.")
        for name in names:
            path = Path(place) / name
            relative = path.relative_to(directory).as_posix()
            if relative == MANIFEST:
                continue
            if not path.is_file():
                raise BadInput(f"{path} is not a file that can be read. Remove it, or mend the link.")
            files[relative] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    if not files:
        raise BadInput(f"There are no files in {directory} to store.")
    return {"files": dict(sorted(files.items()))}


def digest_of(manifest: dict) -> str:
    return digest_json({path: entry["sha256"] for path, entry in manifest["files"].items()})


def parse_manifest(data: bytes, ref: str, place: str) -> dict:
    """Read a manifest and refuse one that is not about `ref`."""
    try:
        manifest = json.loads(data)
        if digest_of(manifest) == ref.rpartition("/")[2]:
            return manifest
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # not a manifest at all; the same sentence fits
    raise Refused(f"The manifest {place} was changed after it was written: it is not about {ref}. Remove the object and run again.")


def verify(directory: Path, manifest: dict, place: str) -> None:
    """Refuse a directory that holds other files, or other bytes, than its manifest says."""
    advice = f"Remove {place} and run again; what made it is then repeated."
    for relative, entry in manifest["files"].items():
        path = directory / relative
        if not path.is_file():
            raise Refused(f"{place}/{relative} is missing, though its manifest names it. {advice}")
        if sha256_file(path) != entry["sha256"]:
            raise Refused(f"{place}/{relative} was changed after it was stored: its sha256 is not that of the manifest. {advice}")
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    if extra := sorted(found - set(manifest["files"]) - {MANIFEST}):
        raise Refused(f"{place}/{extra[0]} was added after the object was stored. {advice}")


def checked_ref(ref: str) -> str:
    if not isinstance(ref, str) or not REF.fullmatch(ref):
        raise BadInput(f"'{ref}' is not a reference. References look like name/ and the 64 hexadecimal digits of a sha256.")
    return ref


def checked_path(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise BadInput(f"'{path}' is not a path inside a store.")
    return path
