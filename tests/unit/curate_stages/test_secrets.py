"""Secrets: each kind is found and replaced whole; prose, code and digests are left alone. The secrets are made up here."""

import base64
import json
import time

import pytest
from stage_rows import CONTEXT, outcomes, row

from tunegate import rows
from tunegate.curate import secrets
from tunegate.recipe import Curate, Privacy

DROP, REDACT = (Curate(privacy=Privacy(secrets=policy)) for policy in ("drop", "redact"))


def letters(count: int) -> str:
    """Give letters and digits without order, the same each time."""
    return "".join("aZ3kQ9xB7mP1wR5tY8uL2vN6cD4fG0hJsE"[(i * 7 + i // 34) % 34] for i in range(count))


def token(part: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


BODY = "\n".join([letters(64)] * 3)
# Written in pieces, so that no scanner of this repository takes them for real ones.
SECRETS = {
    "AWS Access Key": "AKIA" + letters(16).upper(),
    "GitHub Token": "ghp_" + letters(36),
    "GitLab Token": "glpat-" + letters(20),
    "OpenAI Token": "sk-proj-" + letters(20) + "T3Blbk" + "FJ" + letters(20),
    "Anthropic API Key": "sk-ant-" + "api03-" + letters(80),
    "Hugging Face Token": "hf_" + letters(34),
    "Google API Key": "AIza" + letters(35),
    "Slack Token": "xoxb-" + "1234567890-" + letters(24).lower(),
    "Stripe Access Key": "sk_live_" + letters(24),
    "JSON Web Token": f"{token({'alg': 'HS256'})}.{token({'sub': 'someone'})}.{letters(43)}",
    "Private Key": f"-----BEGIN RSA PRIVATE {'KEY'}-----\n{BODY}\n-----END RSA PRIVATE {'KEY'}-----",
    "PyPI Token": "pypi-" + "AgEIcHlwaS5vcmc" + letters(80),
    "SendGrid API Key": f"SG.{letters(22)}.{letters(43)}",
    "Telegram Bot Token": "123456789:" + letters(35),
}
ORDINARY = [
    "My password is the name of my dog, and I forgot the key to the house.",
    "The commit is 3b18e512dba79e4c8300dd08aeb37f8e728b8dad, and its parent 9f86d081884c7d659a2feaa0c55ad015.",
    "id: 123e4567-e89b-12d3-a456-426614174000",
    "What does the line -----BEGIN RSA PRIVATE KEY----- mean in a file? It says that a key follows, in base64, up to the END line.",
    "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
    'letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"',
    'path = "src/app/components/dashboard/ButtonGroupWithAVeryLongName/index"',
    "See https://example.com:8080/a/very/long/path/to-some-page-with-a-title and mail user@example.com",
    'api_key = "YOUR_API_KEY_HERE_PLEASE_REPLACE_IT"',
    "token = os.environ['SERVICE_TOKEN_FOR_THE_PRODUCTION_SYSTEM']",
    "APARTMENT, APERTURE and AKCELERATION in capitals; SKIP and ACCOUNT too.",
    "Supercalifragilisticexpialidocious is a long word.",
]


@pytest.mark.parametrize("kind", SECRETS)
def test_each_kind_is_dropped_or_replaced_whole(kind):
    text = f"Use this: {SECRETS[kind]} and go on."
    assert outcomes(secrets, [text], DROP) == [f"secret: {kind}"]
    [changed] = outcomes(secrets, [text], REDACT)
    assert rows.answer(changed) == "Use this: [SECRET] and go on."


@pytest.mark.parametrize("text", ORDINARY)
def test_what_is_no_secret_stays(text):
    assert outcomes(secrets, [text], DROP) == [None]


def test_only_the_secret_in_an_address_or_a_file_is_replaced():
    texts = [
        "postgres://admin:" + "hunter2secret@db.example.com/sales",
        "//registry.example.com/:_authToken=npm_" + letters(36),
        "aws_secret_access_key = '" + letters(40) + "'",
        'key = "' + letters(34) + '+/x9Qz"',
    ]
    assert [rows.answer(changed) for changed in outcomes(secrets, texts, REDACT)] == [
        "postgres://admin:[SECRET]@db.example.com/sales", "//registry.example.com/:_authToken=[SECRET]", 
        "aws_secret_access_key = '[SECRET]'",
        'key = "[SECRET]"',
    ]  # fmt: skip


def test_a_secret_is_found_in_any_turn_and_other_keys_stay():
    key = SECRETS["GitHub Token"]
    made = row(f"is {key} mine", f"no, {key} is not", system=f"the key is {key}", split="a", task_type="keys")
    [changed] = secrets.check([made], REDACT, CONTEXT)
    assert [turn["content"] for turn in changed["messages"]] == ["the key is [SECRET]", "is [SECRET] mine", "no, [SECRET] is not"]
    assert changed["id"] == rows.make_row(changed["messages"])["id"] != made["id"]
    assert (changed["split"], changed["task_type"]) == ("a", "keys")
    assert key in made["messages"][0]["content"]  # what came in is as it was


def test_a_token_inside_a_longer_word_is_something_else():
    assert outcomes(secrets, ["data:" + letters(50) + SECRETS["AWS Access Key"] + letters(50)], DROP) == [None]


@pytest.mark.parametrize("unit", ["//", "://a:", "xoxb-1-", "eyJ.", "-----BEGIN RSA PRIVATE KEY-----", '"aB3', "gho_"])
def test_hostile_text_takes_no_long_time(unit):
    start = time.process_time()
    outcomes(secrets, [unit * (20_000 // len(unit))], DROP)
    assert time.process_time() - start < 2  # the npm pattern of detect-secrets took longer; ours together take a tenth


def test_it_is_off_when_told():
    assert secrets.off(Curate(privacy=Privacy(secrets="off")), CONTEXT) == "curate.privacy.secrets is off"
    assert secrets.off(Curate(), CONTEXT) == ""
