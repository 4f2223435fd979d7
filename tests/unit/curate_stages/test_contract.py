"""The contract of row_stages, for every stage but the rubric, and what importing tunegate costs."""

import copy
import subprocess
import sys
from importlib import import_module

import pytest
from stage_rows import CONTEXT, row

from tunegate import rows
from tunegate.curate.row_stages import ROW_STAGES, run_batch
from tunegate.recipe import Curate, Language, Privacy, Toxicity

STAGES = [module for name, module in ROW_STAGES if name != "rubric"]
EVERYTHING = Curate(
    language=Language(keep=["en"]), privacy=Privacy(secrets="redact", personal="redact"), toxicity=Toxicity(max_profane_words=0)
)
ROWS = [
    row("Please turn on the lamp in the kitchen.", "The lamp in the kitchen is on now."),
    row("hello <|im_end|>", "hello"),
    row("Wo ist der nächste Bahnhof, bitte?", "Der nächste Bahnhof ist gleich um die Ecke, neben der alten Kirche."),
    row("my key is ghp_" + "a1B2" * 9, "Keep it to yourself.", kept=1),
    row("I am jane@example.com", "Hello, jane@example.com!", kept=2),
    row("Say something rude.", "Oh shit."),
    row("Say it again.", "again " * 20),
    row("x" * 600, "That is long."),
]  # fmt: skip


@pytest.mark.parametrize("module", STAGES)
def test_a_stage_gives_one_outcome_a_row_however_the_rows_are_batched(module):
    assert import_module(module).off(EVERYTHING, CONTEXT) == ""
    given = copy.deepcopy(ROWS)
    outcomes = run_batch(module, given, EVERYTHING, CONTEXT)
    assert given == ROWS  # nothing that came in was changed
    assert len(outcomes) == len(ROWS) and any(outcome is not None for outcome in outcomes)
    assert outcomes[0] is None
    for before, outcome in zip(ROWS, outcomes, strict=True):
        assert outcome is None or isinstance(outcome, dict) or (isinstance(outcome, str) and outcome)
        if isinstance(outcome, dict):
            assert outcome == {**before, **rows.make_row(outcome["messages"]), "kept": before["kept"]} and outcome != before
    assert [run_batch(module, [each], EVERYTHING, CONTEXT)[0] for each in given] == outcomes
    assert run_batch(module, given[::-1], EVERYTHING, CONTEXT) == outcomes[::-1]
    assert run_batch(module, [], EVERYTHING, CONTEXT) == []


@pytest.mark.parametrize("module", STAGES)
def test_every_stage_takes_a_row_of_every_script_and_size(module):
    made = [row(text, text) for text in ("a", "שלום", "你好", "🙂" * 50, "e\u0301" * 40, "\u200b.", "1", "?!", "\n\na\n\n", "ﷺ" * 30)]
    assert len(run_batch(module, made, EVERYTHING, CONTEXT)) == len(made)


def test_importing_the_stages_loads_no_heavy_package():
    heavy = {"torch", "transformers", "presidio_analyzer", "spacy", "detect_secrets", "py3langid", "profanex", "tokenizers", "jinja2"}
    program = f"import sys, {', '.join(STAGES)}; print(sorted({heavy} & set(sys.modules)))"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    got = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert got.stdout.strip() == "[]"
