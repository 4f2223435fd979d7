"""Wait for a person where the recipe or the policy asks for one. The approval is a tag of the model version; deploy refuses without it."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

from tunegate import registry
from tunegate.errors import BadInput, Refused
from tunegate.steps import Inputs, Result, say

POLL_SECONDS = 5.0
SAY_EVERY_SECONDS = 30.0


def approve_step(config: dict, inputs: Inputs, output: Path) -> Result:
    version = json.loads((inputs["version"] / "version.json").read_text(encoding="utf-8"))
    settings = config["approve"]
    if settings["required"] or version.get("human_approval"):
        approval = wait_for_approval(version["name"], version["version"], settings["timeout_hours"] * 3600)
    else:
        approval = approve_at_once(version["name"], version["version"])
    # The version is passed on, so that deploy cannot start before the approval is recorded.
    return Result(
        summary={**version, "approval": approval},
        refs={"version": inputs.refs["version"]},
        line=f"{version['name']} version {version['version']}: {approval.replace('approved:', 'approved by ')}",
    )


def approve(name: str, number: str, who: str) -> None:
    """Record that `who` approves the version, and when (UTC)."""
    if not who.strip():
        raise BadInput("An approval needs the name of who approves. Give it with --who.")
    registry.version(name, number)
    registry.set_tag(name, number, registry.APPROVED_AT, datetime.now(UTC).isoformat(timespec="seconds"))
    registry.set_tag(name, number, registry.APPROVAL, f"approved:{who.strip()}")


def approve_at_once(name: str, number: str) -> str:
    """Record that no approval is asked for; a person's approval that is already there stays."""
    approval = registry.version(name, number).tags.get(registry.APPROVAL, "")
    if not registry.by_person(approval):
        approval = "not-required"
        registry.set_tag(name, number, registry.APPROVAL, approval)
    return approval


def wait_for_approval(
    name: str, number: str, timeout_seconds: float, poll_seconds: float = POLL_SECONDS, say_every_seconds: float = SAY_EVERY_SECONDS
) -> str:
    """Return the approval once a person has recorded it.

    Raises:
        Refused: nobody did in time.
    """
    started = time.monotonic()
    said = -say_every_seconds
    command = f"tunegate approve {name} {number} --who NAME"
    while True:
        approval = registry.version(name, number).tags.get(registry.APPROVAL, "")
        if registry.by_person(approval):
            return approval
        waited = time.monotonic() - started
        if waited >= timeout_seconds:
            raise Refused(
                f"Nobody approved {name} version {number} within {timeout_seconds / 3600:g} h, so it is not deployed. "
                f"Run `{command}`, then start the run again: it continues here. approve.timeout_hours sets how long it waits."
            )
        if waited - said >= say_every_seconds:
            said = waited
            say(f"      waiting for an approval of {name} version {number}; to give it: {command}")
        time.sleep(poll_seconds)
