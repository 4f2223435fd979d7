"""Compile loops with numba at their first use and keep the machine code on disk, also where the package is read-only.

It is kept beside the source, or else in a directory of the user's own under the temporary one. NUMBA_CACHE_DIR overrides both.
"""

import os
import tempfile
from pathlib import Path


def _cache_directory() -> str:
    """Give a directory into which nobody else can have put code: what is in it is unpickled, and so can run anything."""
    directory = Path(tempfile.gettempdir()) / f"tunegate-numba-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if found.st_uid == os.getuid() and not found.st_mode & 0o022 and not directory.is_symlink():
        return str(directory)
    return tempfile.mkdtemp(prefix="tunegate-numba-")


if not os.access(Path(__file__).parent, os.W_OK):
    os.environ.setdefault("NUMBA_CACHE_DIR", _cache_directory())  # numba reads it when it is imported

from numba import njit  # noqa: E402

compiled = njit(cache=True, nogil=True)
