"""Drop rows whose answers go round in circles.

Short answers only meet the first rule, the same words or sentence many times in a row. The others are Gopher's (Rae et al.
2021, table A1), which are shares, and mean nothing in a short text: "no, no" would already be over. They begin at 50 words,
and an n-gram must also come as often as words may in a row: in an answer of 60 words a phrase that comes twice is over.
Where a script puts no spaces between words, characters stand for them, two for a word.
"""

import re
from collections import Counter

from tunegate.curate.row_stages import Context, Outcome
from tunegate.recipe import Curate, Repetition

MIN_WORDS = 50  # Gopher's shares from here; its own filters drop shorter texts altogether
MAX_PERIOD = 10  # words that are repeated together; arbitrary: longer ones mostly end in a full stop, and are found as sentences
NGRAMS = (2, 3, 4)
CHARACTERS_PER_WORD = 2  # in Chinese, Japanese and Thai, roughly

# Han, kana, Thai, Lao, Burmese, Khmer
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
SENTENCE_END = re.compile(r"[.!?。！？।]+(?:\s+|$)|(?<=[。！？।])|\n+")


def off(config: Curate, context: Context) -> str:
    return "" if config.repetition.enabled else "curate.repetition.enabled is false"


def check(rows: list[dict], config: Curate, context: Context) -> list[Outcome]:
    """Drop with the first rule that an answer breaks."""
    outcomes: list[Outcome] = []
    for row in rows:
        answers = (turn["content"] for turn in row["messages"] if turn["role"] == "assistant")
        outcomes.append(next((found for answer in answers if (found := repetition(answer, config.repetition))), None))
    return outcomes


def repetition(text: str, settings: Repetition) -> str:
    """Say how a text repeats itself; empty when it does not."""
    unspaced = len(UNSPACED.findall(text)) * 2 > len(text)
    scale = CHARACTERS_PER_WORD if unspaced else 1
    units = [character for character in text if not character.isspace()] if unspaced else text.split()
    if _in_a_row([unit.lower() for unit in units], MAX_PERIOD * scale, settings.max_repeats):
        return "the same words many times in a row"
    sentences = [" ".join(sentence.lower().split()) for sentence in SENTENCE_END.split(text)]
    if _in_a_row([sentence for sentence in sentences if sentence], 1, settings.max_repeats):
        return "the same sentence many times in a row"
    if len(units) < MIN_WORDS * scale:
        return ""
    if _line_share(text) > settings.max_line_share:
        return "repeated lines"
    for n, most in zip(NGRAMS, settings.max_top_ngram_share, strict=True):
        if _top_share(units, n * scale, settings.max_repeats) > most:
            return f"one {n}-gram makes up too much"
    return ""


def _in_a_row(units: list[str], max_period: int, repeats: int) -> bool:
    """Tell whether up to `max_period` units come `repeats` times in a row, with a word among them.

    Numbers and punctuation may: tables and rulers are made of them. A unit that ends in a comma is an item of a list, which
    may hold the same value often.
    """
    # Each repetition repeats a unit at least, so most texts need no closer look.
    if len(units) - len(set(units)) < repeats - 1:
        return False
    for period in range(1, max_period + 1):
        run = words = 0
        for before, unit in zip(units, units[period:], strict=False):
            run, words = (run + 1, words + _is_word(unit)) if unit == before else (0, 0)
            if run >= period * (repeats - 1) and words:
                return True
    return False


def _is_word(unit: str) -> bool:
    return any(map(str.isalpha, unit)) and not unit.endswith((",", "、", "，", ";"))


def _line_share(text: str) -> float:
    """Give the share of the characters that are in lines that stood there before, of lines with a letter."""
    lines = Counter(line.strip() for line in text.splitlines() if any(map(str.isalpha, line)))
    return sum(len(line) * (count - 1) for line, count in lines.items()) / (sum(map(len, lines.elements())) or 1)


def _top_share(units: list[str], n: int, repeats: int) -> float:
    """Give the share of the characters that are in the n-gram with most, of n-grams with a word that come `repeats` times."""
    ngrams = Counter(zip(*(units[i:] for i in range(n)), strict=False))
    often = (len("".join(ngram)) * count for ngram, count in ngrams.items() if count >= repeats and any(map(_is_word, ngram)))
    return max(often, default=0) / len("".join(units))
