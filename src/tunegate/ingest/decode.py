"""Decode the JSON of one record: as fast as orjson, and as strict as JSON text that is to be trusted.

orjson takes the last of two equal keys without a word, makes floats of integers over 64 bits, and cannot say half of a
surrogate pair. So what it refuses is decided, and explained, by the json module; a record with tools, whose arguments hold
numbers that count, goes there at once; and the keys of what orjson took are counted: twice the same leaves fewer than the
colons say.
"""

import json

import orjson

MAX_DEPTH = 100  # arbitrary: far above any conversation, far below where Python's stack ends


class RepeatedKey(ValueError):
    pass


def decode(data: bytes, exact: bool = False) -> tuple[object, str]:
    """Give the value of JSON text in UTF-8, and what is wrong with it (empty: nothing); `exact` keeps integers over 64 bits."""
    try:
        if exact or b'"tool' in data:
            return _strict(data)
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            return _strict(data)
        return _strict(data) if _repeats_a_key(data, value) else (value, "")
    except RecursionError:
        return None, f"nested too deep: more than {MAX_DEPTH} objects and lists in one another"


def _repeats_a_key(data: bytes, value) -> bool:
    """Say whether valid JSON has more keys in its text than in its value, which keeps one of those that are equal."""
    keys = _count_keys(value)
    return data.count(b":") != keys and _count_structural_colons(data) != keys


def _count_keys(value, depth: int = 1) -> int:
    """Count the keys of all objects in a value.

    Raises:
        RecursionError: it is deeper than MAX_DEPTH.
    """
    if depth > MAX_DEPTH:
        raise RecursionError
    if type(value) is dict:
        keys, inside = len(value), value.values()
    elif type(value) is list:
        keys, inside = 0, value
    else:
        return 0
    for inner in inside:
        if type(inner) is dict or type(inner) is list:
            keys += _count_keys(inner, depth + 1)
    return keys


def _count_structural_colons(data: bytes) -> int:
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Without escapes every quote begins or ends a text, and every other piece between quotes lies outside of all texts.
    return b"".join(data.split(b'"')[::2]).count(b":")


def _strict(data: bytes) -> tuple[object, str]:
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object)
        _count_keys(value)  # for its depth
        return value, ""
    except UnicodeDecodeError:
        return None, "not UTF-8"
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} at column {error.colno}"
    except RepeatedKey as error:
        return None, f"the key {error} stands twice in one object"
    except ValueError:
        return None, "not JSON that can be read: it has a number of thousands of digits"


def _object(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise RepeatedKey(next(repr(key) for key, _ in pairs if key in seen or seen.add(key)))
    return found
