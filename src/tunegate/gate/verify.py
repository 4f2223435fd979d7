"""Refuse to rely on a verdict until it is proven: signed where keys are trusted, made again from its evidence, about this very model,
under the policy and beside the champion that are in force, and PROMOTE; or waived by one who may.

Everything that registers, deploys, promotes or serves goes through `verify_verdict`. There is no way around it by flag.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
from pydantic import ValidationError

from tunegate import digests
from tunegate.errors import BadInput, Refused
from tunegate.gate import signing, waiver
from tunegate.gate.facts import files_of
from tunegate.gate.policy import Policy, load_policy
from tunegate.gate.verdict import canonical, reverify
from tunegate.results import read_items
from tunegate.store.base import Store, read_directory

POLICY, POLICIES = "TUNEGATE_POLICY", "TUNEGATE_POLICIES"
NOT_ASKED = object()  # of a champion: None would say that there is none


@dataclass(frozen=True)
class Proven:
    """A verdict that was verified, and all that whoever shows it must say with it."""

    verdict: dict
    signed: str  # as `signing.signature` says it
    waiver: dict | None = None

    @property
    def waived(self) -> str:
        """Say the waiver in one line; empty where the verdict is PROMOTE."""
        return waiver.shown(self.waiver) if self.waiver else ""

    @property
    def needs_person(self) -> bool:
        """Say whether the policy wants a person to approve."""
        return bool(self.verdict["predicate"]["policy"]["document"].get("human_approval"))


def verify_verdict(
    directory: Path, model_ref: str, policy: Policy | None = None, *, store: Store | None = None, champion=NOT_ASKED,
    sealed_sha256: str | None = None, keys: list | None = None,
) -> Proven:  # fmt: skip
    """Give the verdict in `directory` if it lets just this model through now.

    Args:
        policy: the policy in force; by default that of the file TUNEGATE_POLICY names, else that of the verdict.
        store: where a waiver may be; without one a verdict other than PROMOTE is refused.
        champion: reference of the model that serves now, or None where none does; if not given, it is not compared.
        sealed_sha256: digest of the sealed test set as it is now; None where it is not known.
        keys: trusted public keys; by default those of TUNEGATE_TRUSTED_KEYS.

    Raises:
        Refused: the verdict is badly or not signed, does not follow from its evidence, is stale, is about another model, or is
            neither PROMOTE nor waived.
        BadInput: the directory holds no verdict.
    """
    verdict, signed = made_again(directory, policy, keys)
    judged = judged_model(verdict) or "no model"
    if model_ref != judged:
        raise Refused(f"The verdict is about {judged}, not about {model_ref}. A verdict holds for its own model only.")
    _refuse_stale(verdict, model_ref, champion, sealed_sha256)
    if verdict["decision"] == "PROMOTE":
        return Proven(verdict, signed)
    sentence = f"The verdict on {model_ref} is {verdict['decision']}, not PROMOTE: {' '.join(verdict['reasons'])}"
    if store is None or verdict["decision"] not in waiver.WAIVABLE:
        raise Refused(sentence)
    try:
        return Proven(verdict, signed, waiver.find(store, (directory / signing.VERDICT).read_bytes(), model_ref))
    except Refused as error:
        raise Refused(f"{sentence} {error}") from None


def verify_model(model: Path, directory: Path, policy: Policy | None = None, *, keys: list | None = None, **in_force) -> Proven:
    """Verify a verdict for the files in `model`, as they lie there; `in_force` is as in `verify_verdict`.

    Raises:
        Refused: as `verify_verdict` says; or a file is missing, was added or was changed.
    """
    verdict, _ = made_again(directory, policy, keys)
    judged, files = judged_model(verdict), files_of(read_directory(model))
    known = verdict["predicate"]["facts"].get("files") or {}
    for what, names in (
        ("is missing", known.keys() - files.keys()),
        ("was changed", {name for name in known.keys() & files.keys() if known[name] != files[name]}),
        ("was added", files.keys() - known.keys() if known else ()),
    ):
        if names:
            raise Refused(f"{model / min(names)} {what} since the model was judged, so its verdict does not hold. Take the judged model.")
    found = digests.digest_json(files)
    if found != judged.rpartition("/")[2]:
        raise Refused(f"The verdict is about {judged or 'no model'}, and the files in {model} are another model's ({found[:12]}).")
    return verify_verdict(directory, judged, policy, keys=keys, **in_force)


def sealed_digest(data: Path) -> str | None:
    """Give the digest of the sealed test in what curate wrote; None where there is none."""
    path = data / "test.jsonl"
    return digests.sha256_file(path) if path.is_file() else None


def judged_model(verdict: dict) -> str:
    """Give the reference of the model that a verdict is about; empty where it is about none."""
    facts = verdict["predicate"]["facts"]
    return facts.get("model") or next(iter(facts["subject"]), "")


def made_again(directory: Path, policy: Policy | None = None, keys: list | None = None) -> tuple[dict, str]:
    """Read a verdict, check its signature, make it again from its evidence under a policy that may decide, and give it and who signed it.

    Raises:
        Refused: any of this fails.
        BadInput: the directory holds no verdict.
    """
    path = directory / signing.VERDICT
    if not path.is_file():
        raise BadInput(f"No verdict at {path}. Give the directory that gate wrote.")
    signed = signing.signature(directory, keys)  # first: what is not ours is not even read
    try:
        verdict = json.loads(path.read_bytes(), parse_constant=_not_a_number)
        own = Policy.model_validate(verdict["predicate"]["policy"]["document"])
        named = verdict["predicate"]["policy"]["sha256"]
    except (ValueError, KeyError, TypeError, ValidationError):
        raise Refused(f"{path} holds no verdict with a policy that can be read, so it proves nothing. Run the gate again.") from None
    if policy is None:
        policy = load_policy(os.environ[POLICY]) if POLICY in os.environ else own
    allowed = os.environ.get(POLICIES)
    if allowed is not None and named not in {digest.strip() for digest in allowed.split(",")}:
        raise Refused(f"The policy of the verdict, {str(named)[:12]} ({own.name}), is not among those that may promote here ({POLICIES}).")
    try:
        items = read_items(directory)
    except (pa.ArrowException, OSError):
        raise Refused(f"The evidence in {directory} cannot be read, so the verdict cannot be made again. Run the gate again.") from None
    reverify(verdict, policy, items)
    if canonical(verdict) != path.read_bytes():
        raise Refused(f"{path} is not written as the gate writes it: it was changed. Run the gate again.")
    return verdict, signed


def _refuse_stale(verdict: dict, model_ref: str, champion, sealed_sha256: str | None) -> None:
    facts = verdict["predicate"]["facts"]
    compared = facts.get("champion")
    if champion is not NOT_ASKED and champion not in (compared, model_ref):
        raise Refused(
            f"The verdict is stale, the champion changed: {model_ref} was compared with {compared or 'no champion'}, "
            f"and now {champion or 'none'} serves. Run the pipeline again."
        )
    judged_on = (facts.get("sealed_test") or {}).get("sha256")
    if sealed_sha256 and judged_on and sealed_sha256 != judged_on:
        raise Refused(
            f"The verdict is stale, the sealed test set changed: {model_ref} was judged on {judged_on[:12]}, "
            f"and now it is {sealed_sha256[:12]}. Run the pipeline again."
        )


def _not_a_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of a verdict")
