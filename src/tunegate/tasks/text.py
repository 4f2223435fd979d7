"""Compare an answer with the expected one as text."""

import re
from functools import cache

from tunegate import rows

WORD = re.compile(r"[^\W_]+")  # rouge-score's own words, but of any script: its default keeps a to z and 0 to 9 only


def exact(task, output: str, row: dict) -> float:
    """Give 1 where the texts are equal but for white space at either end."""
    return float(output.strip() == rows.answer(row).strip())


def label(task, output: str, row: dict) -> float:
    """Give 1 where the texts are equal but for case and white space."""
    return float(as_label(output) == as_label(rows.answer(row)))


def as_label(text: str) -> str:
    return " ".join(text.casefold().split())


def rouge_l(task, output: str, row: dict) -> float:
    """Give the F-measure of the longest common subsequence of words (Lin 2004, "ROUGE"), without stemming, by rouge-score.

    Not covered: scripts without spaces between words, where chrf tells more.
    """
    return float(_rouge().score(rows.answer(row), output)["rougeL"].fmeasure)


def chrf(task, output: str, row: dict) -> float:
    """Give chrF2, the F-score of character 1- to 6-grams (Popović 2015), by sacrebleu, as a share."""
    from sacrebleu import sentence_chrf

    return sentence_chrf(output, [rows.answer(row)]).score / 100


def bleu(task, output: str, row: dict) -> float:
    """Give the smoothed BLEU of the one answer (Papineni et al. 2002; Chen and Cherry 2014), by sacrebleu, as a share.

    Not covered: the mean over items is not the corpus BLEU that papers report.
    """
    from sacrebleu import sentence_bleu

    return min(1.0, sentence_bleu(output, [rows.answer(row)]).score / 100)  # a hair above 100 where all is equal


@cache
def _rouge():
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    class Words(Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            return WORD.findall(text.lower())

    return RougeScorer(["rougeL"], tokenizer=Words())
