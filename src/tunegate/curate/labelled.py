"""Check labelled answers: {"prompt": [turns], "completion": [turns], "label": true where the answer is wanted}.

Answers that teach nothing or the wrong thing are dropped with their reason; labels that are reversed, or nearly all the same,
are said in a warning, because a person must decide.

Not covered: whether a label is right; an answer that is wanted here and rejected in a preference pair, which only says that
there is a better one.
"""

from tunegate.curate.near_duplicates import similar_pairs
from tunegate.curate.preferences import Text, answer_text, held, known_right, mostly, near, prompt_text, same, sift
from tunegate.curate.stages import near_equal
from tunegate.digests import canonical_json
from tunegate.recipe import Curate

STAGE = "labelled"
MAX_LABEL_SHARE = 0.95  # of answers with the same label; beyond it one of the other kind weighs as much as 14 or more. Arbitrary


def curate_labelled(
    answers: list[dict], held_prompts: list[list[dict]], config: Curate, sft_rows: list[dict] = ()
) -> tuple[list[dict], list[dict], list[str]]:
    """Give the answers to train on, the others with stage and reason, and warnings; in an order that the answers alone decide.

    Args:
        held_prompts: the turns before the answer of every row of dev and test.
        sft_rows: rows whose answers are known to be right; a label that calls one of them unwanted is suspect.
    """
    answers = sorted(answers, key=canonical_json)
    texts = [(prompt_text(row["prompt"]), answer_text(row["completion"]), str(row["label"])) for row in answers]
    kept, rejected = sift(answers, STAGE, [
        lambda left: {i: "empty answer" for i in left if not texts[i][1]},
        lambda left: held(answers, left, held_prompts, config), lambda left: same(texts, left, "a labelled answer"),
        lambda left: _contradictions(texts, left, config), lambda left: near(texts, left, config, "a labelled answer"),
    ])  # fmt: skip
    return kept, rejected, [warning for warning in (_reversed(kept, sft_rows), _one_sided(kept)) if warning]


def _contradictions(texts: list[Text], left: list[int], config: Curate) -> dict[int, str]:
    """Drop all answers to one prompt that are near-equal and labelled both ways: which label is right cannot be told from here."""
    places: dict[tuple[str, str], list[int]] = {}
    for i in left:
        places.setdefault(texts[i][:2], []).append(i)
    said = list(places)
    alike = [(said[a], said[b]) for a, b, _ in similar_pairs(list(map("\n".join, said)), config.duplicate_jaccard)]
    groups = list(places.values())
    groups += [places[one] + places[other] for one, other in alike if one[0] == other[0] and near_equal(one[1], other[1])]
    return {i: "the same answer has both labels" for group in groups if len({texts[i][2] for i in group}) > 1 for i in group}


def _reversed(kept: list[dict], sft_rows: list[dict]) -> str:
    wanted, unwanted = (known_right([(row["prompt"], row["completion"]) for row in kept if row["label"] is label], sft_rows)
                        for label in (True, False))  # fmt: skip
    if not mostly(unwanted, wanted + unwanted):
        return ""
    return (
        f"Labels may be reversed: of {wanted + unwanted:,} labelled answers that are also a training answer to the same prompt, "
        f"{unwanted:,} have the label false. Look at a few, and mend the column."
    )


def _one_sided(kept: list[dict]) -> str:
    wanted = sum(row["label"] for row in kept)
    most = max(wanted, len(kept) - wanted)
    if most <= MAX_LABEL_SHARE * len(kept):
        return ""
    return (
        f"{most:,} of {len(kept):,} labelled answers have the label {str(most == wanted).lower()}. Beyond {MAX_LABEL_SHARE:.0%} no weights "
        "balance the two kinds for KTO: a few answers would count as much as all others. Bring more of the other kind, or preference pairs."
    )
