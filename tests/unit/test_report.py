import re
import statistics

import pytest
from fake_run import answer_items, fake_run, make_rows, record, results_object, write_rows
from html_page import Page

from tunegate import report, results
from tunegate.report import charts
from tunegate.report.words import METRICS, arm_name, cost, duration, metric_name, metric_order, short_ref
from tunegate.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def page_of(store, run_id, tmp_path) -> Page:
    path = report.write_report(store, run_id, tmp_path / "out" / "report.html")
    return Page(path.read_text(encoding="utf-8"))


def test_a_promoted_run_is_told_in_full(store, tmp_path):
    run_id = fake_run(store, tmp_path)
    page = page_of(store, run_id, tmp_path)
    for heading in ("PROMOTE", "Before and after", "What had to be proven", "Preconditions", "Training", "Exact match by task type",
                    "Answers side by side", "Data", "What this rests on", "Lineage"):  # fmt: skip
        assert heading in page.words
    for figure in ("75.8 %", "3.8 %", "Base, 5 nearest examples", "+72.1 points", "0.0026", "near-duplicate of another row", "4,000",
                   "HassStartTimer", "champion of home-assistant is version 3", "found by digest", "home-assistant run 2026"):  # fmt: skip
        assert figure in page.words
    drawn = [attrs["aria-label"] for _, attrs in page.tags if attrs.get("role") == "img"]
    assert sorted(label.split()[0] for label in drawn) == ["Bars", "Gates:", "Rows", "loss", "loss"]
    assert ("details", {}) in page.tags


def test_samples_show_what_was_expected_and_said(store, tmp_path):
    run_id = fake_run(store, tmp_path)
    page = page_of(store, run_id, tmp_path)
    assert sum(tag == "article" for tag, _ in page.tags) == 8
    assert "Right after fine-tuning, wrong with few-shot" in page.words and "Wrong after fine-tuning, right with few-shot" in page.words
    classes = [attrs.get("class") for tag, attrs in page.tags if tag == "dd"]
    assert classes.count("expected") == 8 and "right" in classes and "wrong" in classes


def test_a_rejected_run_gives_its_reasons(store, tmp_path):
    run_id = fake_run(store, tmp_path, until="gate", few=0.74, candidate=0.75)
    page = page_of(store, run_id, tmp_path)
    assert "REJECT" in page.words and "does not exceed the 2.0 points asked for" in page.words
    assert any("chip failed" == attrs.get("class") for _, attrs in page.tags)
    told = report.terminal_summary(store, run_id)
    assert told.startswith("REJECT     The candidate failed")
    assert re.search(r"^✗ failed +Exact match: > 2.0 points better than few-shot", told, re.MULTILINE)


def test_a_run_that_failed_says_where_and_why(store, tmp_path):
    run_id = fake_run(store, tmp_path, until="baseline")
    sentence = "Training diverged: the loss at step 30 is nan. Lower <sft.learning_rate>."
    store.write_json(f"runs/{run_id}/error-sft.json", {"step": "sft", "code": 3, "sentence": sentence, "retryable": False, "call": ""})
    page = page_of(store, run_id, tmp_path)
    assert "STOPPED AT SFT" in page.words and sentence in page.words
    assert "Base, 5 nearest examples" in page.words, "what baseline measured is shown"
    assert "What had to be proven" not in page.words
    told = report.terminal_summary(store, run_id)
    assert "The run stopped at sft: Training diverged" in told and "Base, zero-shot" in told and "Exact match" in told


def test_an_error_that_a_retry_mended_is_not_shown(store, tmp_path):
    run_id = fake_run(store, tmp_path)
    error = {"step": "sft", "code": 4, "sentence": "The disk is full.", "retryable": True, "call": ""}
    store.write_json(f"runs/{run_id}/error-sft.json", error)
    assert "The disk is full" not in page_of(store, run_id, tmp_path).words


@pytest.mark.parametrize("until", ["plan", "ingest", "curate", "sft", "merge", "evaluate"])
def test_a_run_on_its_way_is_shown_as_far_as_it_is(store, tmp_path, until):
    run_id = fake_run(store, tmp_path, until=until)
    page = page_of(store, run_id, tmp_path)
    assert f"NO VERDICT YET The run has come as far as {until}." in page.words
    assert f"it got as far as {until}" in report.terminal_summary(store, run_id)


def test_an_empty_run_has_a_page(store, tmp_path):
    page = page_of(store, "nothing", tmp_path)
    assert "The run has come as far as no step." in page.words and "No step has left a record" in page.words
    assert "it got as far as nothing" in report.terminal_summary(store, "nothing")


