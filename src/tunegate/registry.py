"""Read and mark model versions in the MLflow registry: tags say what a version is and where its proof lies, aliases what it does.

Tags and aliases are not the proof: tunegate.proof verifies the verdict itself, from the store, each time.

alias candidate    the version that was registered last
alias champion     the version that serves
alias previous     the champion before it, to roll back to
"""

from contextlib import contextmanager

from tunegate import tracking
from tunegate.errors import BadInput, Unavailable

REF = "tunegate.ref"  # the store reference of the model: the authority on what the version is
STORE = "tunegate.store"
VERDICT = "tunegate.verdict"  # the store reference of the verdict directory
VERDICT_SHA256 = "tunegate.verdict_sha256"
DECISION = "tunegate.decision"
SIGNED = "tunegate.signed"  # who signed the verdict, or "unsigned"
WAIVER = "tunegate.waiver"  # "<who> until <date>: <reason>", where the verdict is not PROMOTE
APPROVAL = "tunegate.approval"  # "not-required" or "approved:<who>"
APPROVED_AT = "tunegate.approved_at"
PROMOTED = "tunegate.promoted"
SERVE = "tunegate.serve"  # how deploy served it, as JSON


def client():
    return tracking.connect(tracking.tracking_uri())


@contextmanager
def answering():
    """Turn a registry that cannot be reached into a sentence; what MLflow says about a request passes."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE"):
            raise
        raise Unavailable(
            f"MLflow at {tracking.tracking_uri()} did not answer: {' '.join(str(error).split())[:300]} "
            "Check MLFLOW_TRACKING_URI and that the server runs, then run this again."
        ) from error


def aliases(name: str) -> dict[str, str]:
    """Give the aliases of a registered model and the version that each names; none where the model does not exist."""
    from mlflow.exceptions import MlflowException

    with answering():
        try:
            return {alias: str(version) for alias, version in client().get_registered_model(name).aliases.items()}
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise


def version(name: str, number: str | int):
    """Fetch a model version.

    Raises:
        BadInput: there is no such version.
    """
    from mlflow.exceptions import MlflowException

    with answering():
        try:
            return client().get_model_version(name, str(number))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise BadInput(
                    f"There is no version {number} of a model '{name}' in MLflow at {tracking.tracking_uri()}. "
                    "Look in its Models page for the names and versions that exist."
                ) from None
            raise


def resolve(which: str):
    """Fetch the version that NAME@ALIAS, NAME/VERSION or NAME (its champion) names."""
    name, at, alias = which.partition("@")
    if not at:
        name, slash, number = which.partition("/")
        if slash:
            return version(name, number)
        alias = "champion"
    known = aliases(name)
    if alias not in known:
        there = f"It has: {', '.join(sorted(known))}." if known else "No version of it has an alias."
        raise BadInput(
            f"The model '{name}' has no alias '{alias}' in MLflow at {tracking.tracking_uri()}. {there} "
            "A model gets the alias champion when a run promotes it, or by `tunegate promote`."
        )
    return version(name, known[alias])


def set_tag(name: str, number: str, key: str, value: str) -> None:
    with answering():
        client().set_model_version_tag(name, str(number), key, value)


def set_alias(name: str, alias: str, number: str) -> None:
    with answering():
        client().set_registered_model_alias(name, alias, str(number))


def champion(name: str):
    """Fetch the version that serves now; None where there is no champion, or tunegate did not register it."""
    number = aliases(name).get("champion")
    found = version(name, number) if number else None
    return found if found and REF in found.tags else None


def champion_ref(name: str) -> str | None:
    """Give the store reference of the model that serves now; None as for `champion`."""
    found = champion(name)
    return found.tags[REF] if found else None


def by_person(approval: str) -> bool:
    """Say whether the value of the tag APPROVAL names a person."""
    kind, _, who = approval.partition(":")
    return kind == "approved" and bool(who.strip())
