"""Curate files outside a pipeline: from any source that ingest reads to the splits, the rejects and a page, in one directory."""

import json
import shutil
import tempfile
from pathlib import Path

from tunegate.curate import Beside, curate, describe, held_texts
from tunegate.digests import write_atomic
from tunegate.errors import BadInput
from tunegate.ingest import ingest
from tunegate.recipe import Recipe
from tunegate.report.curation import render_curation


def curate_files(sources: list[str], output: Path, recipe: Recipe, base: Path | None = None) -> str:
    """Write train, dev, test and rejected.jsonl, report.json and report.html into `output`; give a line that says what came of it.

    Where the sources hold preference pairs or labelled answers, preferences.jsonl and labelled.jsonl stand beside them.

    Args:
        base: the base model; without it, lengths are bounded in characters and stages that need a model are off, as the report says.

    Raises:
        BadInput: a source cannot be used, or too little is left; then rejected.jsonl and the report are written, and no split.
    """
    output.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".curate-", dir=output.parent) as scratch:
        here = Path(scratch)
        ingest(recipe.data.model_copy(update={"sources": sources}), here)
        held = held_texts(recipe.curate, recipe.evaluate.general_text, None, here)
        beside = Beside(base, held, here / "rows" / "preferences.jsonl", here / "rows" / "labelled.jsonl")
        try:
            report = curate(here / "rows" / "rows.jsonl", here / "curated", recipe.curate, recipe.task, beside)
        except BadInput as error:
            if not (here / "curated" / "report").is_dir():
                raise
            _show(here, output, sources)
            raise BadInput(f"{error} What was dropped, and why, is in {output}.") from None
        _show(here, output, sources)
        for file in sorted((here / "curated" / "data").iterdir()):
            shutil.move(file, output / file.name)
    return describe(report)


def _show(here: Path, output: Path, sources: list[str]) -> None:
    """Put the rejects of both steps, and the report, where people look."""
    report = json.loads((here / "curated" / "report" / "report.json").read_text(encoding="utf-8"))
    quarantined = [json.loads(line) for line in (here / "rows" / "quarantine.jsonl").read_text(encoding="utf-8").split("\n") if line]
    lines = "".join(json.dumps({"stage": "ingest", **bad}, sort_keys=True) + "\n" for bad in quarantined)
    rejected = (here / "curated" / "report" / "rejected.jsonl").read_text(encoding="utf-8")
    report["ingest"] = json.loads((here / "rows" / "ingest.json").read_text(encoding="utf-8"))
    write_atomic(output / "rejected.jsonl", lines + rejected)
    write_atomic(output / "report.json", json.dumps(report, sort_keys=True, ensure_ascii=False, indent=1) + "\n")
    write_atomic(output / "report.html", render_curation(report, ", ".join(Path(source).name for source in sources)))
