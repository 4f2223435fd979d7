import json
import re

import pytest
from fake_verdict import WAIVER, make, make_full
from html_page import Page
from typer.testing import CliRunner

from tunegate.errors import BadInput
from tunegate.gate.verdict import canonical, evidence, write_evidence
from tunegate.report import verdict as telling
from tunegate.report.words import DECISIONS

NEXT = {
    "PROMOTE": "the pipeline registers, deploys and promotes it", "REJECT": "Train on more varied rows", "HOLD": "Search the training rows",
    "INCONCLUSIVE": "test items would settle beats few shot; there are 90", "ERROR": "run evaluate and the gate again",
    "DO_NOT_FINE_TUNE": "the same 5 examples of train.jsonl in its prompt",
}  # fmt: skip


@pytest.fixture(scope="module")
def full():
    return make_full()


@pytest.fixture(scope="module", params=[*DECISIONS])
def told(request):
    return request.param, *make(request.param)


def written(directory, verdict, items, rows):
    directory.mkdir()
    (directory / "verdict.json").write_bytes(canonical(verdict))
    write_evidence(evidence(items), directory / "items.parquet")
    data = directory.parent / "data"
    data.mkdir()
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


def fits(text: str) -> list[str]:
    lines = text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    return lines


def test_every_decision_fits_a_screen_and_says_what_to_do(told):
    decision, verdict, _, _ = told
    text = telling.summary(verdict)
    lines = fits(text)
    assert re.split(r"  +", lines[0])[0] == decision
    words = " ".join(text.split())
    assert DECISIONS[decision][1] in words and NEXT[decision] in words
    assert "Verdict unsigned; " in words and "policy home-assistant-demo" in words
    assert f"{len(verdict['predicate']['gates'])}" == str(sum(line[:1] in "✓✗?!–" for line in lines if line)), "a line for each gate"


def test_every_decision_has_a_page(told):
    decision, verdict, items, rows = told
    page = Page(telling.page(verdict, items, rows={row["id"]: row for row in rows}))
    assert decision.replace("_", " ") in page.words and DECISIONS[decision][1] in page.words and NEXT[decision] in page.words
    for reason in verdict["reasons"]:
        assert " ".join(reason.split()) in page.words
    assert sum(attrs.get("class", "").startswith("chip") for tag, attrs in page.tags if tag == "span") >= len(verdict["predicate"]["gates"])
    assert verdict["predicate"]["policy"]["sha256"] in page.words and verdict["predicate"]["evidence"]["sha256"] in page.words


def test_a_screen_has_the_figures_of_the_verdict():
    verdict, _, _ = make("REJECT")
    few = next(gate for gate in verdict["predicate"]["gates"] if gate["id"] == "beats_few_shot")
    text = telling.summary(verdict, cost_per_hour=0.1)
    assert f"{100 * few['difference']:.1f} better, at worst {-100 * few['bound']:.1f} worse" in text
    exact = next(m for m in verdict["predicate"]["measures"] if (m["arm"], m["metric"]) == ("candidate", "task/exact"))
    low, high = exact["ci"]
    assert f"{100 * exact['mean']:.1f} % ({100 * low:.1f} to {100 * high:.1f})" in text
    assert "✗ failed  Exact match: > 2.0 points better than few-shot" in text and "0.0026" in text
    assert "Loaded latency: ≤ 1.1 times that of few-shot (advisory)" in text


def test_nothing_that_a_verdict_may_hold_breaks_the_screen(full):
    verdict, _, _ = full
    text = telling.summary(verdict, "signed by 0123456789ab", WAIVER, 0.1)
    lines = fits(text)
    assert lines[1].startswith("WAIVED, NOT PROVEN: BY A. TURING UNTIL 2026-12-24")
    assert "Warning    This is the 7th candidate" in text and "signed by 0123456789ab; candidate 7 on this sealed test" in text
    assert "✗ failed  arc_easy.acc (mmlu_small)" in text and "3 passed, 1 skipped; the page shows all" in text
    assert "Champion " in text and "Adapter" not in text