def test_do_not_fine_tune(store, tmp_path):
    from fake_run import POLICY

    from tunegate.gate import gate_step
    from tunegate.gate.policy import load_policy
    from tunegate.steps import Inputs

    rows = make_rows(100, per_cluster=1)
    items = answer_items("base_zero_shot", rows, 0.1, "dev") + answer_items("base_few_shot:fixed", rows, 1.0, "dev")
    base = results_object(store, tmp_path, "baseline", items, "b" * 64)
    write_rows(tmp_path / "data" / "train.jsonl", rows)
    data = store.put("curate-data", tmp_path / "data")
    config = {"policy": load_policy(POLICY).model_dump(mode="json"), "recipe_name": "easy", "cost_per_hour": 0.1}
    result = gate_step(config, Inputs({"data": data, "report": data, "baseline": base}, store), tmp_path / "gate")
    verdict = store.put("gate-verdict", tmp_path / "gate" / "verdict")
    record(store, "easy-1", "gate", config=config, refs={"verdict": verdict}, summary=result.summary)
    page = page_of(store, "easy-1", tmp_path)
    assert "DO NOT FINE TUNE" in page.words and "reaches the target of 95.0 %" in page.words
    assert "Base, 5 fixed examples" in page.words and "Exact match on dev items" in page.words
    assert report.terminal_summary(store, "easy-1").startswith("DO_NOT_FINE_TUNE  Prompting alone is good enough")


def test_what_cannot_be_read_becomes_a_note(store, tmp_path):
    run_id = fake_run(store, tmp_path, until="curate")
    record(store, run_id, "baseline", refs={"results": "baseline-results/" + "0" * 64})
    assert "What baseline left as results could not be read." in page_of(store, run_id, tmp_path).words


def test_text_from_models_is_text(store, tmp_path):
    run_id = fake_run(store, tmp_path, until="curate")
    items = answer_items("base_zero_shot", make_rows(240), 0.0) + answer_items("candidate", make_rows(240), 0.0)
    for item in items:
        item["output"], item["task_type"] = "<script>alert(1)</script>", "<b>type</b>"
    record(store, run_id, "evaluate", refs={"results": results_object(store, tmp_path, "evil", items, "e" * 64)})
    page = page_of(store, run_id, tmp_path)
    assert "<script>alert(1)</script>" in page.words and "<b>type</b>" in page.words


def test_the_terminal_summary_is_that_of_the_verdict(store, tmp_path):
    told = report.terminal_summary(store, fake_run(store, tmp_path)).splitlines()
    assert len(told) <= 24 and max(map(len, told)) <= 100
    assert told[0].startswith("PROMOTE")
    arm = next(line for line in told if line.startswith("Fine-tuned"))
    assert re.match(r"Fine-tuned +75\.8 % \(69\.\d to 8\d\.\d\) +2\.\d+ \(2\.\d+ to \d\.\d+\) +0\.0026$", arm)


def test_a_step_that_fails_after_the_verdict_is_told_below_it(store, tmp_path):
    run_id = fake_run(store, tmp_path, until="gate")
    store.write_json(
        f"runs/{run_id}/error-deploy.json", {"step": "deploy", "code": 4, "sentence": "No GPU.", "retryable": True, "call": ""}
    )
    told = report.terminal_summary(store, run_id)
    assert told.startswith("PROMOTE") and told.endswith("The run stopped at deploy: No GPU.")


def test_a_waiver_is_loud_wherever_a_step_went_on_by_one(store, tmp_path):
    run_id = fake_run(store, tmp_path, few=0.74, candidate=0.75)
    record(store, run_id, "register", line="home-assistant version 3", summary={
        "waiver": "A. Turing until 2026-12-24: the old one leaks addresses", "signed": "signed by 0123456789ab",
    })  # fmt: skip
    page = page_of(store, run_id, tmp_path)
    assert "WAIVED, NOT PROVEN by A. Turing until 2026-12-24: the old one leaks addresses REJECT" in page.words
    assert "verdict signed by 0123456789ab" in page.words
    told = report.terminal_summary(store, run_id)
    assert "WAIVED, NOT PROVEN: BY A. TURING UNTIL 2026-12-24: THE OLD ONE LEAKS ADDRESSES" in told
    assert "signed by 0123456789ab" in told


