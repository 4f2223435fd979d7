"""Gather what a run left in the store: the records of its steps, its verdict, per-item results and curation report.

A run that stopped early has left less; what cannot be read becomes a note on the page, never a failure of the report.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from tunegate import results
from tunegate.errors import TunegateError
from tunegate.gate.measures import before_after, measures, with_serving_metrics
from tunegate.gate.verdict import evidence
from tunegate.report.summary import waived
from tunegate.report.verdict import signature_beside
from tunegate.steps import STEPS

PROVING = ("gate", "register", "deploy", "promote")  # steps that verify a verdict, and say who signed or waived it


@dataclass
class Run:
    """One run, as far as it came."""

    run_id: str
    records: dict[str, dict]
    errors: dict[str, dict]
    notes: list[str] = field(default_factory=list)
    verdict: dict | None = None
    items: list[dict] = field(default_factory=list)
    arms: dict[str, dict] = field(default_factory=dict)
    signed: str = ""  # who signed the verdict, as register, deploy or promote found, else as the envelope claims
    table: list[dict] = field(default_factory=list)  # see tunegate.gate.measures.before_after
    curation: dict = field(default_factory=dict)
    test: dict[str, dict] = field(default_factory=dict)  # item id -> row, of the sealed test

    @cached_property
    def recipe(self) -> dict:
        """The recipe that plan was given."""
        return yaml.safe_load(self.records.get("plan", {}).get("config", {}).get("recipe") or "{}")

    @property
    def waived(self) -> str:
        """Say who waived the verdict, until when and why, where any step went on by a waiver."""
        return next((said for step in reversed(PROVING) if (said := _said(self.records.get(step), "waiver"))), "")


def _said(record: dict | None, name: str) -> str:
    told = (record or {}).get("summary", {}).get(name) or ""
    return waived(told) if isinstance(told, dict) else told


def gather(store, run_id: str) -> Run:
    """Read everything that `run_id` left in `store`."""
    records = {step: document for step in STEPS if (document := store.read_json(f"runs/{run_id}/{step}.json"))}
    errors = {step: document for step in STEPS if (document := store.read_json(f"runs/{run_id}/error-{step}.json"))}
    run = Run(run_id, records, {step: error for step, error in errors.items() if step not in records})
    verdict = _directory(run, store, "gate", "verdict")
    if verdict:
        run.verdict = json.loads((verdict / "verdict.json").read_text(encoding="utf-8"))
        run.items = results.read_items(verdict)
        run.signed = next((said for step in reversed(PROVING) if (said := _said(records.get(step), "signed"))), signature_beside(verdict))
        run.arms = run.verdict["predicate"]["facts"]["arms"]
    else:
        for step in ("baseline", "evaluate"):
            if found := _directory(run, store, step, "results"):
                run.items += results.read_items(found)
                run.arms |= results.read_arms(found)
    run.table = _table(run)
    if report := _directory(run, store, "curate", "report"):
        run.curation = json.loads((report / "report.json").read_text(encoding="utf-8"))
    if data := _directory(run, store, "curate", "data"):
        run.test = {row["id"]: row for row in _jsonl(data / "test.jsonl")}
    return run


def _table(run: Run) -> list[dict]:
    cost = run.records.get("gate", {}).get("config", run.recipe).get("cost_per_hour")
    if run.verdict:
        measured = run.verdict["predicate"]["measures"]
    elif run.items:
        table = evidence(run.items)
        held = table[table["split"] != "dev"]
        measured = measures(with_serving_metrics(held if len(held) else table))
    else:
        measured = []
    return before_after(measured, run.arms, cost)


def _directory(run: Run, store, step: str, name: str) -> Path | None:
    ref = run.records.get(step, {}).get("refs", {}).get(name)
    if not ref:
        return None
    try:
        return store.get(ref)
    except TunegateError as error:
        run.notes.append(f"What {step} left as {name} could not be read. {error}")
        return None


def _jsonl(path: Path) -> list[dict]:
    # not splitlines(): a row may hold U+2028, which is a line end to Python and none to JSON
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines if line.strip()]
