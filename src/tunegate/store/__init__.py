"""The store: immutable, content-addressed objects and small documents, in a directory or in an S3 bucket.

    objects/<name>/<digest>/…           files of one object, and MANIFEST.json with the sha256 of each
    index/<step>/<key>.json             which references a step gave for a key
    runs/<run id>/<step>.json           what happened in a run
    ledger/<sha256>/<number>.json       which candidates were measured on a sealed test

A reference is `name/digest`; the digest is the sha256 of the canonical JSON {relative path: sha256}. The manifest becomes
visible last, so readers see all of an object or nothing, and every file is checked against it before it is used.
"""

from tunegate.errors import BadInput
from tunegate.store.base import MANIFEST, Store
from tunegate.store.directory import DirectoryStore
from tunegate.store.s3 import S3Store

__all__ = ["MANIFEST", "DirectoryStore", "S3Store", "Store", "open_store"]


def open_store(uri: str) -> Store:
    """Open the store at a directory or at s3://bucket/prefix; nothing is read or written yet.

    Raises:
        BadInput: the address is neither.
    """
    if uri.startswith("s3://"):
        return S3Store(uri)
    if not uri or "://" in uri:
        raise BadInput(f"'{uri}' is not a store. Give a directory, or s3://bucket/prefix.")
    return DirectoryStore(uri)
