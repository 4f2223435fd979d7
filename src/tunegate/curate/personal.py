"""Replace personal data in the turns of user and assistant by the name of its kind, or drop such rows.

By presidio's pattern recognisers, each made by itself: its AnalyzerEngine would download a language model. Question and answer
go through the same patterns, so that an answer that repeats an address of the question still does.

Not covered: names, addresses and whatever else only a language model finds; numbers without a form of their own, such as a
social security number without hyphens.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from tunegate.curate.redaction import Span, replace, texts, with_texts
from tunegate.curate.row_stages import Context, Outcome
from tunegate.curate_names import ENTITIES
from tunegate.recipe import Curate

SPEAKERS = ("user", "assistant", "tool")
MIN_SCORE = 0.4  # presidio's for phone numbers; what scores less needs words around it to be told from any number

CARD = re.compile(r"(?!1)(?:\d{12,19}|(?:\d{4}[ -]){3}\d{1,4}|\d{4}[ -]\d{6}[ -]\d{4,5})")  # those that begin with 1 are airlines' own
# What presidio takes for personal data, and is ordinary: entity -> whether a match is meant.
MEANT: dict[str, Callable[[str], bool]] = {
    "US_SSN": lambda found: "-" in found,  # three numbers with spaces between
    "CREDIT_CARD": lambda found: bool(CARD.fullmatch(found)),  # years in a row, a subtraction
    "IP_ADDRESS": lambda found: any(map(str.isdigit, found)),  # names in a program: Face::add is a fine IPv6 address
}
# What a text must have to hold an entity, quicker to look for than the entity; a digit, where nothing stands here.
NEEDS = {
    "CREDIT_CARD": r"\d{4}[- ]?\d{3}", "EMAIL_ADDRESS": "@", "IBAN_CODE": r"[A-Z]{2}\d\d",
    "IP_ADDRESS": r"[.:](?:\d{1,3}\.\d|[\dA-Fa-f]{0,4}:)", "MAC_ADDRESS": "[.:-]", "URL": r"\.", "US_SSN": r"-\d\d-\d{4}",
}  # fmt: skip
NEEDED = {entity: re.compile(NEEDS.get(entity, r"\d")) for entity in ENTITIES}


def off(config: Curate, context: Context) -> str:
    if config.privacy.personal == "off":
        return "curate.privacy.personal is off"
    return "" if config.privacy.entities else "curate.privacy.entities is empty"


def check(rows: list[dict], config: Curate, context: Context) -> list[Outcome]:
    """Put [ENTITY] in the place of each, or drop with the first entity in the reason."""
    entities = config.privacy.entities
    outcomes: list[Outcome] = []
    for row in rows:
        said = (text for turn in row["messages"] if turn["role"] in SPEAKERS for text in texts(turn))
        name = next((name for text in said for _, _, name in sorted(_entities(text, entities))), None)
        if name is None:
            outcomes.append(None)
        elif config.privacy.personal == "drop":
            outcomes.append(f"personal data: {name}")
        else:
            outcomes.append(with_texts(row, lambda text: replace(text, list(_entities(text, entities))), SPEAKERS))
    return outcomes


def _entities(text: str, entities: list[str]) -> Iterator[Span]:
    for entity in entities:
        if NEEDED[entity].search(text):
            for result in _recognisers()[entity].analyze(text, [entity]):
                if result.score >= MIN_SCORE and MEANT.get(entity, bool)(text[result.start : result.end]):
                    yield result.start, result.end, entity


@cache
def _recognisers() -> dict:
    """Make a recogniser for each entity, once a process."""
    with _hidden("torch", "transformers", "gliner", "stanza"):
        # presidio looks for all of these when it is imported, which takes seconds and memory, and needs none for patterns.
        from presidio_analyzer import LocalRecognizer, predefined_recognizers
    import tldextract

    suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # those in its package; by default it would fetch a list

    class OfflineEmailRecognizer(predefined_recognizers.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return suffixes(pattern_text).fqdn != ""

    classes = [found for found in vars(predefined_recognizers).values() if _has_patterns(found, LocalRecognizer)]
    made = [found() for found in classes if found is not predefined_recognizers.EmailRecognizer] + [OfflineEmailRecognizer()]
    return {entity: recogniser for recogniser in made for entity in recogniser.supported_entities}


def _has_patterns(found, base: type) -> bool:
    """Tell recognisers that only have patterns or, for phone numbers, a package of them, from those that load a model."""
    from presidio_analyzer import PatternRecognizer

    if not isinstance(found, type) or not issubclass(found, base):
        return False
    return issubclass(found, PatternRecognizer) or found.__name__ == "PhoneRecognizer"


@contextmanager
def _hidden(*names: str):
    """Make packages look as if they were not installed."""
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update(dict.fromkeys(names))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(before)
