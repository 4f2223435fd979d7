"""One training that nothing interrupted: what all others must end with."""

import pytest
from training import Work, ask


@pytest.fixture(scope="session")
def uninterrupted(tiny_base, tmp_path_factory) -> Work:
    work = ask(str(tmp_path_factory.mktemp("whole")), "sft", tiny_base)
    assert work.finish() == 0
    return work
