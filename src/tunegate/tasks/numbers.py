"""Compare the last number of an answer with the last number of the expected one.

The last number is the answer, as in the filter flexible-extract of lm-evaluation-harness's gsm8k: the reasoning goes before it.
As there, a dollar sign and commas between thousands are passed over, and what follows a number (%, a unit, a full stop) is not
looked at. Other than there, "1, 2" and "1,2" are two numbers, and a minus sign right after a number or word is a dash.

Not covered: fractions (of 3/4 the last number is 4), numbers in words, a comma before decimals.
"""

import re
from decimal import Decimal

from tunegate import rows

NUMBER = re.compile(r"(?:(?<![\w.)])([-−]))?\$?((?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
MOST_DIGITS = 400  # of what is compared; more than a double holds, and less than takes time


def equal(task, output: str, row: dict) -> float:
    """Give 1 where the two numbers differ by task.tolerance at most."""
    got, want = last(output), last(rows.answer(row))
    return float(got is not None and abs(got - want) <= Decimal(str(task.tolerance)))


def unfit(task, row: dict) -> str:
    return "" if last(rows.answer(row)) is not None else "has no number"


def last(text: str) -> Decimal | None:
    """Give the last number in a text, exactly as it is written; None where there is none."""
    found = NUMBER.findall(text)
    if not found or len(found[-1][1]) > MOST_DIGITS:
        return None
    sign, digits, exponent = found[-1]
    return Decimal(sign.replace("−", "-") + digits.replace(",", "") + exponent)