def test_the_screen_obeys_no_control_characters():
    verdict, _, _ = make("ERROR")
    verdict["reasons"] = ["Slice \x1b[2J\x1b]0;title\x07: gone."]
    assert "\x1b" not in telling.summary(verdict) and "\x07" not in telling.summary(verdict)


def test_colour_changes_nothing_but_colour(full):
    text = telling.summary(full[0], waiver=WAIVER)
    painted = telling.coloured(text, "REJECT")
    assert re.sub(r"\x1b\[[\d;]*m", "", painted) == text
    assert painted.startswith("\x1b[1;31mREJECT\x1b[0m") and "\x1b[1;32m✓ passed\x1b[0m" in painted


def test_a_page_tells_all_that_a_verdict_holds(full):
    verdict, items, rows = full
    page = Page(telling.page(verdict, items, "signed by 0123456789ab", WAIVER, {row["id"]: row for row in rows}, 0.1))
    for words in (
        "WAIVED, NOT PROVEN by A. Turing until 2026-12-24T00:00:00+00:00: the old model leaks addresses",
        "This is the 7th candidate", "This candidate is number 7 of all that were measured on this sealed test.",
        "Candidates measured on this sealed set ✗ failed at most 5 7",
        "Training examples whose end-of-turn token is learnt ✓ passed at least 100 %",
        "– skipped Loaded latency, 95th percentile: ≤ 1.1 times that of champion no champion serves yet", "104 effective",
        "HassVacuumStart task type ✗ worse", "20.0 worse -31.0 to -9.0 0.0020", "is too small to be tested",
        "worse by more than 5.0 points",
        "Harmful prompts: refused", "arc_easy.acc (mmlu_small)", "JSON fields right", "Time to first token seconds, 95th percentile",
        "Champion", "Adapter, unmerged", "which asks a person to approve", "verdict signed by 0123456789ab",
        "judged: model.safetensors " + "f" * 64,
        "sealed test " + "5" * 64, "champion " + "b" * 64, "vllm 0.11.0 bfloat16",
    ):  # fmt: skip
        assert words in page.words, words


def test_a_gate_has_its_numbers_on_the_page(full):
    verdict, items, _ = full
    page = Page(telling.page(verdict, items))
    gate = next(gate for gate in verdict["predicate"]["gates"] if gate["id"] == "not_below_champion")
    size = f"{gate['n']} {gate['clusters']} {gate['effective_clusters']:.0f} effective"
    tests = f"{gate['p']:.4f} {gate['mcnemar_p']:.4f} {100 * gate['mde']:.1f} points {gate['required_n']}"
    assert f"{size} {tests}" in page.words


def test_intervals_are_drawn_where_the_numbers_say():
    verdict, items, _ = make("PROMOTE")
    text = telling.page(verdict, items)
    gate = next(gate for gate in verdict["predicate"]["gates"] if gate["id"] == "beats_zero_shot")
    row = re.search(r"<b>beats zero shot</b>.*?</svg>", text, re.DOTALL)[0]
    place = {name: float(re.search(pattern, row)[1]) for name, pattern in {
        "zero": r'class="zero" x1="([\d.]+)%', "limit": r'class="threshold" x1="([\d.]+)%', "bound": r'class="bound good" x1="([\d.]+)%',
        "point": r'class="point good" cx="([\d.]+)%',
    }.items()}  # fmt: skip
    per_cent = (place["point"] - place["zero"]) / gate["difference"]
    assert place["limit"] - place["zero"] == pytest.approx(gate["threshold"] * per_cent, abs=0.02)
    assert place["bound"] - place["zero"] == pytest.approx(gate["bound"] * per_cent, abs=0.02)


def test_answers_that_differ_are_shown_and_no_text_of_a_suite(full):
    verdict, items, rows = full
    page = Page(telling.page(verdict, items, rows={row["id"]: row for row in rows}))
    assert sum(tag == "article" for tag, _ in page.tags) == 6
    assert page.words.count("Right after fine-tuning, wrong with champion") == 3
    assert page.words.count("Wrong after fine-tuning, right with champion") == 3
    assert "HARMFUL TEXT" not in page.words
    assert "Answers side by side" not in Page(telling.page(verdict)).words, "without the evidence there is nothing to show"


