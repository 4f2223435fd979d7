"""Read a tool call that is written as XML, and compare its arguments, which have no types there.

<function=lamp><parameter=room>hall</parameter></function>              Qwen 3 Coder and 3.5, Nemotron 3
lamp<arg_key>room</arg_key><arg_value>hall</arg_value>                  GLM 4.5
"""

import re

from tunegate.tasks import json_values

QWEN = re.compile(r"\s*<function=([^>\s]+)>(.*)</function>\s*", re.DOTALL)
PARAMETER = re.compile(r"\s*<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
GLM = re.compile(r"\s*([\w.-]+)((?:\s*<arg_key>.*</arg_value>)?)\s*", re.DOTALL)
PAIR = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*", re.DOTALL)
CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}  # templates write Python's, too


class Untyped(str):
    """An argument as it was written: "5" may be a number or a text."""


def read(text: str) -> dict | None:
    """Give the one call in a text as {"name", "arguments"}, the arguments untyped; None where it is none."""
    for whole, one in ((QWEN, PARAMETER), (GLM, PAIR)):
        # GLM's call without arguments is a bare word, and so is nonsense.
        if (found := whole.fullmatch(text)) and (whole is QWEN or found.group(2)):
            arguments, place = {}, 0
            while argument := one.match(found.group(2), place):
                arguments[argument.group(1)], place = Untyped(argument.group(2)), argument.end()
            if not found.group(2)[place:].strip():
                return {"name": found.group(1), "arguments": arguments}
    return None


def means(written: Untyped, value) -> bool:
    """Say whether an untyped argument is a way to write this value."""
    if isinstance(value, str):
        return written == value
    if isinstance(value, bool) or value is None:
        return written.strip() in CONSTANTS and CONSTANTS[written.strip()] is value
    got = json_values.read(written)
    return got is not None and json_values.same(got[0], value)
