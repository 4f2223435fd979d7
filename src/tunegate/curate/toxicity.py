"""Drop rows whose answers use profane words or slurs, by the word list of profanex (English; LDNOOBW's, reviewed).

A word list, because the classifiers that could be had offline come as pickles (alt-profanity-check), which are programs, or
must be downloaded (detoxify). Only answers count: a rude question with a polite answer is worth learning.

Not covered: other languages, insults and threats in clean words; "cock" the bird is hit as well.
"""

from functools import cache
from importlib.util import find_spec

from tunegate.curate.row_stages import Context, Outcome
from tunegate.errors import BadInput
from tunegate.recipe import Curate


def off(config: Curate, context: Context) -> str:
    if config.toxicity.max_profane_words is None:
        return "curate.toxicity.max_profane_words is not set"
    if find_spec("profanex") is None:
        raise BadInput("curate.toxicity.max_profane_words needs the package profanex. Install tunegate[toxicity], or leave it unset.")
    return ""


def check(rows: list[dict], config: Curate, context: Context) -> list[Outcome]:
    """Drop rows with more profane words in their answers than toxicity.max_profane_words."""
    answers = ["\n".join(turn["content"] for turn in row["messages"] if turn["role"] == "assistant") for row in rows]
    found = (len(_filter().find(answer)) for answer in answers)
    return ["profane words" if count > config.toxicity.max_profane_words else None for count in found]


@cache
def _filter():
    from profanex import Filter

    return Filter()
