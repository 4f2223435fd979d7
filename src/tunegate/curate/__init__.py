"""Turn rows into train, dev and sealed test: clean, without duplicates, and split so that near-duplicates never straddle.

Every row that is dropped keeps its stage and its reason. The same rows, in any order, and the same settings give the same
bytes, whatever runs the stages and on however many workers.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tunegate import rows as row_files
from tunegate import tasks
from tunegate.curate import chat_format, leakage, split
from tunegate.curate.clean import check_rows, drop_duplicates
from tunegate.curate.executor import Executor
from tunegate.curate.funnel import Funnel
from tunegate.curate.labelled import curate_labelled
from tunegate.curate.preferences import curate_preferences
from tunegate.curate.row_stages import Context
from tunegate.curate.training_rows import choose
from tunegate.digests import canonical_json, sha256, write_atomic
from tunegate.errors import BadInput, Refused
from tunegate.local_file import local_file, read_texts
from tunegate.recipe import Curate, Task
from tunegate.store import Store

SPLITS = ("train", "dev", "test")
# Spare rows are on train's side: curated, and more than curate.max_train_rows. prefer may mine pairs from them.
SIDES = {"train": "train", "spare": "train", "dev": "dev", "test": "test"}
ROUNDS = 5  # of uniting what MinHash missed; arbitrary: more than one is rare at a Jaccard of 0.7


@dataclass(frozen=True)
class Beside:
    """What curation may be given beside rows and settings.

    Attributes:
        base: the base model's directory, or that of its tokenizer alone.
        held: by name, texts that the model is judged by elsewhere.
        preferences: a file of preference pairs that ingest wrote.
        labelled: one of labelled answers.
    """

    base: Path | None = None
    held: dict[str, list[str]] = field(default_factory=dict)
    preferences: Path | None = None
    labelled: Path | None = None


def curate_step(config: dict, inputs, output: Path):
    """Write data/ and report/. When too few rows are left, the report still goes to the store, and the sentence names it."""
    from tunegate.steps import Result

    settings, store = Curate(**config["curate"]), inputs.store
    if settings.test_set:
        settings = settings.model_copy(update={"test_set": str(local_file(settings.test_set, "test_set", store, output))})
    beside = Beside(
        # Only IFD needs the weights.
        base=inputs["base" if settings.quality.ifd.enabled else "tokenizer"],
        held=held_texts(settings, config["general_text"], store, output),
        preferences=inputs["rows"] / "preferences.jsonl",
        labelled=inputs["rows"] / "labelled.jsonl",
    )
    try:
        report = curate(inputs["rows"] / "rows.jsonl", output, settings, Task(**config["task"]), beside)
    except BadInput as error:
        if not (output / "report").is_dir():
            raise
        raise BadInput(f"{error} The report is {store.put('curate-report', output / 'report')} in {store.uri}.") from None
    metrics = {f"rows_{name}": float(report["splits"][name]["rows"]) for name in SPLITS}
    metrics |= {
        "rows_in": float(report["rows_in"]), "clusters_test": float(report["splits"]["test"]["clusters"]),
        "leaked_pairs": float(report["leaked_pairs"]),
    }  # fmt: skip
    summary = report | {f"{name}_rows": report["splits"][name]["rows"] for name in SPLITS}
    return Result(summary, metrics=metrics, line=describe(report))


def curate(rows: Path | list[Path], output: Path, config: Curate, task: Task, beside: Beside = Beside()) -> dict:  # noqa: B008
    """Curate JSONL files of rows into output/data (train, spare, dev and test.jsonl, curate.json) and output/report.

    Preference pairs and labelled answers that `beside` names are checked too, and put into preferences.jsonl and labelled.jsonl.

    Returns the report: rows_in, funnel, off, warnings, clusters, contrastive, leaked_pairs, splits; where there are any, preferences
    and labelled: how many came in and how many are left.

    Raises:
        BadInput: one cluster is too large, or too few training rows are left; report/ is written then, data/ is not.
        Refused: near-duplicates straddle the split after all.
    """
    output, context = Path(output), Context(task, beside.base)
    read = [row for path in (rows if isinstance(rows, list) else [rows]) for row in row_files.read_rows(path)]
    funnel = Funnel(sorted(read, key=lambda row: json.dumps(row, sort_keys=True)))
    report = {"rows_in": len(read), "funnel": funnel.stages, "off": {}, "warnings": []}
    try:
        with Executor(config) as executor:
            kept = check_rows(funnel, config, context, report, executor)
            test = _own_test_set(config, context) if config.test_set else []
            if test:
                kept = funnel.stage("test set", kept, _resembling(kept, test, config))
            kept, pairs, report["contrastive"] = drop_duplicates(funnel, kept, config, executor)
        parts, largest = _split(kept, pairs, config)
        funnel.aside = len(kept) - len(parts["train"])
        parts["test"] = test or parts["test"]
        held = {name: [row_files.similarity_text(row) for row in parts[name]] for name in ("dev", "test")}
        held |= {name: [row_files.normalise(text) for text in texts] for name, texts in beside.held.items()}
        parts["train"], parts["spare"] = choose(funnel, parts["train"], held, config, context, report)
        split.refuse_few_rows(parts, config, funnel.reasons())
    except BadInput:
        funnel.write(output / "report", report)
        raise
    judged = _judged(beside, parts, config, funnel, report)
    splits, leaked = _write_data(output / "data", parts, judged, config)
    report["clusters"] = {"count": len({row["cluster"] for part in parts.values() for row in part}), "largest": largest}
    report |= {"leaked_pairs": leaked, "splits": splits}
    funnel.write(output / "report", report)
    return report


def held_texts(config: Curate, general_text: str | None, store: Store | None, scratch: Path) -> dict[str, list[str]]:
    """Read the texts beside dev and test that a model is judged by: those of the recipe's evaluation, and those it names."""
    named = {"general text": [general_text] if general_text else [], "against": config.decontaminate.against}
    return {
        name: [text for n, file in enumerate(files) for text in read_texts(local_file(file, f"{name}-{n}", store, scratch))]
        for name, files in named.items()
    }


