"""Count the candidates that were ever measured on a sealed test: each further look makes the best of them look better than it is.

    ledger/<sha256 of the test's bytes>/<number>.json     {"model": digest}

A number is taken by a conditional write, so two evaluations at the same moment get two numbers, and a model keeps the number it
has: measuring it again is no further look. Not covered: whoever may write to the store may also remove an entry.
"""

from tunegate.store import Store


def record(store: Store, test_sha256: str, model_digest: str) -> int:
    """Give the number under which the model stands in the ledger of a sealed test; enter it where it is new."""
    number = 1
    while True:
        entry = store.read_json(_path(test_sha256, number))
        if entry is None:
            if store.create_json(_path(test_sha256, number), {"model": model_digest}):
                return number
        elif entry["model"] == model_digest:
            return number
        else:
            number += 1


def use(store: Store, test_sha256: str, model_digest: str) -> int | None:
    """Give the number under which the model stands in the ledger of a sealed test; None where it was never measured on it."""
    number = 1
    while (entry := store.read_json(_path(test_sha256, number))) is not None:
        if entry["model"] == model_digest:
            return number
        number += 1
    return None


def _path(test_sha256: str, number: int) -> str:
    return f"ledger/{test_sha256}/{number}.json"
