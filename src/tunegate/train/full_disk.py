"""Tell a full disk from other failures to write: Python, safetensors and PyTorch each say it in their own way."""

import errno
import os
import shutil
import tempfile

# safetensors raises an error of its own with the system's words; torch.save only says that its writer failed.
WORDS = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing", "file write failed")
NOTHING_LEFT = 2**20  # bytes; with less than this a failed torch.save, whose words vary, is put down to the disk. Arbitrary


def full_disk(error: Exception) -> str:
    """Say that the scratch disk is full, and what to do, where that is what an error is about; else nothing."""
    scratch = os.environ.get("TUNEGATE_SCRATCH") or tempfile.gettempdir()
    free = shutil.disk_usage(scratch).free
    said = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) or any(words in str(error) for words in WORDS)
    if not (said or (isinstance(error, RuntimeError) and free < NOTHING_LEFT)):
        return ""
    remedy = "Free some space, or name another directory with TUNEGATE_SCRATCH."
    return f"The disk is full ({free / 2**20:,.1f} MiB are free in {scratch}). {remedy}"
