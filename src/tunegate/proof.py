"""Prove a registered version from the store: its verdict, and the approval that it needs. Everything that promotes or serves asks here."""

from pathlib import Path

from tunegate import digests, registry
from tunegate.errors import Refused
from tunegate.gate.verify import NOT_ASKED, Proven, verify_verdict
from tunegate.store import open_store


def proven(found, champion=NOT_ASKED, sealed_sha256: str | None = None) -> Proven:
    """Verify the verdict of a version from the store: what its tags claim is not believed.

    Args:
        champion: reference of the model that serves now, where the verdict must have been made beside it; see `verify_verdict`.

    Raises:
        Refused: tunegate did not register the version, its tags are not those of its verdict, or its verdict does not let it through.
    """
    title = f"{found.name} version {found.version}"
    if missing := [tag for tag in (registry.REF, registry.STORE, registry.VERDICT, registry.VERDICT_SHA256) if tag not in found.tags]:
        raise Refused(f"{title} has no tag {missing[0]}: tunegate did not register it, so it is not served.")
    store = open_store(found.tags[registry.STORE])
    directory = store.get(found.tags[registry.VERDICT])
    proof = verify_verdict(directory, found.tags[registry.REF], store=store, champion=champion, sealed_sha256=sealed_sha256)
    for tag, value in (
        (registry.VERDICT_SHA256, digests.sha256_file(directory / "verdict.json")),
        (registry.DECISION, proof.verdict["decision"]),
    ):
        if found.tags.get(tag) != value:
            raise Refused(f"{title} is tagged {tag} {found.tags.get(tag)}, and its verdict says {value}. Its tags were changed.")
    return proof


def require_same(found, verdict_dir: Path, model_ref: str) -> None:
    """Refuse a version whose tags are not of just this verdict and this model."""
    for tag, value in ((registry.REF, model_ref), (registry.VERDICT_SHA256, digests.sha256_file(verdict_dir / "verdict.json"))):
        if found.tags.get(tag) != value:
            raise Refused(
                f"{found.name} version {found.version} is registered with {tag} {found.tags.get(tag)}, and this step was given "
                f"{value}. A verdict holds for its own model only; register this model first."
            )


def promotable(found, champion=NOT_ASKED, sealed_sha256: str | None = None) -> Proven:
    """As `proven`, and refuse a version that nobody approved; where the policy asks for a person, only a person's approval counts."""
    proof = proven(found, champion, sealed_sha256)
    approval = found.tags.get(registry.APPROVAL, "")
    if registry.by_person(approval) or (approval == "not-required" and not proof.needs_person):
        return proof
    title = f"{found.name} version {found.version}"
    why = "its policy asks for a person's approval, which it has not" if proof.needs_person else "it has no recorded approval"
    raise Refused(f"{title}: {why}. Run: tunegate approve {found.name} {found.version} --who NAME")
