"""Move the alias `champion` to a version that may have it, and keep `previous` to roll back to."""

import json
from datetime import UTC, datetime
from pathlib import Path

from tunegate import registry
from tunegate.errors import Refused
from tunegate.proof import promotable, require_same
from tunegate.steps import Inputs, Result


def promote_step(config: dict, inputs: Inputs, output: Path) -> Result:
    version = json.loads((inputs["version"] / "version.json").read_text(encoding="utf-8"))
    endpoint = json.loads((inputs["endpoint"] / "endpoint.json").read_text(encoding="utf-8"))
    require_smoke_test(endpoint, version["ref"])
    require_same(registry.version(version["name"], version["version"]), inputs["verdict"], version["ref"])
    changed = promote(version["name"], version["version"])
    was = f", before: version {changed['previous']}" if changed["previous"] else ""
    waived = f" (WAIVED by {changed['waiver']})" if changed["waiver"] else ""
    return Result(summary=changed, line=f"champion of {version['name']} is version {changed['champion']}{was}{waived}")


def require_smoke_test(endpoint: dict, model_ref: str) -> None:
    """Refuse an endpoint whose smoke test failed, or was another model's."""
    if endpoint["model"] != model_ref:
        raise Refused(
            f"The endpoint serves {endpoint['model']}, and the version to promote is {model_ref}. "
            "Deploy this version first: `tunegate run` does both."
        )
    if not endpoint["smoke"]["passed"]:
        raise Refused(f"The smoke test of {model_ref} did not pass, so it does not become champion. Look at the deploy step.")


def promote(name: str, number: str) -> dict:
    """Make a version champion; the champion before it becomes `previous`. Gives both numbers, who signed the verdict, and its waiver.

    Raises:
        Refused: the version is not proven beside the champion of now, or not approved.
    """
    found, serving = registry.version(name, number), registry.champion_ref(name)
    proof = promotable(found, serving)
    shown = {"name": name, "signed": proof.signed, "waiver": proof.waived}
    before = registry.aliases(name)
    champion, previous = before.get("champion"), before.get("previous")
    if champion == str(number):
        return shown | {"champion": champion, "previous": previous}
    # The same model under a newer verdict takes the place of its older version: rolling back to itself would be no way back.
    if champion and serving != found.tags[registry.REF]:
        previous = champion
        # First: between the two calls both aliases name the old champion, which is served and known to work.
        registry.set_alias(name, "previous", champion)
    registry.set_alias(name, "champion", number)
    registry.set_tag(name, number, registry.PROMOTED, datetime.now(UTC).isoformat(timespec="seconds"))
    return shown | {"champion": str(number), "previous": previous}


def rollback(name: str) -> dict:
    """Swap `champion` and `previous`. Gives what `promote` gives.

    The champion beside which the previous one was proven is gone by now, so that alone is not asked again.

    Raises:
        Refused: there is nothing to roll back to, or what there is is not proven any more.
    """
    known = registry.aliases(name)
    champion, previous = known.get("champion"), known.get("previous")
    if not champion:
        raise Refused(f"The model '{name}' has no champion, so there is nothing to roll back. Promote a version first.")
    if not previous or previous == champion:
        raise Refused(f"Version {champion} is the first champion of '{name}': there is no previous one to roll back to.")
    proof = promotable(registry.version(name, previous))
    registry.set_alias(name, "champion", previous)
    registry.set_alias(name, "previous", champion)
    return {"name": name, "signed": proof.signed, "waiver": proof.waived, "champion": previous, "previous": champion}
