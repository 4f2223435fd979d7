"""Check a split by comparing all texts of one part with all of another: exact, and by other means than the clusters."""

from pathlib import Path

import numpy as np

from tunegate import rows
from tunegate.curate.join import join


def count_straddling_files(directory: Path, sides: dict[str, str], threshold: float) -> int:
    """Read the files of a split again and count the pairs of rows on different sides that are as similar as `threshold`.

    Args:
        sides: for each file, without its .jsonl, the name of the side that it is on.
    """
    texts, side = [], []
    for part, name in sides.items():
        for row in rows.read_rows(directory / f"{part}.jsonl"):
            texts.append(rows.similarity_text(row))
            side.append(name)
    return len(straddling_pairs(texts, side, threshold))


def straddling_pairs(texts: list[str], side: list[str], threshold: float) -> list[tuple[int, int]]:
    """Give the pairs i < j, sorted, of texts on different sides whose Jaccard similarity is `threshold` (above 0) or more.

    The texts of all sides but the largest are indexed, so that a small test set costs little memory beside a large train set.
    """
    names = {name: number for number, name in enumerate(sorted(set(side)))}
    sides = np.array([names[name] for name in side], dtype=np.int64)
    held = np.flatnonzero(sides != np.bincount(sides).argmax()) if texts else []
    pairs = join(texts, sides, [texts[i] for i in held], sides[held], threshold)
    return sorted({(min(i, int(held[n])), max(i, int(held[n]))) for i, n in pairs})
