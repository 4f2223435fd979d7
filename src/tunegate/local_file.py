"""Bring a file that a recipe names, wherever it is, to this machine."""

import contextlib
import json
from pathlib import Path

from tunegate import rows
from tunegate.errors import BadInput
from tunegate.store import MANIFEST, Store, s3


def local_file(address: str, key: str, store: Store | None, scratch: Path) -> Path:
    """Give the path of a file named by a path, by `store:<ref>` of one file, or by s3://.

    Args:
        key: what the recipe calls it, for the sentence of an error.
        scratch: where a downloaded file may stay as long as it is read.
    """
    if address.startswith("store:") and store is not None:
        files = [path for path in store.get(address.removeprefix("store:")).iterdir() if path.is_file() and path.name != MANIFEST]
        if len(files) != 1:
            raise BadInput(f"{key} is {address}, an object with {len(files)} files; it must hold one JSONL file.")
        return files[0]
    if address.startswith("s3://"):
        here = scratch / f"{key}.jsonl"
        bucket, name = s3.split_address(address)
        with contextlib.closing(s3.s3_client()) as client, s3.explained(address):
            s3.download(client, bucket, name, here)
        return here
    if "://" in address or address.startswith("store:"):
        raise BadInput(f"{key} is {address}; it can be a file, s3:// or store:<ref>. Bring it to one of them.")
    return Path(address)


def with_local_file(section, key: str, store: Store, scratch: Path):
    """Let a section of a recipe name a file of this machine where it names another."""
    address = getattr(section, key)
    return section.model_copy(update={key: str(local_file(address, key, store, scratch))}) if address else section


def read_field(path: Path, field: str) -> list[str]:
    """Read one text field of a JSONL file; texts that occur twice are read once."""
    if not path.is_file():
        raise BadInput(f'There is no {path}. It must be a JSONL file of {{"{field}": …}}.')
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            texts.append(json.loads(line)[field])
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{path}, line {number}: not a JSON object with a '{field}'. Mend or remove the line.") from None
        if not isinstance(texts[-1], str) or not texts[-1].strip():
            raise BadInput(f"{path}, line {number}: '{field}' is empty or not text. Mend or remove the line.")
    if not texts:
        raise BadInput(f'{path} has no lines. It must be a JSONL file of {{"{field}": …}}.')
    return list(dict.fromkeys(texts))


def read_texts(path: Path) -> list[str]:
    """Read a JSONL file of rows or of {"text"}: of a row, its similarity text."""
    found = []
    for number, line in enumerate(rows.read_json_lines(path), 1):
        if isinstance(line.get("text"), str):
            found.append(line["text"])
        elif isinstance(line.get("messages"), list) and not rows.problem(line["messages"]):
            found.append(rows.similarity_text(line))
        else:
            raise BadInput(f"{path}: object {number} has neither a text nor messages that end in an answer. Correct or remove it.")
    return found
