"""Pairs of keys, and an environment that trusts them."""

from pathlib import Path

from tunegate.gate import signing

VARIABLES = (signing.SIGNING_KEY, signing.TRUSTED_KEYS, signing.WAIVER_KEYS, "TUNEGATE_POLICY", "TUNEGATE_POLICIES")


def trust_nobody(monkeypatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def pair(directory: Path) -> tuple[str, str]:
    """Make a pair; give the paths of the private and of the public key."""
    return tuple(map(str, signing.make_keys(directory)))


def sign_and_trust(directory: Path, monkeypatch) -> None:
    """Let the gate sign with a new key, and trust that key only."""
    private, public = pair(directory)
    monkeypatch.setenv(signing.SIGNING_KEY, private)
    monkeypatch.setenv(signing.TRUSTED_KEYS, public)
