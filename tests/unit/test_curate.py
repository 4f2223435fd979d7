"""Curation: each reason to drop a row, whole clusters on one side, and the same bytes for the same rows."""

import json
import random
from pathlib import Path

import pytest

from tunegate import rows
from tunegate.curate import curate, curate_step, describe, leakage, near_duplicates, stages
from tunegate.errors import BadInput, Refused
from tunegate.recipe import Curate, Task
from tunegate.steps import Inputs
from tunegate.store import open_store

TASK = Task(max_length=64)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def row(question: str, answer: str, task_type: str = "", system: str = "") -> dict:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return rows.make_row(([{"role": "system", "content": system}] if system else []) + turns, task_type)


def words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices(LETTERS, k=6)) for _ in range(count))


def unlike(count: int, seed: int = 0) -> list[dict]:
    """Rows that share nothing, of four task types."""
    rng = random.Random(seed)
    return [row(words(rng, 8), words(rng, 2), f"type{i % 4}") for i in range(count)]


def alike(count: int, seed: int = 1) -> list[dict]:
    """Rows of one near-duplicate cluster, with answers of their own."""
    text = words(random.Random(seed), 12)
    return [row(f"{text} {LETTERS[i]}", f"answer {LETTERS[i]}", "type0") for i in range(count)]


def run(tmp_path: Path, made: list[dict], **settings) -> tuple[dict, dict[str, list[dict]]]:
    rows.write_rows(tmp_path / "rows.jsonl", made)
    settings = {"dev_rows": 10, "test_rows": 20, "min_train_rows": 30} | settings
    report = curate(tmp_path / "rows.jsonl", tmp_path / "out", Curate(**settings), TASK)
    return report, {name: list(rows.read_rows(tmp_path / "out" / "data" / f"{name}.jsonl")) for name in ("train", "dev", "test")}


def rejected(tmp_path: Path) -> dict[str, list[dict]]:
    found = {}
    for line in (tmp_path / "out" / "report" / "rejected.jsonl").read_text().splitlines():
        found.setdefault(json.loads(line)["reason"], []).append(json.loads(line))
    return found


def test_each_reason_to_drop_a_row(tmp_path):
    long = "please turn on every lamp in the house and then lock the doors"
    bad = {"messages": [{"role": "user", "content": "no answer \ud800"}]}
    made = unlike(100) + [
        row(long, "a first answer of some length, in words"), row(f"{long} now", "a first answer of some length, in words!"),
        row("What time is it?", "noon, as the clock says"), row("what  TIME is it?", "Noon, as the clock says"),
        row("is it raining", "yes"), row("Is it raining", "no"), row("x" * 600, "too long"),
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(bad) + "\n" + rows.to_lines(made).decode())
    report = curate(tmp_path / "rows.jsonl", tmp_path / "out", Curate(dev_rows=10, test_rows=20, min_train_rows=30), TASK)
    found = rejected(tmp_path)
    assert {reason: len(rejects) for reason, rejects in found.items()} == {
        "turn 1 contains bytes that are not UTF-8, or half of a surrogate pair": 1, "longer than 512 characters": 1,
        "exact duplicate": 1, "label conflict": 2, "near-duplicate": 1,
    }  # fmt: skip
    assert [stage["stage"] for stage in report["funnel"]] == [
        "chat format", "secrets", "personal data", "repetition", "rubric", "exact duplicates", "label conflicts", "near-duplicates",
        "decontamination", "selection",
    ]  # fmt: skip
    assert report["funnel"][0]["rows_in"] == report["rows_in"] == 108
    for before, after in zip(report["funnel"], report["funnel"][1:], strict=False):
        assert after["rows_in"] == before["rows_out"] == before["rows_in"] - sum(r["count"] for r in before["reasons"].values())
    near = next(stage for stage in report["funnel"] if stage["stage"] == "near-duplicates")["reasons"]["near-duplicate"]
    assert near["count"] == 1 and long in near["examples"][0] and "   like   " in near["examples"][0]
    kept = {r["id"] for part in ("train", "dev", "test") for r in rows.read_rows(tmp_path / "out" / "data" / f"{part}.jsonl")}
    assert found["near-duplicate"][0]["like"] in kept and found["near-duplicate"][0]["id"] not in kept


def test_a_similar_question_with_another_answer_stays():
    made = [row("set the lamp in the kitchen to 50 percent please", "50"), row("set the lamp in the kitchen to 55 percent please", "55")]
    pairs = near_duplicates.similar_pairs([rows.similarity_text(r) for r in made], 0.5)
    assert len(pairs) == 1 and stages.near_duplicates(made, pairs, 0.5) == {}


def test_the_system_turn_makes_another_question():
    made = [row("say it", "yes", system="answer in English"), row("say it", "oui", system="answer in French")]
    assert stages.label_conflicts(made) == {}
    assert set(stages.label_conflicts([row("say it", "yes"), row("SAY it", "oui"), row("say that", "x")])) == {0, 1}


