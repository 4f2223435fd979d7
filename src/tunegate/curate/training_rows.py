"""Choose what is trained on, after the split: no held text, good enough, balanced, and as varied as the limit allows."""

import os
from pathlib import Path

from tunegate import rows as row_form
from tunegate.curate import balance, ifd, judge, select
from tunegate.curate.decontaminate import decontaminate
from tunegate.curate.funnel import Funnel
from tunegate.curate.row_stages import Context
from tunegate.digests import digest_json
from tunegate.recipe import Curate


def choose(
    funnel: Funnel, train: list[dict], held: dict[str, list[str]], config: Curate, context: Context, report: dict
) -> tuple[list[dict], list[dict]]:  # fmt: skip
    """Drop training rows stage by stage; give those to train on, and spare ones: good too, but more than config.max_train_rows.

    Args:
        held: by name, the normalised texts that the model will be judged by.
        report: report["off"] says what did not run, and why; ["ifd"] and ["judge"] what was measured.
    """
    hits = decontaminate([row_form.similarity_text(row) for row in train], held, config.decontaminate, config.cluster_jaccard)
    train = funnel.stage("decontamination", train, {i: (f"{reason} of {name}", text) for i, (reason, name, text) in hits.items()})
    scores, difficulty = _judged(train, config, context, report), _ifd(train, config, context, report)
    if scores or difficulty:
        train = funnel.stage("quality", train, _plain(select.outside_band(train, difficulty, scores, config.quality)))
    if config.balance.max_share < 1:
        train = funnel.stage("balance", train, _plain(balance.over_share(train, difficulty, config)))
    else:
        report["off"]["balance"] = "curate.balance.max_share is 1"
    over = select.over_max_rows(train, difficulty, config)
    spare = [train[i] for i in sorted(over)][: config.max_train_rows]  # prefer never wants more
    return funnel.stage("selection", train, _plain(over)), spare


def _plain(dropped: dict[int, str]) -> dict[int, tuple[str, None]]:
    return {i: (reason, None) for i, reason in dropped.items()}


def _ifd(train: list[dict], config: Curate, context: Context, report: dict) -> dict[str, float]:
    if off := ifd.off(config, context):
        report["off"]["IFD"] = off
        return {}
    found = ifd.score_ifd(train, context.base, config.quality.ifd, _cache("ifd", train), system=context.task.system)
    report["ifd"] = {"rows_scored": len(found), "median": sorted(found.values())[len(found) // 2] if found else None}
    return found


def _judged(train: list[dict], config: Curate, context: Context, report: dict) -> dict[str, int]:
    if off := judge.off(config, context):
        report["off"]["judge"] = off
        return {}
    found = judge.score_judge(train, config.quality.judge, _cache("judge", train), system=context.task.system)
    report["judge"] = {"rows_scored": len(found), "rows_not_judged": len(train) - len(found)}
    return found


def _cache(name: str, train: list[dict]) -> Path:
    """Name the file in which scores of these rows are kept, so that a scoring that was interrupted goes on."""
    place = Path(os.environ.get("TUNEGATE_CACHE", "~/.cache/tunegate")).expanduser() / "scores"
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{name}-{digest_json(sorted(row['id'] for row in train))}.jsonl"
