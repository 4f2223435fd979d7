"""Drop rows that are bad by themselves, and rows that are there already."""

from importlib import import_module

from tunegate import rows as row_form
from tunegate.curate import stages
from tunegate.curate.executor import Executor
from tunegate.curate.funnel import Funnel
from tunegate.curate.near_duplicates import similar_pairs
from tunegate.curate.row_stages import ROW_STAGES, Context
from tunegate.recipe import Curate

MASKED = ("secrets", "personal data")  # what these stages find must not stand in a report either
EXAMPLES = 3


def check_rows(funnel: Funnel, config: Curate, context: Context, report: dict, executor: Executor) -> list[dict]:
    """Run the row stages and give what is left, sorted by id; report["off"] and ["warnings"] say what did not run as it could."""
    kept = funnel.rows
    for name, module in ROW_STAGES:
        stage = import_module(module)
        if off := stage.off(config, context):
            report["off"][name] = off
            continue
        outcomes = executor.run(module, kept, context)
        kept = funnel.checked(name, kept, outcomes, _mask(stage, config, context) if name in MASKED else None)
        if (note := getattr(stage, "note", None)) and (said := note(config, context)):
            report["warnings"].append(said)
    kept = [row_form.make_row(row["messages"], *(row.get(name, "") for name in ("task_type", "source", "tools", "group"))) for row in kept]
    # From here on by id, so that the order of the sources does not matter.
    return sorted(kept, key=lambda row: (row["id"], row["source"], row["task_type"]))


def drop_duplicates(funnel: Funnel, kept: list[dict], config: Curate, executor: Executor) -> tuple[list[dict], list[tuple[int, int]], dict]:
    """Drop duplicates and label conflicts; give what is left, the pairs in it that belong on one side, and a count of contrasts.

    Each text is signed once: near-duplicates, clusters and contrasts are read off the same pairs.
    """
    kept = funnel.stage("exact duplicates", kept, stages.exact_duplicates(kept))
    if config.label_conflicts == "drop":
        kept = funnel.stage("label conflicts", kept, stages.label_conflicts(kept))
    texts = [row_form.similarity_text(row) for row in kept]
    pairs = similar_pairs(texts, min(config.duplicate_jaccard, config.cluster_jaccard), executor.band_keys(texts))
    dropped = stages.near_duplicates(kept, pairs, config.duplicate_jaccard)
    left = [i for i in range(len(kept)) if i not in dropped]
    place = {i: n for n, i in enumerate(left)}
    near = [(place[i], place[j], jaccard) for i, j, jaccard in pairs if i in place and j in place]
    kept = funnel.stage("near-duplicates", kept, dropped)
    together = [(i, j) for i, j, jaccard in near if jaccard >= config.cluster_jaccard]
    contrasts = stages.contrastive(kept, near, config.duplicate_jaccard)
    examples = [[row_form.similarity_text(kept[i]), row_form.similarity_text(kept[j])] for i, j in contrasts[:EXAMPLES]]
    return kept, together, {"pairs": len(contrasts), "examples": examples}


def _mask(stage, config: Curate, context: Context):
    """Make a function that takes out of a row what the stage dropped it for."""
    redact = config.model_copy(update={"privacy": config.privacy.model_copy(update={"secrets": "redact", "personal": "redact"})})
    return lambda row: stage.check([row], redact, context)[0] or row
