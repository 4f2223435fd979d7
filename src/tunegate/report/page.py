"""Fill one of the page templates: one file, no network, no JavaScript."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tunegate.report.words import duration, short_ref


def fill(template: str, **values) -> str:
    """Fill a template of this folder; a name that it uses and nobody gave is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(short_ref=short_ref, duration=duration)
    return environment.get_template(template).render(**values)
