"""Bring one object of the store onto this machine: python -m tunegate.fetch STORE REFERENCE PATH.

The init container of a serving pod runs it. Every file is checked against the manifest before PATH, a link, appears.
"""

import sys
from pathlib import Path

from tunegate.errors import TunegateError
from tunegate.store import open_store


def fetch(store_uri: str, ref: str, path: Path) -> None:
    """Make `path` a link to the verified object."""
    found = open_store(store_uri).get(ref)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(found)


if __name__ == "__main__":
    try:
        fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    except TunegateError as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
