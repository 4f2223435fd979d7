"""Drop training rows that give away a text by which the model will be judged; held texts never change.

Three ways, the first that applies is the reason: equal after normalising, near-duplicate (5-gram Jaccard), and coverage: the
share of a held text's words that stand in 8-grams of words which one training row has too (Tulu 3, Lambert et al. 2024,
section 3.2). Coverage finds a held text inside a longer row, which the others do not.

An 8-gram of more than TEMPLATE_TEXTS texts of one held set belongs to their template (instructions that stand in every
prompt): it proves no leak, and its words are not counted. Held texts with fewer words than short_words besides are only
compared in the other two ways.

Not covered: paraphrase, translation, and a leak that is spread over several rows.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tunegate.curate.join import similar_to
from tunegate.recipe import Decontaminate

TEMPLATE_TEXTS = 10  # arbitrary: what stands in more texts than this was not written for one item

Place = tuple[int, int]  # held text, and the word in it at which an 8-gram begins


@dataclass
class Index:
    """8-grams of held texts: their numbers, and the places of each; `counted`: the words of each text outside its template."""

    numbers: dict[str, int] = field(default_factory=dict)
    places: list[list[Place]] = field(default_factory=list)
    counted: dict[int, set[int]] = field(default_factory=dict)


def decontaminate(
    train: list[str], held: dict[str, list[str]], settings: Decontaminate, cluster_jaccard: float
) -> dict[int, tuple[str, str, str]]:
    """Give for each place in `train` that must go: the reason, and the name of the held set and the held text it gives away.

    Args:
        train: similarity texts of the training rows.
        held: by the name of the set: similarity texts of its rows, or normalised texts.
    """
    names = [name for name, texts in held.items() for _ in texts]
    texts = [text for texts in held.values() for text in texts]
    first: dict[str, int] = {}
    for j, text in enumerate(texts):
        first.setdefault(text, j)
    hits = {i: ("equal to a held text", first[text]) for i, text in enumerate(train) if text in first}
    for i, j in similar_to(train, texts, cluster_jaccard):
        hits.setdefault(i, ("near-duplicate of a held text", j))
    for i, j in _covering(train, names, texts, settings).items():
        hits.setdefault(i, (f"covers a held text with {settings.ngram_words}-grams", j))
    return {i: (reason, names[j], texts[j]) for i, (reason, j) in sorted(hits.items())}


def _covering(train: list[str], names: list[str], texts: list[str], settings: Decontaminate) -> dict[int, int]:
    """Give for each training text that covers held ones the place of the most covered."""
    index = _index(names, texts, settings)
    known: dict[tuple[int, ...], int | None] = {}  # many rows match the same few 8-grams and nothing else
    found = {}
    for i, text in enumerate(train):
        matched = tuple(sorted({index.numbers[gram] for _, gram in _grams(text, settings.ngram_words) if gram in index.numbers}))
        if matched and matched not in known:
            known[matched] = _most_covered(matched, index, settings)
        if matched and known[matched] is not None:
            found[i] = known[matched]
    return found


def _index(names: list[str], texts: list[str], settings: Decontaminate) -> Index:
    """Index the held texts that are long enough without their template."""
    width = settings.ngram_words
    spread: Counter = Counter()
    for name, text in zip(names, texts, strict=True):
        spread.update({(name, gram) for _, gram in _grams(text, width)})
    index = Index()
    for j, (name, text) in enumerate(zip(names, texts, strict=True)):
        own = []
        counted = set(range(len(text.split())))
        for start, gram in _grams(text, width):
            if spread[name, gram] > TEMPLATE_TEXTS:
                counted.difference_update(range(start, start + width))
            else:
                own.append((start, gram))
        if len(counted) < settings.short_words:
            continue
        index.counted[j] = counted
        for start, gram in own:
            number = index.numbers.setdefault(gram, len(index.numbers))
            if number == len(index.places):
                index.places.append([])
            index.places[number].append((j, start))
    return index


def _most_covered(matched: tuple[int, ...], index: Index, settings: Decontaminate) -> int | None:
    """Give the held text of which `matched` 8-grams cover the largest share, if that is enough; of several, the first."""
    covered: dict[int, set[int]] = defaultdict(set)
    for number in matched:
        for j, start in index.places[number]:
            covered[j].update(range(start, start + settings.ngram_words))
    shares = {j: len(words & index.counted[j]) / len(index.counted[j]) for j, words in covered.items()}
    best = min(shares, key=lambda j: (-shares[j], j))
    return best if shares[best] >= settings.min_coverage else None


def _grams(text: str, width: int) -> Iterator[tuple[int, str]]:
    """Give the runs of `width` words of a text, and the place of the first word of each."""
    words = text.split()
    for start in range(len(words) - width + 1):
        yield start, " ".join(words[start : start + width])
