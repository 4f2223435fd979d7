"""Find the files that suites name, and bring them to this machine."""

from collections.abc import Callable
from pathlib import Path

from tunegate import digests, recipe
from tunegate.errors import BadInput
from tunegate.local_file import local_file
from tunegate.store import Store

KEYS = ("include_path", "harmful", "benign", "rows")  # of any kind of suite; all but the first name a file
DIRECTORY = "include_path"


def named(suite: recipe.Suite) -> dict[str, str]:
    """Give the paths and addresses that a suite names, by key."""
    return {key: value for key in KEYS if (value := getattr(suite, key, None))}


def is_address(path: str) -> bool:
    return "://" in path or path.startswith("store:")


def map_files(settings: recipe.Evaluate, change: Callable[[str, str], str]) -> recipe.Evaluate:
    """Let suites name other files: `change(key, address)` gives the new address."""
    suites = [suite.model_copy(update={key: change(key, path) for key, path in named(suite).items()}) for suite in settings.suites]
    return settings.model_copy(update={"suites": suites})


def with_local_files(settings: recipe.Evaluate, store: Store | None, scratch: Path) -> recipe.Evaluate:
    """Let suites name files of this machine where they name others.

    Raises:
        BadInput: a directory is neither here nor in the store.
    """

    def brought(key: str, address: str) -> str:
        if not is_address(address):
            return address
        if key != DIRECTORY:
            # Two suites may name files under one key; the name that the download gets must be its own.
            return str(local_file(address, f"{key}-{digests.digest_json(address)[:12]}", store, scratch))
        if address.startswith("store:") and store is not None:
            return str(store.get(address.removeprefix("store:")))
        raise BadInput(f"{key} is {address}; it can be a directory, or store:<ref> of one. Bring it to one of them.")

    return map_files(settings, brought)
