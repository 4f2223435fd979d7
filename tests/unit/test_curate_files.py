"""Curation as people use it: from any file to the splits, the rejects and a page; with a test set, held texts and secrets."""

import json
import random

import pytest
from test_curate import alike, row, unlike, words

from tunegate import rows
from tunegate.cli_steps import settings
from tunegate.curate import near_duplicates
from tunegate.curate.files import curate_files
from tunegate.errors import BadInput

SECRET = "AKIA" + "Q3EGW7JZ5T2M4XNP"
SMALL = ["curate.dev_rows=10", "curate.test_rows=20", "curate.min_train_rows=30", "task.max_length=256"]


def run(tmp_path, made: list[dict], *overrides: str, name: str = "out"):
    """Curate rows from a file; give what was written: the parts, the rejects and the report."""
    rows.write_rows(tmp_path / "given.jsonl", made)
    output = tmp_path / name
    curate_files([str(tmp_path / "given.jsonl")], output, settings(None, [*SMALL, *overrides]))
    parts = {part: list(rows.read_rows(output / f"{part}.jsonl")) for part in ("train", "dev", "test")}
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    return parts, rejected, json.loads((output / "report.json").read_text())


def test_from_mixed_forms_to_splits_rejects_and_a_page(tmp_path):
    rng = random.Random(3)
    lines = [{"instruction": words(rng, 6), "input": words(rng, 3), "output": words(rng, 4)} for _ in range(60)]
    lines += [{"question": words(rng, 6), "answer": words(rng, 4)} for _ in range(60)]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "no json\n")
    said = curate_files([str(tmp_path / "*.jsonl")], tmp_path / "out", settings(None, SMALL))
    assert said == "120 rows in, 90 train / 10 dev / 20 test (20 clusters), 0 leaked pairs"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "curate.json", "dev.jsonl", "rejected.jsonl", "report.html", "report.json", "test.jsonl", "train.jsonl"
    ]  # fmt: skip
    (bad,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert bad["stage"] == "ingest" and bad["line"] == 121 and "not JSON" in bad["reason"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["off"]) == {"language", "toxicity", "IFD", "judge", "balance"}
    assert any("tokenizer was not at hand" in warning for warning in report["warnings"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>90</b> train" in page and "Did not run" in page and "http" not in page


def test_too_little_leaves_the_reasons_and_no_split(tmp_path):
    with pytest.raises(BadInput, match="What was dropped, and why, is in"):
        run(tmp_path, unlike(40))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["rejected.jsonl", "report.html", "report.json"]


def test_a_test_set_of_ones_own_stays_as_it_is_and_only_the_data_shrinks(tmp_path):
    own = unlike(25, seed=9)
    (tmp_path / "own.jsonl").write_bytes(rows.to_lines(own))
    near = row(own[0]["messages"][0]["content"] + " so", own[0]["messages"][1]["content"])
    parts, rejected, report = run(tmp_path, unlike(80) + [own[1], near], f"curate.test_set={tmp_path}/own.jsonl")
    assert {r["id"] for r in parts["test"]} == {r["id"] for r in own}
    assert [r["reason"] for r in rejected if r["stage"] == "test set"] == ["near-duplicate of the test set"] * 2
    assert len(parts["dev"]) == 10 and len(parts["train"]) == 70 and report["leaked_pairs"] == 0


def test_rows_that_give_a_held_text_away_are_dropped_and_named(tmp_path):
    passage = words(random.Random(12), 40)
    (tmp_path / "general.jsonl").write_text(json.dumps({"text": passage}) + "\n")
    leak = row(f"please repeat: {words(random.Random(13), 30)}", passage)
    parts, rejected, _ = run(tmp_path, unlike(80) + [leak], f"evaluate.general_text={tmp_path}/general.jsonl")
    found = [r for r in rejected if r["stage"] == "decontamination"]
    assert leak["id"] not in {r["id"] for r in parts["train"]}
    assert leak["id"] in {r["id"] for part in ("dev", "test") for r in parts[part]} or [r["like"] for r in found] == [passage]


def test_a_secret_stands_in_no_file(tmp_path):
    made = unlike(80) + [row("which key do we use", f"the key is {SECRET} as ever")]
    run(tmp_path, made)
    (dropped,) = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert dropped["stage"] == "secrets" and "[SECRET]" in dropped["messages"][1]["content"]
    assert not [path.name for path in (tmp_path / "out").iterdir() if SECRET in path.read_text()]


def test_personal_data_is_redacted_and_counted(tmp_path):
    made = unlike(80) + [row("write to anna.example@example.org about it", "I wrote to anna.example@example.org")]
    parts, _, report = run(tmp_path, made)
    texts = [turn["content"] for part in parts.values() for r in part for turn in r["messages"]]
    assert "write to [EMAIL_ADDRESS] about it" in texts and not any("example.org" in text for text in texts)
    stage = next(stage for stage in report["funnel"] if stage["stage"] == "personal data")
    assert stage["changed"]["redacted"]["count"] == 1


def test_rows_of_one_document_stay_on_one_side(tmp_path):
    rng = random.Random(4)
    lines = [{"prompt": words(rng, 8), "completion": words(rng, 3), "document": f"d{i // 4}"} for i in range(160)]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curate_files([str(tmp_path / "documents.jsonl")], tmp_path / "out", settings(None, SMALL))
    sides: dict[str, set[str]] = {}
    for part in ("train", "dev", "test"):
        for r in rows.read_rows(tmp_path / "out" / f"{part}.jsonl"):
            sides.setdefault(r["group"], set()).add(part)
    assert len(sides) == 40 and all(len(names) == 1 for names in sides.values())


def test_preference_pairs_are_checked_and_kept_beside(tmp_path):
    rng = random.Random(6)
    pairs = [{"prompt": words(rng, 8), "chosen": words(rng, 6), "rejected": words(rng, 6)} for _ in range(20)]
    pairs.append({"prompt": words(rng, 8), "chosen": "the same answer", "rejected": "The same answer"})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "rows.jsonl").write_bytes(rows.to_lines(unlike(80)))
    curate_files([str(tmp_path / "pairs.jsonl"), str(tmp_path / "rows.jsonl")], tmp_path / "out", settings(None, SMALL))
    assert len((tmp_path / "out" / "preferences.jsonl").read_text().splitlines()) == 20
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["preferences"] == {"pairs_in": 21, "pairs": 20}
    assert "chosen equals rejected" in (tmp_path / "out" / "rejected.jsonl").read_text()


def test_labelled_answers_are_checked_and_kept_beside(tmp_path):
    rng = random.Random(7)
    lines = [{"prompt": words(rng, 8), "completion": words(rng, 6), "label": n % 2 == 0} for n in range(20)]
    lines.append({**lines[0], "label": False})
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "rows.jsonl").write_bytes(rows.to_lines(unlike(80)))
    curate_files([str(tmp_path / "*.jsonl")], tmp_path / "out", settings(None, SMALL))
    kept = [json.loads(line) for line in (tmp_path / "out" / "labelled.jsonl").read_text().splitlines()]
    assert len(kept) == 19 and all(row["prompt"] and row["completion"] and isinstance(row["label"], bool) for row in kept)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["labelled"] == {"answers_in": 21, "answers": 19} and "preferences" not in report
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["reason"]) for r in rejected] == [("labelled", "the same answer has both labels")] * 2
    assert "<b>19</b> of 21 labelled answers" in (tmp_path / "out" / "report.html").read_text()