def test_times_are_told_by_median_and_slowest_and_speed_by_tokens(store, tmp_path):
    run_id = fake_run(store, tmp_path)
    page = page_of(store, run_id, tmp_path)
    gate = store.get(store.read_json(f"runs/{run_id}/gate.json")["refs"]["verdict"])
    items = [item for item in results.read_items(gate) if item["metric"] == "task/exact" and item["split"] == "test"]
    mine = [item for item in items if item["arm"] == "candidate"]
    p95 = statistics.quantiles((item["latency_seconds"] for item in mine), n=100, method="inclusive")[94]
    assert re.search(rf"Loaded latency seconds, 95th percentile 240 [\d.]+ [\d.]+ {p95:.3f}", page.words)
    assert f"{sum(item['completion_tokens'] for item in mine) / 22.5:.1f}" in page.words, "152 tokens a second"
    assert "Loaded latency seconds, median" in page.words and "Speed answer tokens per second" in page.words


def test_publish_writes_everywhere(store, tmp_path, monkeypatch):
    from tunegate import tracking

    run_id = fake_run(store, tmp_path, until="plan")
    (tmp_path / "runs" / run_id).mkdir(parents=True)
    monkeypatch.setenv("TUNEGATE_RUN_ID", run_id)
    monkeypatch.setenv("TUNEGATE_RUNS", str(tmp_path / "runs"))
    said = []
    monkeypatch.setattr(tracking, "log_file", lambda path: said.append(path.name))
    monkeypatch.setattr(tracking, "finish", said.append)
    report.publish(store.uri, str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_bytes()
    assert (tmp_path / "runs" / run_id / "report.html").read_bytes() == page
    kept = store.read_json(f"runs/{run_id}/report.json")["refs"]["report"]
    assert (store.get(kept) / "report.html").read_bytes() == page
    assert said == ["report.html", "FINISHED"]


def test_a_gate_without_numbers_is_drawn_without_them():
    assert charts.forest([{"id": "a", "test": "superiority", "outcome": "error"}]) == ""


def test_the_loss_is_a_drawing_of_its_own():
    drawn = charts.loss_svg([{"step": 10, "loss": 2.5, "learning_rate": 1e-3}, {"step": 20, "loss": 0.125}, {"step": 30}])
    assert drawn.startswith("<svg xmlns=") and "prefers-color-scheme: dark" in drawn and "0.125" in drawn
    assert drawn.count("<path") == 1 and "Fewer than two logged steps" in charts.loss_svg([{"step": 10, "loss": 2.5}])


@pytest.mark.parametrize("points", [[(1, 0.0), (2, 0.0)], [(10, 2.5), (20, 1e-5)], [(1, 3.0), (400, 900.0)]])
def test_a_curve_stays_in_its_frame(points):
    drawn = charts.line(points, "step", "loss")
    numbers = [float(n) for n in re.findall(r"[ML]([\d.]+) ", drawn)]
    assert min(numbers) >= 52 and max(numbers) <= 450


def test_words():
    assert arm_name("base_few_shot", {"strategy": "nearest", "k": 5}) == "Base, 5 nearest examples"
    assert arm_name("base_few_shot:fixed", {"strategy": "fixed", "k": 3}) == "Base, 3 fixed examples"
    assert (arm_name("champion"), arm_name("adapter"), arm_name("candidate")) == ("Champion", "Adapter, unmerged", "Fine-tuned")
    assert (duration(3.21), duration(90), duration(7200)) == ("3.2 s", "1.5 min", "2.0 h")
    assert (cost(None), cost(0.00712), cost(1.5)) == ("–", "0.0071", "1.50")
    assert short_ref("merge-model/" + "a" * 64) == "merge-model/aaaaaaaaaa"


def test_metrics_are_named_for_people():
    named = {
        "task/json_fields": "JSON fields right", "task/rouge_l": "ROUGE-L", "serve/first_token_seconds": "Time to first token",
        "harmful/refusal": "Harmful: refused", "mail_task/exact": "Mail task: Exact match", "arc/arc_easy.acc": "arc_easy.acc (arc)",
        "parity/odd_one": "Parity: odd one", "task/my_own": "My own",
    }  # fmt: skip
    assert {metric: metric_name(metric)[0] for metric in named} == named
    assert metric_name("serve/latency_seconds", "p95") == ("Loaded latency, 95th percentile", "seconds")
    ordered = sorted([*METRICS, "harmful/refusal", "task/my_own"], key=metric_order)
    assert ordered[0] == "task/exact" and ordered.index("task/my_own") < ordered.index("general/nats_per_token")
    assert ordered.index("general/nats_per_token") < ordered.index("harmful/refusal") < ordered.index("serve/prompt_tokens")
