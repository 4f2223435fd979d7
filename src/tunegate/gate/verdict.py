"""Turn per-item results into evidence, and a decision into a verdict: an in-toto statement whose bytes depend on nothing but its inputs.

There is no time and no run id in it, and rows are sorted before anything is summed: the same inputs give the same bytes,
so anybody who holds the evidence can make the verdict again and compare (`reverify`).
"""

import json
from pathlib import Path

import pandas as pd

from tunegate import digests
from tunegate.errors import BadInput, Refused
from tunegate.gate.policy import Policy
from tunegate.results import REAL, TEXT, WHOLE

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:tunegate:verdict:v1"
COLUMNS = [*TEXT, *WHOLE, *REAL]


class Unusable(BadInput):
    """The evidence cannot be judged; the sentence says why, and the decision is ERROR."""


def evidence(items) -> pd.DataFrame:
    """Bring results (list of dicts, pandas or Arrow table) into one order, columns and types; other columns are dropped.

    Raises:
        Unusable: a column is missing.
    """
    table = items if isinstance(items, pd.DataFrame) else items.to_pandas() if hasattr(items, "to_pandas") else pd.DataFrame(items)
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise Unusable(f"The results lack the column{'s' * (len(missing) > 1)} {', '.join(missing)}.")
    table = table[COLUMNS].copy()
    for name in TEXT:
        table[name] = table[name].astype(object).where(table[name].notna(), "").astype(str)
    for name in (*WHOLE, *REAL):
        table[name] = pd.to_numeric(table[name], errors="coerce").astype("float64")
    # every column is part of the order, so that equal keys cannot keep the order of the file
    return table.sort_values(COLUMNS, kind="stable", ignore_index=True)


def evidence_digest(table: pd.DataFrame) -> str:
    lines = (json.dumps(row, ensure_ascii=False) for row in table.itertuples(index=False, name=None))
    return digests.sha256("\n".join(lines).encode())


def write_evidence(table: pd.DataFrame, path: Path) -> None:
    """Write the evidence as Parquet; pandas' own notes are left out, they name library versions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None), path)


def statement(policy: Policy, facts: dict, decision: str, reasons: list[str], findings: dict, table: pd.DataFrame) -> dict:
    """Assemble the verdict from what was decided and why. Its subjects are what was judged, by reference, then every file of the model."""
    document = policy.model_dump(mode="json", exclude_none=True)
    subjects = [(name, digest) for name, _, digest in (ref.partition("/") for ref in facts["subject"])]
    subjects += sorted((facts.get("files") or {}).items())
    return _rounded({
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
        "predicateType": PREDICATE,
        "predicate": {
            "decision": decision,
            "policy": {"name": policy.name, "sha256": digests.digest_json(document), "document": document},
            "facts": facts,
            "evidence": {"rows": len(table), "sha256": evidence_digest(table)},
            **findings,
        },
        "decision": decision,
        "reasons": reasons,
    })  # fmt: skip


def canonical(verdict: dict) -> bytes:
    """Serialise a verdict the one way it is stored and compared."""
    return (json.dumps(verdict, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def reverify(verdict: dict, policy: Policy, items) -> None:
    """Make the verdict again from its policy, facts and evidence, and compare.

    Raises:
        Refused: the policy is another one, or the evidence does not lead to this verdict.
    """
    from tunegate.gate.decide import decide

    try:
        predicate = verdict["predicate"]
        facts, named = predicate["facts"], predicate["policy"]["sha256"]
    except (KeyError, TypeError):
        raise Refused("This is no verdict of the gate: it lacks the predicate with facts and policy. Run the gate again.") from None
    expected = digests.digest_json(policy.model_dump(mode="json", exclude_none=True))
    if named != expected:
        raise Refused(
            f"The verdict is stale, the policy changed: it was made under the policy {str(named)[:12]}, "
            f"but {expected[:12]} ({policy.name}) is in force. Run the gate again."
        )
    try:
        again = decide(policy, items, facts)
        same = canonical(again) == canonical(verdict)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Refused("The facts of the verdict are not such as the gate writes: it was changed. Run the gate again.") from None
    if not same:
        parts = sorted(key for key in again["predicate"].keys() | predicate.keys() if again["predicate"].get(key) != predicate.get(key))
        parts += [key for key in ("decision", "reasons", "subject") if again[key] != verdict.get(key)]
        raise Refused(
            f"The verdict says {verdict.get('decision')}, but its evidence gives {again['decision']}; what differs: "
            f"{', '.join(parts) or 'a field outside the predicate'}. It or its evidence was changed. Run the gate again."
        )


def _rounded(value):
    """Keep nine significant digits: the last bits of a sum depend on the processor's vector width."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
