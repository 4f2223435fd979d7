"""What people see of a run: the steps' own lines, each at once, and nothing of kfp."""

import io
import logging
import os
import subprocess
import sys

from tunegate.peak_memory import PeakMemory
from tunegate.runner import _StepLines, explain_failure, quiet_kfp, use_serving_environment
from tunegate.store import open_store

CHILD = """\
    [KFP Executor 2026-11-23 22:55:57,582 INFO]: Got executor_input:
    {
        "inputs": {}
    }
    [ 5/13] sft …
          sft: step 10 of 90
    [KFP Executor 2026-11-23 22:55:57,583 INFO]: Wrote executor output file.


----------------------------------------
"""


def test_only_the_steps_lines_pass():
    seen = io.StringIO()
    _StepLines(seen).write(CHILD)
    assert seen.getvalue() == "[ 5/13] sft …\n      sft: step 10 of 90\n"


def test_a_line_passes_as_soon_as_it_is_whole():
    seen = io.StringIO()
    stream = _StepLines(seen)
    stream.write("    ")
    stream.write("loss 1.2")
    assert seen.getvalue() == ""
    stream.write("3\n")
    assert seen.getvalue() == "loss 1.23\n"


def test_kfps_log_is_silent_and_comes_back(caplog):
    with quiet_kfp():
        logging.getLogger().error("Task finished")
    assert not caplog.records
    logging.getLogger().error("heard again")
    assert caplog.messages == ["heard again"]


def test_a_failure_without_a_record_keeps_kfps_first_line(tmp_path):
    error = RuntimeError("Pipeline \x1b[95m't'\x1b[0m finished with status FAILURE.\nmore")
    assert explain_failure(open_store(str(tmp_path)), "r1", error) == (1, "The run stopped: Pipeline 't' finished with status FAILURE")


def test_the_serving_environment_beside_this_one_is_used_unless_another_is_named(tmp_path, monkeypatch):
    python = tmp_path / ".venv-serve" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("TUNEGATE_SERVE_PYTHON", "/mine")
    use_serving_environment()
    assert os.environ["TUNEGATE_SERVE_PYTHON"] == "/mine"
    monkeypatch.delenv("TUNEGATE_SERVE_PYTHON")
    use_serving_environment()
    assert os.environ["TUNEGATE_SERVE_PYTHON"] == str(python)


def test_the_memory_of_a_child_counts():
    with PeakMemory().watching() as alone:
        pass
    code = "import time; held = b'x' * 2**28; time.sleep(3)"
    with PeakMemory().watching() as memory:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert alone.bytes > 0
    assert memory.bytes - alone.bytes > 2**27