def describe(report: dict) -> str:
    train, dev, test = (report["splits"][name] for name in SPLITS)
    return (
        f"{report['rows_in']:,} rows in, {train['rows']:,} train / {dev['rows']:,} dev / {test['rows']:,} test "
        f"({test['clusters']:,} clusters), {report['leaked_pairs']} leaked pairs"
    )


def _own_test_set(config: Curate, context: Context) -> list[dict]:
    def problem(row: dict) -> str:
        return chat_format.template_problem(row, context) or tasks.problem(context.task, row)

    return split.read_test_set(config.test_set, config.cluster_jaccard, problem)


def _resembling(kept: list[dict], test: list[dict], config: Curate) -> dict[int, tuple[str, str]]:
    found = split.resembling_test_set(kept, test, config.cluster_jaccard)
    return {i: (reason, row_files.similarity_text(test[j])) for i, (reason, j) in found.items()}


def _split(kept: list[dict], pairs: list[tuple[int, int]], config: Curate) -> tuple[dict[str, list[dict]], int]:
    """Split by cluster, and give the parts and the size of the largest cluster.

    MinHash misses about one pair in 6,500 at a Jaccard of 0.7. Those that straddle the split are found by an exact join; their
    clusters are united, and the split is made again.
    """
    pairs = pairs + split.group_edges(kept)
    for _ in range(ROUNDS):
        grouped = split.with_clusters(kept, pairs)
        largest = split.refuse_large_cluster(grouped, config)
        side = split.assign(grouped, config)
        missed = leakage.straddling_pairs([row_files.similarity_text(row) for row in grouped], side, config.cluster_jaccard)
        if not missed:
            break
        pairs = pairs + missed
    order = split.shuffled(grouped, config.seed)
    return {name: [grouped[i] for i in order if side[i] == name] for name in SPLITS}, largest


def _judged(beside: Beside, parts: dict[str, list[dict]], config: Curate, funnel: Funnel, report: dict) -> dict[str, list[dict]]:
    """Give the preference pairs and labelled answers that may be trained on; funnel and warnings tell of the others."""
    asked = [row_files.chat(row, "") for name in ("dev", "test") for row in parts[name]]
    judged = {}
    for name, file, counted, check in (
        ("preferences", beside.preferences, "pairs", curate_preferences), ("labelled", beside.labelled, "answers", curate_labelled)
    ):  # fmt: skip
        given = list(row_files.read_json_lines(file)) if file is not None and file.is_file() else []
        if not given:
            continue
        judged[name], rejected, warnings = check(given, asked, config, parts["train"])
        funnel.set_aside(rejected)
        report["warnings"] += warnings
        report[name] = {f"{counted}_in": len(given), counted: len(judged[name])}
    return judged


def _write_data(directory: Path, parts: dict[str, list[dict]], judged: dict[str, list[dict]], config: Curate) -> tuple[dict, int]:
    """Write the splits, check the files as they were written, and only then show them under their name."""
    contents = {name: row_files.to_lines(part) for name, part in parts.items() if part}
    splits = {
        name: {"rows": len(part), "clusters": len({row["cluster"] for row in part}), "digest": sha256(contents[name])}
        for name, part in parts.items()
        if part
    }
    sides = {name: SIDES[name] for name in contents}
    contents |= {name: row_files.to_lines(entries) for name, entries in judged.items() if entries}
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, lines in contents.items():
            write_atomic(partial / f"{name}.jsonl", lines)
        leaked = leakage.count_straddling_files(partial, sides, config.cluster_jaccard)
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
