"""Choose the parts that the page of a run and the page of a verdict share; templates of the same names draw them."""

from tunegate.report import advice, facts, figures, gates
from tunegate.report import answers as chosen
from tunegate.report.words import DECISIONS

NO_VERDICT = {
    "gates": None, "preconditions": [], "slices": None, "warnings": [], "sealed": "", "sealed_use": None, "compared": [],
    "digests": [], "signed": "", "waived": "", "policy": None,
}  # fmt: skip


def of_verdict(verdict: dict, signed: str, waived: str) -> dict:
    """Give everything that a verdict itself says."""
    predicate = verdict["predicate"]
    policy = predicate["policy"]
    return {
        "banner": banner(verdict), "gates": gates.view(verdict),
        "preconditions": facts.preconditions(verdict), "slices": facts.slices(verdict), "warnings": facts.warnings(verdict),
        "sealed": facts.sealed_sentence(verdict), "sealed_use": facts.sealed_use(verdict), "compared": facts.compared(verdict),
        "digests": facts.digests(verdict), "signed": signed or "unsigned", "waived": waived,
        "policy": {"name": policy["name"], "sha256": policy["sha256"], "evidence": predicate["evidence"]["sha256"],
                   "rows": f"{predicate['evidence']['rows']:,}", "approval": policy["document"].get("human_approval", False)},
    }  # fmt: skip


def banner(verdict: dict) -> dict:
    style, meaning = DECISIONS[verdict["decision"]]
    word = verdict["decision"].replace("_", " ")
    return {"style": style, "word": word, "meaning": meaning, "reasons": verdict["reasons"], "next": advice.next_step(verdict)}


def of_figures(table: list[dict], items: list[dict], arms: dict[str, dict], verdict: dict | None) -> dict:
    """Give what was measured: tiles, bars, the table of all metrics, and the main one by task type."""
    metric = _main(table, verdict)
    told = figures.metric_table(figures.with_quantiles(table, items), figures.throughput(items, arms))
    by_type = chosen.by_type(items, table, metric)
    return {"tiles": figures.tiles(table, metric), "bars": figures.bars(table, metric), "table": told, "by_type": by_type}


def answers(items: list[dict], table: list[dict], verdict: dict | None, rows: dict[str, dict], counts: dict[str, int]) -> dict | None:
    return chosen.side_by_side(items, table, _main(table, verdict), rows, counts)


def _main(table: list[dict], verdict: dict | None) -> str | None:
    return figures.main_metric(table, verdict["predicate"]["policy"]["document"] if verdict else None)
