"""Show what curation kept, changed and dropped: a section of a run's page, and a page of its own for `tunegate curate`."""

from tunegate.report import charts
from tunegate.report.page import fill


def view(told: dict) -> dict | None:
    """Choose what to show of a curation report: the funnel, and an example for each reason a row was dropped or changed for."""
    if not told:
        return None
    stages = [{"label": "rows in", "rows": told["rows_in"]}]
    stages += [{"label": f"after {stage['stage']}", "rows": stage["rows_out"]} for stage in told["funnel"]]
    return {
        "plot": charts.funnel(stages),
        "splits": [{"name": name, **told["splits"][name]} for name in ("train", "dev", "test")] if "splits" in told else [],
        "judged": [
            {"name": name, "kept": told[key][counted], "given": told[key][f"{counted}_in"]}
            for key, counted, name in (("preferences", "pairs", "preference pairs"), ("labelled", "answers", "labelled answers"))
            if key in told
        ],
        "leaked_pairs": told.get("leaked_pairs"),
        "dropped": _reasons(told, "reasons"),
        "changed": _reasons(told, "changed"),
        "off": sorted(told.get("off", {}).items()),
        "warnings": told.get("warnings", []),
    }


def _reasons(told: dict, key: str) -> list[dict]:
    return [
        {"stage": stage["stage"], "reason": reason, "count": f"{found['count']:,}", "example": found["examples"][0]}
        for stage in told["funnel"]
        for reason, found in sorted(stage.get(key, {}).items(), key=lambda pair: (-pair[1]["count"], pair[0]))
    ]


def render_curation(told: dict, title: str) -> str:
    """Fill the page that stands beside the files of `tunegate curate`."""
    return fill("curation.html.j2", title=title, curation=view(told))
