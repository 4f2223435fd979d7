"""Write down beside trained weights how they were trained: what the gate's preconditions read, and people who find an adapter alone.

Nothing in it depends on the machine or on time, so that the same training gives the same bytes. PEFT, transformers and vLLM
read the files that they know by name, and leave this one alone.
"""

import json
from pathlib import Path

from tunegate.digests import canonical_json, write_atomic

RECORD = "training.json"


def write_record(directory: Path, record: dict) -> None:
    """Write training.json: {"method", "examples", "steps", "stop_token_in_loss", …}, and under "preference" the same of prefer."""
    write_atomic(directory / RECORD, canonical_json(record))


def read_record(directory: Path) -> dict:
    """Read what was written beside trained weights; nothing where others than we trained them."""
    file = directory / RECORD
    return json.loads(file.read_bytes()) if file.is_file() else {}


def with_preference(before: dict, preference: dict) -> dict:
    """Add preference training to the record of the adapter that it began with.

    The share of examples that teach where to stop is the smaller of both: either training alone can unlearn it. It stays
    unknown where the first training left no record.
    """
    record = before | {"preference": preference}
    if "stop_token_in_loss" in before:
        record["stop_token_in_loss"] = min(before["stop_token_in_loss"], preference["stop_token_in_loss"])
    return record