def test_clusters_are_whole_and_large_ones_train(tmp_path):
    made = unlike(120) + alike(12) + alike(3, seed=2) + alike(4, seed=3)
    report, parts = run(tmp_path, made)
    owners = {}
    for name, part in parts.items():
        for r in part:
            owners.setdefault(r["cluster"], set()).add(name)
    assert all(len(names) == 1 for names in owners.values())
    members = {}
    for part in parts.values():
        for r in part:
            members.setdefault(r["cluster"], []).append(r["id"])
    assert all(cluster == min(ids) for cluster, ids in members.items())
    assert report["clusters"] == {"count": 123, "largest": 12}
    big = min(r["id"] for r in alike(12))
    assert owners[big] == {"train"}
    assert (len(parts["dev"]), len(parts["test"])) == (10, 20)
    assert report["splits"]["test"]["rows"] == 20 and report["leaked_pairs"] == 0
    assert describe(report).startswith("139 rows in, 109 train / 10 dev / 20 test (")
    assert json.loads((tmp_path / "out" / "data" / "curate.json").read_text())["splits"] == report["splits"]
    assert json.loads((tmp_path / "out" / "report" / "report.json").read_text()) == report


def test_each_task_type_is_tested_and_a_rare_one_is_trained_first(tmp_path):
    rng = random.Random(5)
    made = unlike(120) + [row(words(rng, 8), words(rng, 2), "rare") for _ in range(2)] + [row(words(rng, 8), words(rng, 2), "single")]
    _, parts = run(tmp_path, made)
    types = {name: {r["task_type"] for r in part} for name, part in parts.items()}
    assert types["test"] == {"type0", "type1", "type2", "type3", "rare"}
    assert {"rare", "single"} <= types["train"]


def test_the_order_of_the_rows_does_not_matter(tmp_path):
    made = unlike(80) + alike(5) + unlike(3)
    rows.write_rows(tmp_path / "a.jsonl", made)
    rows.write_rows(tmp_path / "b.jsonl", random.Random(9).sample(made, len(made)))
    config = Curate(dev_rows=5, test_rows=10, min_train_rows=30)
    for name in "ab":
        curate(tmp_path / f"{name}.jsonl", tmp_path / name, config, TASK)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.json*"))
    assert len(files) == 6
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)


def test_the_seed_changes_the_split(tmp_path):
    test = {seed: {r["id"] for r in run(tmp_path, unlike(100), seed=seed)[1]["test"]} for seed in (0, 1)}
    assert test[0] != test[1]


def test_training_rows_are_cut_to_the_wanted_number(tmp_path):
    report, parts = run(tmp_path, unlike(100), max_train_rows=40)
    assert len(parts["train"]) == 40
    assert report["funnel"][-1]["reasons"]["over max_train_rows (40)"]["count"] == 30


def test_too_few_rows_end_in_a_sentence_and_a_report_but_no_data(tmp_path):
    with pytest.raises(BadInput, match=r"^Only 20 training rows are left after curation; a fine-tune needs at least 500 .*rejected.jsonl"):
        run(tmp_path, unlike(50) + unlike(5), min_train_rows=500)
    assert len(rejected(tmp_path)["exact duplicate"]) == 5
    assert not (tmp_path / "out" / "data").exists()


def test_a_cluster_that_is_most_of_the_rows_is_named(tmp_path):
    made = alike(26)
    with pytest.raises(BadInput, match=rf"26 of 66 rows \(39%.*{min(r['id'] for r in made)[:12]}"):
        run(tmp_path, made + unlike(40))
    assert not (tmp_path / "out" / "data").exists()


def test_pairs_that_minhash_missed_are_united(tmp_path, monkeypatch):
    nothing = near_duplicates.np.empty(0, dtype="int64")
    monkeypatch.setattr(near_duplicates, "candidate_pairs", lambda *given: (nothing, nothing))
    report, parts = run(tmp_path, unlike(100) + [r for seed in range(20) for r in alike(2, seed=50 + seed)])
    assert report["clusters"]["count"] < 140  # those that straddled, and only they, were united
    assert report["leaked_pairs"] == 0
    texts = [rows.similarity_text(r) for part in parts.values() for r in part]
    side = [name for name, part in parts.items() for _ in part]
    assert leakage.straddling_pairs(texts, side, 0.7) == []


def test_a_split_that_leaks_after_all_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(leakage, "straddling_pairs", lambda texts, side, threshold: [(0, 1)])
    with pytest.raises(Refused, match="1 pairs of near-duplicates straddle"):
        run(tmp_path, unlike(100))
    assert not any(path.name.endswith("data") or "partial" in path.name for path in (tmp_path / "out").glob("*"))


def test_the_step_gives_metrics_and_keeps_the_report_of_a_refusal(tmp_path):
    store = open_store(str(tmp_path / "store"))
    rows.write_rows(tmp_path / "in" / "rows.jsonl", unlike(60))
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "config.json").write_text("{}")
    refs = {"rows": store.put("ingest-rows", tmp_path / "in"), "tokenizer": store.put("ingest-tokenizer", tmp_path / "tokenizer")}
    inputs = Inputs(refs, store)
    config = {"curate": {"dev_rows": 5, "test_rows": 10, "min_train_rows": 45}, "task": {"max_length": 64}, "general_text": None}
    result = curate_step(config, inputs, tmp_path / "out")
    assert result.metrics == {
        "rows_train": 45.0, "rows_dev": 5.0, "rows_test": 10.0, "rows_in": 60.0, "clusters_test": 10.0, "leaked_pairs": 0.0
    }  # fmt: skip
    assert result.summary["train_rows"] == 45 and result.line.startswith("60 rows in, 45 train / 5 dev / 10 test")
    config["curate"]["min_train_rows"] = 46
    with pytest.raises(BadInput, match=r"Only 45 .*report is (curate-report/[0-9a-f]{64}) in") as refusal:
        curate_step(config, inputs, tmp_path / "again")
    ref = str(refusal.value).split("report is ")[1].split(" in ")[0]
    assert json.loads((store.get(ref) / "report.json").read_text())["rows_in"] == 60
