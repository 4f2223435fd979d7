"""Check an answer against the JSON Schema of the recipe: a checker of the user's own, without a program in it.

By jsonschema, draft 2020-12 unless the schema names another. Patterns are RE2's (see patterns), and nothing is fetched: a
reference may only lead into the schema itself.

Not covered: `format`, which is not looked at; patternProperties, which is refused, because jsonschema gives its patterns to
Python's `re`.
"""

import json
from collections.abc import Iterator
from functools import cache

from tunegate import rows
from tunegate.digests import canonical_json
from tunegate.tasks import json_values, patterns

NAMED = ("$defs", "definitions", "properties", "dependentSchemas")  # keywords that hold schemas by names of the user's
LITERAL = ("const", "default", "enum", "examples")  # and those that hold plain values
PROBES = (None, True, 0, "", [], {})  # tried on a schema when the recipe is read: one that refers to itself alone never ends
MOST_SAID = 160  # characters of what jsonschema says; it quotes the value


def satisfies(task, output: str, row: dict) -> float:
    """Give 1 where the whole answer is JSON that satisfies task.json_schema; the expected answer is not looked at."""
    return float(not _fault(task, output))


def unfit(task, row: dict) -> str:
    return _fault(task, rows.answer(row))


def _fault(task, text: str) -> str:
    value = json_values.read(text)
    if value is None:
        return "is not JSON"
    try:
        error = next(_validator(canonical_json(task.json_schema)).iter_errors(value[0]), None)
    except RecursionError:
        return "is nested too deep"
    return f"does not satisfy task.json_schema ({_short(error.message)})" if error else ""


def refuse(schema: dict) -> None:
    """Raise ValueError where a schema cannot check an answer."""
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    try:
        validator = _validator(canonical_json(schema))
        validator.check_schema(schema)
        for inner in _schemas(schema):
            if "patternProperties" in inner:
                raise ValueError("it has patternProperties, which is not checked; use properties, or propertyNames with a pattern")
            if "pattern" in inner:
                patterns.compiled(inner["pattern"])
            for reference in (inner[key] for key in ("$ref", "$dynamicRef") if key in inner):
                resolver.lookup(reference)
        for probe in PROBES:
            list(validator.iter_errors(probe))
    except SchemaError as error:
        raise ValueError(f"it is not a JSON Schema ({_short(error.message)}); correct it") from None
    except Unresolvable as error:
        raise ValueError(f"its reference {error.ref!r} leads out of it, and nothing is fetched; put what it means under $defs") from None
    except RecursionError:
        raise ValueError("it refers to itself without end; correct its $ref") from None


def _schemas(schema: dict) -> Iterator[dict]:
    """Give a schema and all those in it."""
    yield schema
    for key, value in schema.items():
        inner = value.values() if key in NAMED else value if isinstance(value, list) else [value]
        for one in inner if key not in LITERAL else ():
            if isinstance(one, dict):
                yield from _schemas(one)


@cache
def _validator(schema: bytes):
    from jsonschema import Draft202012Validator, ValidationError
    from jsonschema.validators import extend, validator_for
    from referencing import Registry

    def matches(validator, pattern, instance, schema):
        if validator.is_type(instance, "string") and not patterns.compiled(pattern).search(instance):
            yield ValidationError(f"{instance!r} does not match {pattern!r}")

    document = json.loads(schema)
    # A registry of its own, because the default one fetches references from the network.
    return extend(validator_for(document, default=Draft202012Validator), {"pattern": matches})(document, registry=Registry())


def _short(message: str) -> str:
    return message if len(message) <= MOST_SAID else f"{message[:MOST_SAID]}…"
