"""Make a verdict again from its evidence before anything relies on it."""

import json
from pathlib import Path

from pydantic import ValidationError

from tunegate.errors import BadInput, Refused
from tunegate.gate.policy import Policy
from tunegate.gate.verdict import reverify
from tunegate.results import read_items


def verify_verdict(directory: Path, model_ref: str, policy=None) -> dict:
    """Make the verdict in `directory` again from its evidence, and give it back if it promotes just this model.

    Args:
        policy: the policy in force; without one, that of the verdict.

    Raises:
        Refused: the verdict does not follow from its evidence, is not PROMOTE, or is about another model.
        BadInput: the directory holds no verdict.
    """
    path = directory / "verdict.json"
    if not path.is_file():
        raise BadInput(f"No verdict at {path}. Give the directory that gate wrote.")
    verdict = json.loads(path.read_text(encoding="utf-8"))
    try:
        policy = policy or Policy.model_validate(verdict["predicate"]["policy"]["document"])
    except (KeyError, TypeError, ValidationError):
        raise Refused(f"{path} holds no policy that can be read, so it proves nothing. Run the gate again.") from None
    reverify(verdict, policy, read_items(directory))
    if verdict["decision"] != "PROMOTE":
        raise Refused(f"The verdict on {model_ref} is {verdict['decision']}, not PROMOTE: {' '.join(verdict['reasons'])}")
    subjects = [f"{subject['name']}/{subject['digest']['sha256']}" for subject in verdict["subject"]]
    if model_ref not in subjects:
        raise Refused(f"The verdict is about {' and '.join(subjects)}, not about {model_ref}. A verdict holds for its own model only.")
    return verdict
