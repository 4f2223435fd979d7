"""Sign a verdict and check whose it is: a DSSE envelope (github.com/secure-systems-lab/dsse) beside it, with ed25519 keys.

Keys come from the environment only, each as the path of a PEM file or as its text, as a Kubernetes secret gives it:

    TUNEGATE_SIGNING_KEY    the gate's private key; without it verdicts stay unsigned
    TUNEGATE_TRUSTED_KEYS   public keys; once this is set, a verdict without a valid signature of one of them is refused
    TUNEGATE_WAIVER_KEYS    public keys of those who may waive a verdict (see waiver.py); never the gate's own

ed25519 is deterministic (RFC 8032): the same verdict under the same key gives the same envelope. A variable that is set and holds
nothing is an error, not an absent one, so that an empty secret cannot turn the check off.
"""

import binascii
import json
import os
import re
import stat
import sys
from pathlib import Path

from tunegate.digests import write_atomic
from tunegate.errors import BadInput, Refused
from tunegate.steps import say

SIGNING_KEY, TRUSTED_KEYS, WAIVER_KEYS = "TUNEGATE_SIGNING_KEY", "TUNEGATE_TRUSTED_KEYS", "TUNEGATE_WAIVER_KEYS"
# What the steps of a cluster get of its secret beside the credentials: the private key the gate alone, what checks it those after too.
SIGNER_KEYS = (SIGNING_KEY,)
CHECKER_KEYS = (TRUSTED_KEYS, WAIVER_KEYS, "TUNEGATE_POLICIES")
PAYLOAD_TYPE = "application/vnd.in-toto+json"
VERDICT, ENVELOPE = "verdict.json", "verdict.dsse.json"
PUBLIC_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
MAKE_KEYS = "`tunegate keys` makes a pair."


def make_keys(directory: Path) -> tuple[Path, Path]:
    """Write a new pair, private.pem (for its owner alone) and public.pem, and give both paths.

    Raises:
        BadInput: one of them is there already; a key that was lost cannot be had again.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from securesystemslib.signer import CryptoSigner

    private, public = directory / "private.pem", directory / "public.pem"
    for path in (private, public):
        if path.exists():
            raise BadInput(f"{path} is there already, and is not replaced. Give another directory.")
    directory.mkdir(parents=True, exist_ok=True)
    signer = CryptoSigner.generate_ed25519()
    with open(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(signer.private_bytes)
    public.write_bytes(signer.public_key._crypto_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def signer_of(source: str, name: str):
    """Read a private key from `source`, the path of a PEM file or its text; `name` is what sentences call it.

    Raises:
        BadInput: there is no such file, or it holds no ed25519 private key. The sentence never holds `source`: it may be the key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    try:
        key = load_pem_private_key(_pem(source, name, private=True), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadInput(f"{name} holds no private key that can be read (PEM, PKCS 8, without a password). {MAKE_KEYS}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{name} is not an ed25519 key. {MAKE_KEYS}")
    return CryptoSigner(key)


def public_keys(source: str, name: str) -> list:
    """Read one or more ed25519 public keys, one PEM block after the other, from the path of a file or its text.

    Raises:
        BadInput: there is no such file, or it holds no public key or one of another kind.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    text = _pem(source, name, private=False).decode("ascii", "replace")
    try:
        keys = [load_pem_public_key(block.encode()) for block in PUBLIC_PEM.findall(text)]
    except ValueError:
        raise BadInput(f"{name} holds a public key that cannot be read. {MAKE_KEYS}") from None
    if not keys or not all(isinstance(key, Ed25519PublicKey) for key in keys):
        why = "one is of another kind" if keys else "there is none"
        raise BadInput(f"{name} must hold ed25519 public keys in PEM, and {why}. {MAKE_KEYS}")
    return [SSlibKey.from_crypto(key) for key in keys]


def _pem(source: str, name: str, private: bool) -> bytes:
    if "-----BEGIN" in source:
        return source.encode()
    try:
        if private and os.stat(source).st_mode & stat.S_IROTH:
            say(f"tunegate: the file of {name} can be read by everybody on this machine. Run chmod 600 on it.", file=sys.stderr)
        return Path(source).read_bytes()
    except (OSError, ValueError):
        raise BadInput(f"{name} is neither the text of a PEM key nor the path of a file that can be read. {MAKE_KEYS}") from None


def trusted_keys(name: str = TRUSTED_KEYS) -> list | None:
    """Give the public keys of an environment variable; None where it is not set."""
    source = os.environ.get(name)
    return None if source is None else public_keys(source, name)


def seal(payload: bytes, signer) -> dict:
    """Put `payload` into a signed envelope."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return envelope.to_dict()


def unseal(document, keys: list | None, what: str) -> tuple[bytes, str]:
    """Give the payload of an envelope and the id of the key that signed it; with `keys`, only if it is one of them.

    Raises:
        Refused: this is no envelope, or none of `keys` signed it.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError

    try:
        envelope = Envelope.from_dict(document)
        if envelope.payload_type != PAYLOAD_TYPE or not envelope.signatures:
            raise ValueError("not ours")
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
        raise Refused(f"The signature of {what} is no DSSE envelope of an in-toto statement. Sign it again.") from None
    if keys is None:
        return envelope.payload, next(iter(envelope.signatures))
    try:
        return envelope.payload, next(iter(envelope.verify(keys, threshold=1)))
    except (VerificationError, ValueError):
        raise Refused(f"The signature of {what} is not valid under any key that is trusted for it, so it proves nothing.") from None


def sign_where_asked(directory: Path) -> str | None:
    """Write verdict.dsse.json beside the verdict where TUNEGATE_SIGNING_KEY is set; give the id of the key, or None."""
    source = os.environ.get(SIGNING_KEY)
    if source is None:
        return None
    signer = signer_of(source, SIGNING_KEY)
    document = seal((directory / VERDICT).read_bytes(), signer)
    write_atomic(directory / ENVELOPE, json.dumps(document, indent=1, sort_keys=True) + "\n")
    return signer.public_key.keyid


def claimed(directory: Path) -> str:
    """Say who an envelope says that it is signed by, unchecked: for who has just written it."""
    path = directory / ENVELOPE
    return f"signed by {unseal(json.loads(path.read_bytes()), None, str(path))[1][:12]}" if path.is_file() else "unsigned"


def signature(directory: Path, keys: list | None = None) -> str:
    """Say who signed the verdict: "signed by …", "signed by …, not checked" or "unsigned"; refuse a signature that is bad or missing.

    Args:
        keys: the trusted public keys; by default those of TUNEGATE_TRUSTED_KEYS, and without these nothing can be checked.

    Raises:
        Refused: the envelope is about another verdict; or keys are trusted and none of them signed it.
    """
    keys = trusted_keys() if keys is None else keys
    path, verdict = directory / ENVELOPE, (directory / VERDICT).read_bytes()
    if not path.is_file():
        if keys is None:
            return "unsigned"
        raise Refused(f"The verdict in {directory} is unsigned, and only signed ones are trusted here. Run the gate with {SIGNING_KEY}.")
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        document = None
    payload, key = unseal(document, keys, str(path))
    if payload != verdict:
        raise Refused(f"{path} signs another verdict: {VERDICT} beside it was changed after it was signed. Run the gate again.")
    return f"signed by {key[:12]}{'' if keys is not None else f', not checked ({TRUSTED_KEYS} is not set)'}"