def test_texts_of_models_are_text_and_are_cut():
    verdict, items, rows = make("PROMOTE")
    for item in items:
        item["output"], item["expected"] = "<script>alert(1)</script>" + "x" * 5000, "<img onerror=alert(1)>"
    verdict["predicate"]["warnings"] = ["<b>bold</b>"]
    text = telling.page(verdict, items, "<i>signer</i>", WAIVER | {"reason": "<u>why</u>"}, {row["id"]: row for row in rows})
    page = Page(text)
    for raw in ("<script>alert(1)</script>", "<img onerror=alert(1)>", "<b>bold</b>", "<i>signer</i>", "<u>why</u>"):
        assert raw in page.words and raw not in text
    assert "(3,825 more characters)" in page.words


def test_continuous_metrics_show_what_differs_most(full):
    verdict, items, rows = full
    gates = verdict["predicate"]["policy"]["document"]["gates"]
    verdict = json.loads(json.dumps(verdict))
    verdict["predicate"]["policy"]["document"]["gates"] = [gate for gate in gates if gate["id"] == "json_fields"]
    page = Page(telling.page(verdict, items, rows={row["id"]: row for row in rows}))
    assert "Better than champion" in page.words and "The items that differ most, so nobody picked them." in page.words


def test_the_page_stands_beside_the_verdict_and_is_the_same_every_time(tmp_path, full):
    data = written(tmp_path / "verdict", *full)
    path = telling.write_page(tmp_path / "verdict", data)
    first = path.read_bytes()
    assert path == tmp_path / "verdict" / "verdict.html" and full[2][0]["messages"][0]["content"].split()[0] in first.decode()
    assert telling.write_page(tmp_path / "verdict", data).read_bytes() == first
    assert b"verdict <b>unsigned</b>" in first


def test_what_an_envelope_claims_is_not_taken_for_checked(tmp_path, full):
    written(tmp_path / "verdict", *full)
    envelope = tmp_path / "verdict" / "verdict.dsse.json"
    envelope.write_text(json.dumps({"signatures": [{"keyid": "0123456789abcdef", "sig": "…"}]}))
    assert telling.signature_beside(tmp_path / "verdict") == "signed by 0123456789ab, not checked here"
    envelope.write_text("{")
    assert "unreadable" in telling.signature_beside(tmp_path / "verdict")


def test_the_command_prints_the_screen(tmp_path, full):
    from tunegate.cli import app

    written(tmp_path / "verdict", *full)
    for path in (tmp_path / "verdict", tmp_path / "verdict" / "verdict.json"):
        ran = CliRunner().invoke(app, ["verdict", str(path)])
        assert ran.exit_code == 0 and ran.stdout == telling.summary(full[0]) + "\n"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"decision": "PROMOTE"}'])
def test_what_is_no_verdict_is_told(tmp_path, content):
    if content is not None:
        (tmp_path / "verdict.json").write_text(content)
    with pytest.raises(BadInput, match="Give the verdict.json that gate wrote"):
        telling.read_verdict(tmp_path)


def test_a_verdict_of_before_these_fields_is_shown_without_them():
    verdict, items, _ = make("PROMOTE")
    for fact in ("recipe", "model", "champion", "stop_token_in_loss", "sealed_test"):
        verdict["predicate"]["facts"].pop(fact, None)
    for finding in ("warnings", "slices"):
        verdict["predicate"].pop(finding, None)
    for item in items:
        del item["expected"], item["first_token_seconds"]
    page = Page(telling.page(verdict, items))
    assert "Sealed test" not in page.words and "Parts of the test" not in page.words and "Warning" not in page.words
    fits(telling.summary(verdict))


def test_of_many_parts_every_alarm_is_listed(full):
    verdict = json.loads(json.dumps(full[0]))
    alarm, quiet = (next(one for one in verdict["predicate"]["slices"] if one["alarm"] is told) for told in (True, False))
    verdict["predicate"]["slices"] = [quiet | {"value": f"quiet {i}"} for i in range(40)] + [
        alarm | {"value": f"loud {i}"} for i in range(25)
    ]
    words = Page(telling.page(verdict)).words
    assert words.count("✗ worse") == 25 and "quiet" not in words and "40 smaller parts without an alarm are left out" in words
