"""Canonical JSON, sha256 of bytes, files and source code: what two runs must share to be the same run."""

import ast
import hashlib
import json
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def canonical_json(value) -> bytes:
    """Serialise with sorted keys, no spaces, UTF-8; NaN and infinity are errors (RFC 8785 without its number rules)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_json(value) -> str:
    return sha256(canonical_json(value))


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write beside `path` and rename, so a reader sees the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Name the tunegate modules that `module`'s source imports, lazily imported ones included."""
    path = _source(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = node.module or ""
            if node.level:
                parts = package.split(".")
                stem = ".".join(parts[: len(parts) - node.level + 1] + ([stem] if stem else []))
            found.add(stem)
            found.update(f"{stem}.{alias.name}" for alias in node.names)
    return tuple(sorted(name for name in found if name.split(".")[0] == "tunegate" and _source(name)))


@cache
def _source(module: str) -> Path | None:
    """Find the source of a module by its name alone: find_spec would import its parents, and torch with them."""
    package, *rest = module.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin) if not rest else Path(spec.origin).parent.joinpath(*rest)
    candidates = [path] if not rest else [path / "__init__.py", path.with_suffix(".py")]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def code_digest(module: str) -> str:
    """Hash the source of a tunegate module and of every tunegate module it reaches by import.

    A change in the report then does not retrain a model, and a change in the trainer always does.
    Not covered: third-party packages (their versions are in the image, or in constraints.txt).
    """
    seen, queue = set(), [module]
    while queue:
        name = queue.pop()
        if name not in seen:
            seen.add(name)
            queue.extend(_imports(name))
    return digest_json({name: sha256_file(_source(name)) for name in sorted(seen)})
