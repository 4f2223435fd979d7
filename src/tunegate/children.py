"""Start a child process that never outlives this one, whatever death this one dies."""

import contextlib
import os
import signal
import subprocess
import sys

# A process between this one and the child. Its standard input is a pipe that only this process holds open, so it ends when
# this process does, by whatever death; the group is then asked to end, and killed some seconds later. (The kernel's own
# parent-death signal is not enough: vLLM loses a SIGTERM that comes while it starts, and its workers would outlive a SIGKILL.)
WARDEN = """
import os, signal, subprocess, sys, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def watch():
    os.read(0, 1)
    os.killpg(0, signal.SIGTERM)
    time.sleep(float(sys.argv[1]))
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
restore = lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL)
code = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, preexec_fn=restore).wait()
sys.exit(code if code >= 0 else 128 - code)
"""


def start(command: list[str], stop_seconds: float, **how) -> subprocess.Popen:
    """Start `command` in a process group of its own; a code of 128 + n says that signal n ended it.

    Args:
        stop_seconds: between asking the group to end and killing it, where this process dies without `stop`.
        how: stdout, stderr and env of subprocess.Popen.
    """
    return subprocess.Popen(
        [sys.executable, "-S", "-c", WARDEN, str(stop_seconds), *command], stdin=subprocess.PIPE, process_group=0, **how
    )


def ask_to_end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)


def stop(process: subprocess.Popen, seconds: float) -> None:
    """End the whole process group: politely, then by force. Workers that outlive the leader are killed too."""
    ask_to_end(process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
