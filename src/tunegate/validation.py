"""Explain what is wrong with a YAML file that people write: sentences with the key and the nearest right key."""

import difflib
from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tunegate.errors import BadInput


def read_yaml(text: str, name: str) -> dict:
    """Parse a mapping of sections, or say in a sentence what it is instead."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise BadInput(f"{name} must be a mapping of sections; it is {type(document).__name__}.")
    return document


def explain(error: ValidationError, model: type[BaseModel], name: str) -> str:
    """Turn a pydantic error into sentences: the key, what is wrong, and the nearest right key."""
    sentences = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        where = ".".join(path)
        if problem["type"] == "extra_forbidden":
            known = _keys(model, path[:-1])
            nearest = difflib.get_close_matches(path[-1], known, n=1)
            hint = f"Did you mean '{nearest[0]}'?" if nearest else f"Known keys here: {', '.join(known)}."
            sentences.append(f"{name}: unknown key '{where}'. {hint}")
        elif problem["type"] == "missing":
            sentences.append(f"{name}: '{where}' is missing.")
        else:
            place = f"{name}: '{where}'" if where else name
            given = f" (given: {problem['input']!r})" if isinstance(problem["input"], str | int | float | None) else ""
            sentences.append(f"{place}: {problem['msg'].removeprefix('Value error, ')}{given}.")
    return " ".join(sentences)


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """Name the keys of the section at `path`; of sections that a key tells apart, the path has that key's value."""
    inside = [model]
    for part in path:
        fields = [f for one in inside for n, f in one.model_fields.items() if part in (n, f.alias)]
        tagged = [one for one in inside if len(inside) > 1 and any(f.annotation == Literal[part] for f in one.model_fields.values())]
        if tagged:
            inside = tagged
        elif fields:
            inside = _sections(fields[0].annotation)
        elif not part.isdigit():
            return []
    return [f.alias or n for n, f in inside[0].model_fields.items()] if inside else []


def _sections(annotation) -> list[type[BaseModel]]:
    """List the sections that an annotation speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]
