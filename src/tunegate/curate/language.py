"""Drop rows in a language that is not wanted, as py3langid tells it from the words of user and assistant.

Not covered: a row whose turns are in two languages, such as a translation, counts as the one it has more of.
"""

from functools import cache
from importlib.util import find_spec

from tunegate.curate.row_stages import Context, Outcome
from tunegate.errors import BadInput
from tunegate.recipe import Curate

# Languages that count as one with another: py3langid tells apart what people write under one name (ISO 639-3 macrolanguages).
KIN = {"ar": {"ary", "arz"}, "ku": {"sdh"}, "lv": {"ltg"}, "no": {"nn"}, "uz": {"uzs"}, "zh": {"wuu", "yue"}}


def off(config: Curate, context: Context) -> str:
    if not config.language.keep:
        return "curate.language.keep is empty"
    if find_spec("py3langid") is None:
        raise BadInput("curate.language.keep needs the package py3langid. Install tunegate[language], or leave `keep` empty.")
    return ""


def check(rows: list[dict], config: Curate, context: Context) -> list[Outcome]:
    """Drop with the found language in the reason; what is too short or too uncertain to tell stays."""
    settings, identifier = config.language, _identifier()
    keep = set(settings.keep).union(*(KIN.get(code, ()) for code in settings.keep))
    outcomes: list[Outcome] = []
    for row in rows:
        text = "\n".join(turn["content"] for turn in row["messages"] if turn["role"] != "system")
        outcome = None
        if len(text) >= settings.min_characters:
            found, probability = identifier.classify(text)
            if found not in keep and probability >= settings.min_probability:
                outcome = f"language: {found}"
        outcomes.append(outcome)
    return outcomes


@cache
def _identifier():
    # Takes a second to load, once a process. Probabilities, unlike its raw scores, mean the same for texts of any length.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
