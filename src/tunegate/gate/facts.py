"""Gather the facts that a decision needs and per-item results do not hold: each from the file or the ledger that knows it."""

import json
from pathlib import Path

from tunegate.curate_names import REVERSED
from tunegate.digests import sha256_file
from tunegate.errors import BadInput

MODEL = "merge-model"  # the name under which merged models are stored


def curation_facts(data: Path, report: Path) -> dict:
    """Count the training rows, name the sealed test, and read of near-duplicates across the split and of reversed preference pairs."""
    train, test, counted = data / "train.jsonl", data / "test.jsonl", report / "report.json"
    sealed = {"sha256": sha256_file(test), "items": _count_lines(test), "use": None} if test.is_file() else None
    told = json.loads(counted.read_text(encoding="utf-8")) if counted.is_file() else {}
    return {
        "train_rows": _count_lines(train) if train.is_file() else None,
        "leaked_pairs": told.get("leaked_pairs"),
        "reversed_pairs": next((warning for warning in told.get("warnings", ()) if warning.startswith(REVERSED)), ""),
        "sealed_test": sealed,
    }


def adapter_facts(adapter: Path | None) -> dict:
    """Read how the adapter was trained: the share of examples with the end-of-turn token in the loss, and where preference pairs came from.

    None where the adapter does not say.
    """
    path = adapter / "training.json" if adapter else None
    told = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
    return {"stop_token_in_loss": told.get("stop_token_in_loss"), "preference_pairs": told.get("preference", {}).get("pairs")}


def files_of(manifest: dict) -> dict[str, str]:
    """Give the sha256 of every file of the model, so that a verdict holds for these bytes only."""
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


def arms_facts(arms: dict[str, dict]) -> dict:
    """Take from the results themselves what they say of who was judged and compared; references that are known better go before."""
    digests = {arm: told.get("model_digest") for arm, told in arms.items()}
    candidate, champion = digests.get("candidate"), digests.get("champion")
    return {
        "arms": arms, "trained": "candidate" in arms, "subject": [f"{MODEL}/{candidate}"] if candidate else [],
        "champion": f"{MODEL}/{champion}" if champion else None,
    }  # fmt: skip


def champion_of(champion: dict | None, model: str | None) -> str | None:
    """Give the reference of the champion that plan found; None where there is none, and where it is the judged model itself."""
    return champion["ref"] if champion and champion["ref"] != model else None


def sealed_use(store, sealed_test: dict | None, model: str) -> dict | None:
    """Add which number the model has among all that were measured on the sealed test; None where the ledger has no entry of it."""
    from tunegate import ledger

    if sealed_test is None:
        return None
    return sealed_test | {"use": ledger.use(store, sealed_test["sha256"], model.rpartition("/")[2])}


def directory_facts(model: Path | None, adapter: Path | None, curation: Path | None, store: str | None) -> dict:
    """Gather what plain directories tell; what is not given is left out.

    Raises:
        BadInput: a store alone; its ledger is asked for a model and a sealed test.
    """
    from tunegate.store import base, open_store

    facts = adapter_facts(adapter) | (curation_facts(curation, curation) if curation else {})
    if model or adapter:
        facts["trained"] = True  # whatever the results say
    if model:
        manifest = base.read_directory(model)
        facts |= {"files": files_of(manifest), "model": f"{MODEL}/{base.digest_of(manifest)}"}
        facts["subject"] = [facts["model"]]
    if store:
        if not (model and facts.get("sealed_test")):
            raise BadInput("The ledger in --store is asked for a model and a sealed test. Give --model, and --curation with test.jsonl.")
        facts["sealed_test"] = sealed_use(open_store(store), facts["sealed_test"], facts["model"])
    return facts


def _count_lines(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())
