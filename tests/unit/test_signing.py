"""Keys, envelopes, and the sentences about them; the keys are real."""

import json
import stat
from pathlib import Path

import keys
import pytest
from command_line import call

from tunegate.errors import BadInput, Refused
from tunegate.gate import signing


@pytest.fixture
def verdict(tmp_path, monkeypatch) -> Path:
    keys.trust_nobody(monkeypatch)
    (directory := tmp_path / "verdict").mkdir()
    (directory / "verdict.json").write_text('{"decision": "PROMOTE"}\n')
    return directory


def test_a_pair_is_made_once_and_the_private_key_is_its_owners(tmp_path, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "keys", "--output", tmp_path / "keys")
    private = tmp_path / "keys" / "private.pem"
    assert code == 0 and stat.S_IMODE(private.stat().st_mode) == 0o600
    assert str(private) in out and "BEGIN" not in out
    before = private.read_bytes()
    code, _, err = call(monkeypatch, capsys, "keys", "--output", tmp_path / "keys")
    assert code == 2 and "private.pem is there already, and is not replaced" in err
    assert private.read_bytes() == before


def test_without_a_key_nothing_is_signed_and_that_is_said(verdict):
    assert signing.sign_where_asked(verdict) is None
    assert sorted(path.name for path in verdict.iterdir()) == ["verdict.json"]
    assert signing.signature(verdict) == "unsigned"


def test_the_envelope_holds_the_bytes_of_the_verdict_and_is_the_same_each_time(verdict, tmp_path, monkeypatch):
    keys.sign_and_trust(tmp_path / "gate", monkeypatch)
    key = signing.sign_where_asked(verdict)
    first = (verdict / "verdict.dsse.json").read_bytes()
    signing.sign_where_asked(verdict)
    assert (verdict / "verdict.dsse.json").read_bytes() == first
    document = json.loads(first)
    assert document["payloadType"] == "application/vnd.in-toto+json"
    assert signing.unseal(document, signing.trusted_keys(), "it") == (b'{"decision": "PROMOTE"}\n', key)
    assert signing.signature(verdict) == f"signed by {key[:12]}"


def test_a_key_may_be_a_path_or_its_text_and_several_may_be_trusted(verdict, tmp_path, monkeypatch):
    private, public = keys.pair(tmp_path / "gate")
    _, other = keys.pair(tmp_path / "other")
    monkeypatch.setenv(signing.SIGNING_KEY, Path(private).read_text())
    monkeypatch.setenv(signing.TRUSTED_KEYS, Path(other).read_text() + Path(public).read_text())
    signing.sign_where_asked(verdict)
    assert signing.signature(verdict).startswith("signed by ")
    monkeypatch.delenv(signing.TRUSTED_KEYS)
    assert signing.signature(verdict).endswith(", not checked (TUNEGATE_TRUSTED_KEYS is not set)")


def test_where_keys_are_trusted_only_their_signature_counts(verdict, tmp_path, monkeypatch):
    keys.sign_and_trust(tmp_path / "gate", monkeypatch)
    with pytest.raises(Refused, match="is unsigned, and only signed ones are trusted here"):
        signing.signature(verdict)
    stranger, _ = keys.pair(tmp_path / "stranger")
    monkeypatch.setenv(signing.SIGNING_KEY, stranger)
    signing.sign_where_asked(verdict)
    with pytest.raises(Refused, match="not valid under any key that is trusted"):
        signing.signature(verdict)


def test_a_signature_holds_for_its_own_verdict_whether_keys_are_trusted_or_not(verdict, tmp_path, monkeypatch):
    keys.sign_and_trust(tmp_path / "gate", monkeypatch)
    signing.sign_where_asked(verdict)
    (verdict / "verdict.json").write_text('{"decision": "PROMOTE" }\n')
    with pytest.raises(Refused, match="signs another verdict"):
        signing.signature(verdict)
    monkeypatch.delenv(signing.TRUSTED_KEYS)
    with pytest.raises(Refused, match="signs another verdict"):
        signing.signature(verdict)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"payload": 1, "payloadType": "x", "signatures": []}', '{"payload": "", "payloadType": '
                         '"application/vnd.in-toto+json", "signatures": [{"keyid": "a", "sig": "not base64"}]}'])  # fmt: skip
def test_what_is_no_envelope_is_refused(verdict, text):
    (verdict / "verdict.dsse.json").write_text(text)
    with pytest.raises(Refused, match="is no DSSE envelope"):
        signing.signature(verdict)


def test_an_empty_variable_does_not_turn_the_check_off(verdict, monkeypatch):
    monkeypatch.setenv(signing.TRUSTED_KEYS, "")
    with pytest.raises(BadInput, match="TUNEGATE_TRUSTED_KEYS is neither the text of a PEM key nor the path"):
        signing.signature(verdict)
    monkeypatch.setenv(signing.SIGNING_KEY, "")
    with pytest.raises(BadInput, match="TUNEGATE_SIGNING_KEY is neither"):
        signing.sign_where_asked(verdict)


def test_a_sentence_never_holds_the_key(verdict, tmp_path, monkeypatch, capfd):
    private, public = keys.pair(tmp_path / "gate")
    secret = Path(private).read_text().splitlines()[1]
    for wrong in (secret, f"-----BEGIN PRIVATE KEY-----{secret}", Path(private).read_text().replace(secret, secret[:-8] + "AAAAAAA=")[:70]):
        monkeypatch.setenv(signing.SIGNING_KEY, wrong)
        with pytest.raises(BadInput) as refused:
            signing.sign_where_asked(verdict)
        assert secret[:16] not in str(refused.value)
    monkeypatch.setenv(signing.SIGNING_KEY, public)
    with pytest.raises(BadInput, match="holds no private key that can be read"):
        signing.sign_where_asked(verdict)
    monkeypatch.setenv(signing.TRUSTED_KEYS, private)
    with pytest.raises(BadInput, match="must hold ed25519 public keys in PEM, and there is none"):
        signing.signature(verdict)
    assert secret[:16] not in "".join(capfd.readouterr())


def test_a_private_key_that_everybody_can_read_is_warned_of(verdict, tmp_path, monkeypatch, capfd):
    keys.sign_and_trust(tmp_path / "gate", monkeypatch)
    signing.sign_where_asked(verdict)
    assert capfd.readouterr().err == ""
    (tmp_path / "gate" / "private.pem").chmod(0o644)
    signing.sign_where_asked(verdict)
    assert "TUNEGATE_SIGNING_KEY can be read by everybody" in capfd.readouterr().err


def test_a_key_of_another_kind_is_refused(verdict, tmp_path, monkeypatch):
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from securesystemslib.signer import CryptoSigner

    signer = CryptoSigner.generate_ecdsa()
    monkeypatch.setenv(signing.SIGNING_KEY, signer.private_bytes.decode())
    with pytest.raises(BadInput, match="is not an ed25519 key"):
        signing.sign_where_asked(verdict)
    public = signer.public_key._crypto_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    monkeypatch.setenv(signing.TRUSTED_KEYS, public.decode())
    with pytest.raises(BadInput, match="one is of another kind"):
        signing.signature(verdict)
