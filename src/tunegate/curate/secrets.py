"""Drop rows that hold a key, token or password, or replace it by [SECRET]: by detect-secrets' patterns, offline.

Only patterns with a form of their own are used, in any turn; nothing is verified over the network. Left out on purpose:

* the keyword plugin ("password = …"): prose and code about passwords are full of it;
* entropy of hexadecimal strings: digests, commits and UUIDs look the same;
* public IP addresses: those are personal data, not secrets;
* Artifactory, Cloudant, SoftLayer and IBM IAM: a word in capitals, or a long word after "key", is enough for them.

Entropy of base64 counts only within quotation marks, and from a limit that no word or path reaches.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module

from tunegate.curate.redaction import Span, replace, texts, with_texts
from tunegate.curate.row_stages import Context, Outcome
from tunegate.recipe import Curate

# (module of detect_secrets.plugins, class, what a text must have to hold one, whether the pattern's groups hold the secret)
PLUGINS = (
    ("aws", "AWSKeyDetector", "", True), ("azure_storage_key", "AzureStorageKeyDetector", "AccountKey", False),
    ("basic_auth", "BasicAuthDetector", "://", True), ("discord", "DiscordBotTokenDetector", ".", False),
    ("github_token", "GitHubTokenDetector", "gh", False), ("gitlab_token", "GitLabTokenDetector", "", False),
    ("ibm_cos_hmac", "IbmCosHmacDetector", "key", True), ("jwt", "JwtTokenDetector", "eyJ", False),
    ("mailchimp", "MailchimpDetector", "-us", False), ("openai", "OpenAIDetector", "T3BlbkFJ", False),
    ("pypi_token", "PypiTokenDetector", "pypi-", False), ("sendgrid", "SendGridDetector", "SG.", False),
    ("slack", "SlackDetector", "", False), ("square_oauth", "SquareOAuthDetector", "sq0csp", False),
    ("stripe", "StripeDetector", "k_live_", False), ("telegram_token", "TelegramBotTokenDetector", ":", False),
    ("twilio", "TwilioKeyDetector", "", False),
)  # fmt: skip

# What detect-secrets 1.5 does not know, from the providers' documentation; of a private key it finds only the first line, and its
# pattern for npm takes quadratic time.
OWN = (
    ("Anthropic API Key", "sk-ant-", r"sk-ant-[a-z0-9]{2,10}-[\w-]{24,}"),
    ("GitHub Token", "github_pat_", r"github_pat_\w{82}"),
    ("Google API Key", "AIza", r"AIza[\w-]{35}"),
    ("Hugging Face Token", "hf_", r"hf_[A-Za-z0-9]{34,}"),
    ("NPM tokens", ":_authToken", r":_authToken=\s*(npm_\w{20,}|[A-Fa-f0-9-]{36})"),
    (
        "Private Key", "PRIVATE KEY",
        r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:(?!-----).){0,400}?[A-Za-z0-9+/]{40}(?:(?!-----).)*(?:-----END [A-Z0-9 ]{0,30}KEY(?: BLOCK)?-----)?",
    ),
    ("Private Key", "PuTTY-User-Key-File", r"PuTTY-User-Key-File-\d: .*?Private-MAC: [0-9a-f]+"),
)  # fmt: skip

MIN_ENTROPY = 4.8  # bits a character: 40 random ones of base64 reach it, the letters of the alphabet (4.7) and paths do not; arbitrary
MIN_ENTROPY_CHARACTERS = 28  # fewer cannot reach it
ALPHABET = re.compile("abcdef|0123456", re.IGNORECASE)  # a list of characters, not a key

# Each secret has a run of characters as long as this, so most texts are read once only.
POSSIBLE = re.compile(r"[\w+/=.~:@!$%&*#-]{16,}", re.ASCII)
REST = re.compile(r"[\w-]*(?:\.[\w-]+)*", re.ASCII)  # of a token whose pattern ends too early


def off(config: Curate, context: Context) -> str:
    return "curate.privacy.secrets is off" if config.privacy.secrets == "off" else ""


def check(rows: list[dict], config: Curate, context: Context) -> list[Outcome]:
    """Drop with the kind of the first secret in the reason, or put [SECRET] in the place of each."""
    outcomes: list[Outcome] = []
    for row in rows:
        kind = next((kind for turn in row["messages"] for text in texts(turn) for _, _, kind in _secrets(text)), None)
        if kind is None:
            outcomes.append(None)
        elif config.privacy.secrets == "drop":
            outcomes.append(f"secret: {kind}")
        else:
            outcomes.append(with_texts(row, _redacted))
    return outcomes


def _redacted(text: str) -> str:
    return replace(text, [(start, end, "SECRET") for start, end, _ in _secrets(text)])


def _secrets(text: str) -> Iterator[Span]:
    """Give where secrets are in a text, and of what kind."""
    if not POSSIBLE.search(text):
        return
    for kind, needs, pattern, in_groups, valid in _patterns():
        for match in pattern.finditer(text) if needs in text else ():
            start, end = match.span(match.lastindex or 0) if in_groups else match.span()
            # Inside a longer word it is a piece of something else, such as base64.
            if (start == 0 or not text[start - 1].isalnum()) and valid(text[start:end]):
                yield start, REST.match(text, end).end(), kind
    entropy = _entropy()
    for match in entropy.regex.finditer(text):
        value = match.group(2)
        if len(value) >= MIN_ENTROPY_CHARACTERS and not ALPHABET.search(value) and entropy.calculate_shannon_entropy(value) > MIN_ENTROPY:
            yield *match.span(2), entropy.secret_type


@cache
def _patterns() -> list[tuple]:
    """Give (kind, what a text must have, pattern, whether groups hold the secret, a further check of what matched)."""
    patterns = [(kind, needs, re.compile(pattern, re.DOTALL), True, _always) for kind, needs, pattern in OWN]
    for module, name, needs, in_groups in PLUGINS:
        plugin = getattr(import_module(f"detect_secrets.plugins.{module}"), name)
        valid = plugin.is_formally_valid if name == "JwtTokenDetector" else _always
        patterns += [(plugin.secret_type, needs, pattern, in_groups, valid) for pattern in plugin.denylist]
    return patterns


@cache
def _entropy():
    from detect_secrets.plugins.high_entropy_strings import Base64HighEntropyString

    return Base64HighEntropyString(limit=MIN_ENTROPY)


def _always(found: str) -> bool:
    return True
