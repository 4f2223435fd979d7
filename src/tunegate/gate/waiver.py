"""Break the glass: let one model through although its gate did not, for a while, in the name of a person.

A waiver is an in-toto statement about one verdict (the sha256 of its verdict.json) and one model, signed with a key of those who may
waive (TUNEGATE_WAIVER_KEYS), and kept in the store as waivers/<digest of the model>.json. It says who, why and until when. It changes
nothing in the verdict, which stays what it is. Where TUNEGATE_WAIVER_KEYS is not set, no waiver is ever accepted.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tunegate import digests
from tunegate.errors import BadInput, Refused
from tunegate.gate import signing
from tunegate.store.base import Store

PREDICATE = "urn:tunegate:waiver:v1"
WAIVABLE = ("REJECT", "HOLD", "INCONCLUSIVE")  # an ERROR says that nothing was measured, so there is nothing to set aside
MAX_DAYS = 30  # arbitrary: long enough to train a better model
MAX_CHARACTERS = 1000  # arbitrary; MLflow cuts or refuses tags of some thousands
CLOCKS_DIFFER = timedelta(hours=1)  # arbitrary: how far the clock of who signs may be ahead of ours


def waive(directory: Path, store: Store, key: str, who: str, reason: str, days: float) -> dict:
    """Sign a waiver of the verdict in `directory` with the private key `key`, keep it in `store`, and give who, reason and expires.

    Raises:
        BadInput: no name, no reason, or too many days.
        Refused: the verdict is not what its evidence gives, cannot be waived, or the key may not waive it.
    """
    from tunegate.gate.verify import judged_model, made_again

    if not who.strip() or not reason.strip():
        raise BadInput("A waiver needs the name of who takes it on and the reason. Give both with --who and --reason.")
    who, reason = (" ".join(text.split()) for text in (who, reason))  # one line each: they become tags and annotations
    if len(who) + len(reason) > MAX_CHARACTERS:
        raise BadInput(f"Who and why together have {len(who) + len(reason)} characters, and {MAX_CHARACTERS} are the most. Say it shorter.")
    if not 0 < days <= MAX_DAYS:
        raise BadInput(f"A waiver holds for more than 0 and at most {MAX_DAYS} days. Give --days within that.")
    verdict, signed = made_again(directory)
    model_ref = judged_model(verdict)
    if verdict["decision"] not in WAIVABLE or not model_ref:
        what = "needs no waiver" if verdict["decision"] == "PROMOTE" else f"cannot be waived; {', '.join(WAIVABLE)} of a model can"
        raise Refused(f"The verdict is {verdict['decision']} ({signed}), which {what}.")
    signer = signing.signer_of(key, "The key given with --key")
    if (may := _keys()) is not None and signer.public_key.keyid not in {public.keyid for public in may}:
        raise Refused(f"The key given with --key is not among {signing.WAIVER_KEYS}, so its waiver would be refused.")
    expires = (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")
    told = {"who": who, "reason": reason, "expires": expires}
    verdict_sha256 = digests.sha256_file(directory / signing.VERDICT)
    statement = {
        "_type": verdict["_type"], "subject": verdict["subject"], "predicateType": PREDICATE,
        "predicate": {"verdict": {"sha256": verdict_sha256, "decision": verdict["decision"]}, "model": model_ref, **told},
    }  # fmt: skip
    store.write_json(_path(model_ref), signing.seal(digests.canonical_json(statement), signer))
    return told


def find(store: Store, verdict_bytes: bytes, model_ref: str) -> dict:
    """Give {"who", "reason", "expires", "key"} of the waiver of just this verdict on just this model.

    Raises:
        Refused: there is none, or it is another's, expired, too long, or not signed by one who may waive.
    """
    keys = _keys()
    if keys is None:
        raise Refused(f"No waiver is accepted here: {signing.WAIVER_KEYS} is not set.")
    path = _path(model_ref)
    try:
        document = store.read_json(path)
    except ValueError:
        raise Refused(f"The waiver {path} in {store.uri} is not JSON, so it proves nothing. Run `tunegate waive` again.") from None
    if document is None:
        raise Refused(f"There is no waiver of it ({path} in {store.uri}).")
    payload, key = signing.unseal(document, keys, f"the waiver {path}")
    try:
        statement = json.loads(payload)
        predicate = statement["predicate"]
        about = statement["predicateType"], predicate["verdict"]["sha256"], predicate["model"]
        told = {name: str(predicate[name]) for name in ("who", "reason", "expires")}
        expires = datetime.fromisoformat(told["expires"]).astimezone(UTC)
    except (ValueError, KeyError, TypeError):
        raise Refused(f"The waiver {path} is signed and says nothing that can be read. Run `tunegate waive` again.") from None
    if about != (PREDICATE, digests.sha256(verdict_bytes), model_ref):
        raise Refused(f"The waiver {path} is of another verdict, and a waiver holds for its own only.")
    now = datetime.now(UTC)
    if expires <= now:
        raise Refused(f"The waiver by {told['who']} expired on {told['expires']}. Train a better model, or have it waived anew.")
    if expires > now + timedelta(days=MAX_DAYS) + CLOCKS_DIFFER:
        raise Refused(f"The waiver by {told['who']} is to hold until {told['expires']}, and {MAX_DAYS} days are the most.")
    return told | {"key": key}


def valid_for(store: Store, verdict_bytes: bytes, model_ref: str) -> dict | None:
    """Give the waiver that `find` gives, or None where it refuses."""
    try:
        return find(store, verdict_bytes, model_ref)
    except Refused:
        return None


def shown(waiver: dict) -> str:
    """Say a waiver in one line, for tags, annotations and screens."""
    return f"{waiver['who']} until {waiver['expires']}: {waiver['reason']}"


def _path(model_ref: str) -> str:
    return f"waivers/{model_ref.rpartition('/')[2]}.json"


def _keys() -> list | None:
    keys, gates = signing.trusted_keys(signing.WAIVER_KEYS), signing.trusted_keys() or []
    if keys and (both := {key.keyid for key in keys} & {key.keyid for key in gates}):
        raise BadInput(
            f"The key {min(both)[:12]} is in {signing.WAIVER_KEYS} and in {signing.TRUSTED_KEYS}. "
            "Who judges must not be who waives: make a pair of keys for each."
        )
    return keys