def test_contrasts_are_reported_and_not_dropped(tmp_path):
    parts, rejected, report = run(tmp_path, unlike(80) + alike(5))
    assert not rejected and sum(map(len, parts.values())) == 85
    assert report["contrastive"]["pairs"] == 10


@pytest.mark.parametrize("overrides", [["curate.workers=3"], ["curate.executor=ray", "curate.workers=2"]], ids=["processes", "ray"])
def test_the_bytes_do_not_depend_on_who_does_the_work(tmp_path, overrides, monkeypatch):
    made = unlike(2200) + alike(20) + [row("write to anna.example@example.org about it", "done, to anna.example@example.org")]
    made += [row(r["messages"][0]["content"] + " so", r["messages"][1]["content"]) for r in made[:200]]
    parts, rejected, report = run(tmp_path, made, "curate.workers=1", name="one")
    assert sum(r["reason"] == "near-duplicate" for r in rejected) == 200
    assert report["clusters"]["largest"] == 20 and len(parts["dev"]) == 10 and len(parts["test"]) == 20
    if "curate.executor=ray" in overrides:
        pytest.importorskip("ray")
        monkeypatch.setattr(near_duplicates, "signatures", None)  # so this process cannot sign; Ray's workers can
    run(tmp_path, made, *overrides, name="many")
    for path in sorted((tmp_path / "one").iterdir()):
        assert (tmp_path / "many" / path.name).read_bytes() == path.read_bytes(), path.name
