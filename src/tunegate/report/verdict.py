"""Show a verdict: one screen of text, and one page beside verdict.json."""

import json
from pathlib import Path

from tunegate.digests import write_atomic
from tunegate.errors import BadInput
from tunegate.gate.measures import before_after
from tunegate.report import parts
from tunegate.report.answers import ONLY_DIFFERENT
from tunegate.report.page import fill
from tunegate.report.summary import coloured, summary, waived

__all__ = ["coloured", "page", "read_verdict", "signature_beside", "summary", "write_page"]


def page(
    verdict: dict, items: list[dict] | None = None, signed: str = "", waiver: dict | None = None, rows: dict[str, dict] | None = None,
    cost_per_hour: float | None = None,
) -> str:  # fmt: skip
    """Fill the page of a verdict. The same arguments give the same bytes.

    Args:
        items: its evidence, for answers side by side, quantiles and speed; without it these are left out.
        signed: who signed it, as whoever checked the signature says it; "" where nobody did.
        waiver: {"who", "reason", "expires"} of a waiver that holds.
        rows: the rows of the sealed test, by id, for the questions that belong to the answers.
        cost_per_hour: of the serving machine, for the cost of 1,000 requests.
    """
    known = verdict["predicate"]["facts"]
    table = before_after(verdict["predicate"]["measures"], known["arms"], cost_per_hour)
    told = waived(waiver) if waiver else ""
    return fill(
        "verdict.html.j2", title=known.get("recipe") or verdict["predicate"]["policy"]["name"],
        **parts.of_verdict(verdict, signed, told), **parts.of_figures(table, items or [], known["arms"], verdict),
        answers=parts.answers(items or [], table, verdict, rows or {}, ONLY_DIFFERENT),
    )  # fmt: skip


def write_page(
    directory: Path, data: Path | None = None, signed: str | None = None, waiver: dict | None = None, cost_per_hour: float | None = None
) -> Path:
    """Write verdict.html beside verdict.json and items.parquet.

    Args:
        data: what curate wrote, for the questions of the sealed test.
        signed: as for `page`; by default what the envelope beside the verdict claims.
    """
    from tunegate.results import read_items
    from tunegate.rows import read_json_lines

    verdict, directory = read_verdict(directory)
    items = read_items(directory) if (directory / "items.parquet").is_file() else None
    test = read_json_lines(data / "test.jsonl") if data and (data / "test.jsonl").is_file() else ()
    rows = {row["id"]: row for row in test if "messages" in row}
    signed = signature_beside(directory) if signed is None else signed
    path = directory / "verdict.html"
    write_atomic(path, page(verdict, items, signed, waiver, rows, cost_per_hour))
    return path


def read_verdict(path: Path) -> tuple[dict, Path]:
    """Read a verdict from its file or its directory; give it and the directory.

    Raises:
        BadInput: there is none, or the file is no verdict.
    """
    path = Path(path)
    file = path / "verdict.json" if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"No verdict at {file}. Give the verdict.json that gate wrote, or its directory.")
    try:
        verdict = json.loads(file.read_text(encoding="utf-8"))
        verdict["decision"], verdict["predicate"]["gates"], verdict["predicate"]["facts"]["arms"]
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{file} is not a verdict of the gate. Give the verdict.json that gate wrote.") from None
    return verdict, file.parent


def signature_beside(directory: Path) -> str:
    """Say what the envelope beside a verdict claims; nothing is checked here."""
    envelope = directory / "verdict.dsse.json"
    if not envelope.is_file():
        return ""
    try:
        keys = [signature["keyid"][:12] for signature in json.loads(envelope.read_text(encoding="utf-8"))["signatures"]]
    except (ValueError, KeyError, TypeError):
        return "signature unreadable (verdict.dsse.json)"
    return f"signed by {', '.join(keys)}, not checked here"
