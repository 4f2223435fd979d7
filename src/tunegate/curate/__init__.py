"""Turn rows into train, dev and sealed test: clean, deduplicate, and split so that near-duplicates never straddle.

Every row that is dropped keeps its stage and its reason. The same rows, in any order, and the same settings give the same
bytes.
"""

import json
import os
import shutil
from pathlib import Path

from tunegate import rows as row_files
from tunegate.curate import leakage, split, stages
from tunegate.curate.funnel import Funnel
from tunegate.curate.near_duplicates import connected, similar_pairs
from tunegate.digests import canonical_json, sha256, write_atomic
from tunegate.errors import BadInput, Refused
from tunegate.recipe import Curate, Task

SPLITS = ("train", "dev", "test")
ROUNDS = 5  # of uniting what MinHash missed; arbitrary: more than one is rare at a Jaccard of 0.7


def curate_step(config: dict, inputs, output: Path):
    """Write data/ and report/. When too few rows are left, the report still goes to the store, and the sentence names it."""
    from tunegate.steps import Result

    try:
        report = curate(inputs["rows"] / "rows.jsonl", output, Curate(**config["curate"]), Task(**config["task"]))
    except BadInput as error:
        if not (output / "report").is_dir():
            raise
        raise BadInput(f"{error} The report is {inputs.store.put('curate-report', output / 'report')} in {inputs.store.uri}.") from None
    metrics = {f"rows_{name}": float(report["splits"][name]["rows"]) for name in SPLITS}
    metrics |= {
        "rows_in": float(report["rows_in"]), "clusters_test": float(report["splits"]["test"]["clusters"]),
        "leaked_pairs": float(report["leaked_pairs"]),
    }  # fmt: skip
    summary = report | {f"{name}_rows": report["splits"][name]["rows"] for name in SPLITS}
    return Result(summary, metrics=metrics, line=describe(report))


def curate(rows: Path | list[Path], output: Path, config: Curate, task: Task) -> dict:
    """Curate JSONL files of rows into output/data (train, dev and test.jsonl, curate.json) and output/report.

    Returns the report: rows_in, funnel, clusters, leaked_pairs, splits.

    Raises:
        BadInput: one cluster is too large, or too few training rows are left; report/ is written then, data/ is not.
        Refused: near-duplicates straddle the split after all.
    """
    output = Path(output)
    read = [row for path in (rows if isinstance(rows, list) else [rows]) for row in row_files.read_rows(path)]
    funnel = Funnel(sorted(read, key=lambda row: json.dumps(row, sort_keys=True)))
    try:
        kept, pairs = _clean(funnel, config, task)
        parts, largest = _split(funnel, kept, pairs, config)
    except BadInput:
        funnel.write(output / "report", {"rows_in": len(read), "funnel": funnel.stages})
        raise
    splits, leaked = _write_data(output / "data", parts, config)
    clusters = {"count": sum(part["clusters"] for part in splits.values()), "largest": largest}
    report = {"rows_in": len(read), "funnel": funnel.stages, "clusters": clusters, "leaked_pairs": leaked, "splits": splits}
    funnel.write(output / "report", report)
    return report


def describe(report: dict) -> str:
    train, dev, test = (report["splits"][name] for name in SPLITS)
    return (
        f"{report['rows_in']:,} rows in, {train['rows']:,} train / {dev['rows']:,} dev / {test['rows']:,} test "
        f"({test['clusters']:,} clusters), {report['leaked_pairs']} leaked pairs"
    )


def _clean(funnel: Funnel, config: Curate, task: Task) -> tuple[list[dict], list[tuple[int, int]]]:
    """Run the stages that drop rows; give what is left and the pairs in it that must stay on one side of the split."""
    kept = funnel.stage("chat format", funnel.rows, stages.chat_format(funnel.rows, task))
    # From here on by id, so that the order of the sources does not matter.
    kept = sorted((row_files.make_row(row["messages"], row.get("task_type", ""), row.get("source", "")) for row in kept), key=_order)
    kept = funnel.stage("exact duplicates", kept, stages.exact_duplicates(kept))
    kept = funnel.stage("label conflicts", kept, stages.label_conflicts(kept))
    texts = [row_files.similarity_text(row) for row in kept]
    pairs = similar_pairs(texts, min(config.duplicate_jaccard, config.cluster_jaccard))
    dropped = stages.near_duplicates(kept, pairs, config.duplicate_jaccard)
    left = [i for i in range(len(kept)) if i not in dropped]
    place = {i: n for n, i in enumerate(left)}
    together = [(place[i], place[j]) for i, j, jaccard in pairs if i in place and j in place and jaccard >= config.cluster_jaccard]
    return funnel.stage("near-duplicates", kept, dropped), together


def _split(funnel: Funnel, kept: list[dict], pairs: list[tuple[int, int]], config: Curate) -> tuple[dict[str, list[dict]], int]:
    """Split by cluster, and give the parts and the size of the largest cluster.

    MinHash misses about one pair in 6,500 at a Jaccard of 0.7. Those that straddle the split are found by comparing all rows
    of dev and test with all others; their clusters are united, and the split is made again.
    """
    for _ in range(ROUNDS):
        clusters = connected(len(kept), pairs)
        grouped = [{**row, "cluster": kept[first]["id"]} for row, first in zip(kept, clusters, strict=True)]
        largest = split.refuse_large_cluster(grouped, config)
        side = split.assign(grouped, config)
        missed = leakage.straddling_pairs([row_files.similarity_text(row) for row in grouped], side, config.cluster_jaccard)
        if not missed:
            break
        pairs = pairs + missed
    order = split.shuffled(grouped, config.seed)
    train = [i for i in order if side[i] == "train"]
    over = split.spread(grouped, train)[config.max_train_rows :] if config.max_train_rows else []
    rejects = {i: (f"over max_train_rows ({config.max_train_rows:,})", None) for i in over}
    funnel.stage("split", grouped, rejects)
    parts = {name: [grouped[i] for i in order if side[i] == name and i not in rejects] for name in SPLITS}
    split.refuse_few_rows(parts, config, funnel.reasons())
    return parts, largest


def _write_data(directory: Path, parts: dict[str, list[dict]], config: Curate) -> tuple[dict, int]:
    """Write the splits, check the files as they were written, and only then show them under their name."""
    contents = {name: row_files.to_lines(parts[name]) for name in SPLITS}
    splits = {
        name: {"rows": len(part), "clusters": len({row["cluster"] for row in part}), "digest": sha256(contents[name])}
        for name, part in parts.items()
    }
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name in SPLITS:
            write_atomic(partial / f"{name}.jsonl", contents[name])
        leaked = leakage.count_straddling_files(partial, SPLITS, config.cluster_jaccard)
        if leaked:
            raise Refused(
                f"{leaked:,} pairs of near-duplicates straddle the split: MinHash misses too many at curate.cluster_jaccard "
                f"{config.cluster_jaccard:g}. Raise it; 0.7 is known to work."
            )
        write_atomic(partial / "curate.json", canonical_json({"splits": splits, "leaked_pairs": leaked}))
        shutil.rmtree(directory, ignore_errors=True)
        os.rename(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return splits, leaked


def _order(row: dict) -> tuple[str, str, str]:
    return row["id"], row["source"], row["task_type"]
