"""Move the alias `champion` to a version that may have it, and keep `previous` to roll back to."""

import json
from datetime import UTC, datetime
from pathlib import Path

from tunegate import registry
from tunegate.errors import Refused
from tunegate.gate.verify import verify_verdict
from tunegate.steps import Inputs, Result


def promote_step(config: dict, inputs: Inputs, output: Path) -> Result:
    version = json.loads((inputs["version"] / "version.json").read_text(encoding="utf-8"))
    endpoint = json.loads((inputs["endpoint"] / "endpoint.json").read_text(encoding="utf-8"))
    require_smoke_test(endpoint, version["ref"])
    verify_verdict(inputs["verdict"], version["ref"])
    changed = promote(version["name"], version["version"])
    was = f", before: version {changed['previous']}" if changed["previous"] else ""
    return Result(summary=changed, line=f"champion of {version['name']} is version {changed['champion']}{was}")


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
    """Make a version champion; the champion before it becomes `previous`. Gives both numbers.

    Raises:
        Refused: the version has no PROMOTE verdict or no approval.
    """
    found = registry.version(name, number)
    registry.require_promotable(found)
    before = registry.aliases(name)
    champion = before.get("champion")
    if champion == str(number):
        return {"name": name, "champion": champion, "previous": before.get("previous")}
    if champion:
        # First: between the two calls both aliases name the old champion, which is served and known to work.
        registry.set_alias(name, "previous", champion)
    registry.set_alias(name, "champion", number)
    registry.set_tag(name, number, registry.PROMOTED, datetime.now(UTC).isoformat(timespec="seconds"))
    return {"name": name, "champion": str(number), "previous": champion}


def rollback(name: str) -> dict:
    """Swap `champion` and `previous`. Gives both numbers.

    Raises:
        Refused: there is nothing to roll back to.
    """
    known = registry.aliases(name)
    champion, previous = known.get("champion"), known.get("previous")
    if not champion:
        raise Refused(f"The model '{name}' has no champion, so there is nothing to roll back. Promote a version first.")
    if not previous or previous == champion:
        raise Refused(f"Version {champion} is the first champion of '{name}': there is no previous one to roll back to.")
    registry.require_promotable(registry.version(name, previous))
    registry.set_alias(name, "champion", previous)
    registry.set_alias(name, "previous", champion)
    return {"name": name, "champion": previous, "previous": champion}
