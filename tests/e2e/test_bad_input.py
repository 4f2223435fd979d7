"""Bad input to `tunegate run`: one clear sentence, an exit code, and nothing half-written in the store."""

import json
import shutil
from types import SimpleNamespace

import pytest

from tunegate import cli


def run(monkeypatch, capfd, tmp_path, recipe, *arguments) -> tuple[int, str]:
    """Run the program; give its exit code and the last line it wrote on standard error."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("sys.argv", ["tunegate", "run", str(recipe), "--runs", str(tmp_path / "runs"), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    return ended.value.code or 0, errors.strip().splitlines()[-1]


def objects(tmp_path) -> set[str]:
    """Name the kinds of objects in the store, whole or not."""
    return {path.name for path in (tmp_path / "store" / "objects").glob("*")} if (tmp_path / "store").exists() else set()


def test_an_unknown_key(monkeypatch, capfd, tmp_path, tiny_recipe):
    code, sentence = run(monkeypatch, capfd, tmp_path, tiny_recipe(sft={"learning_rat": 1}))
    assert code == 2 and "unknown key 'sft.learning_rat'. Did you mean 'learning_rate'?" in sentence
    assert not objects(tmp_path) and not (tmp_path / "runs").exists()


def test_a_missing_file(monkeypatch, capfd, tmp_path, tiny_recipe):
    code, sentence = run(monkeypatch, capfd, tmp_path, tiny_recipe(data={"sources": ["absent.jsonl"]}))
    assert code == 2 and "absent.jsonl" in sentence and "relative to the recipe" in sentence
    assert not objects(tmp_path) and not (tmp_path / "runs").exists()


def test_malformed_rows(monkeypatch, capfd, tmp_path, tiny_recipe):
    recipe = tiny_recipe()
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c"\n{"question": 7}\n')
    code, sentence = run(monkeypatch, capfd, tmp_path, recipe)
    assert code == 2 and sentence.startswith("The run stopped at ingest:") and "2" in sentence
    assert "ingest-rows" not in objects(tmp_path)


def test_an_empty_dataset(monkeypatch, capfd, tmp_path, tiny_recipe):
    recipe = tiny_recipe()
    (tmp_path / "rows.jsonl").write_text("")
    code, sentence = run(monkeypatch, capfd, tmp_path, recipe)
    assert code == 2 and "rows" in sentence
    assert "ingest-rows" not in objects(tmp_path)


def test_too_few_rows_after_curation(monkeypatch, capfd, tmp_path, tiny_recipe):
    recipe = tiny_recipe()
    rows = [{"prompt": f"how much is {n} times {n * n + 7}, please", "completion": str(n * (n * n + 7))} for n in range(700)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, sentence = run(monkeypatch, capfd, tmp_path, recipe)
    assert code == 2 and "training rows are left after curation; a fine-tune needs at least 500" in sentence
    assert "curate-data" not in objects(tmp_path)


def test_a_base_model_without_chat_template(monkeypatch, capfd, tmp_path, tiny_recipe):
    recipe = tiny_recipe()
    (tmp_path / "base" / "tokenizer_config.json").write_text("{}")
    code, sentence = run(monkeypatch, capfd, tmp_path, recipe)
    assert code == 2 and "has no chat template" in sentence
    assert not objects(tmp_path)


def test_no_disk(monkeypatch, capfd, tmp_path, tiny_recipe):
    recipe = tiny_recipe()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**9, used=10**9, free=0))
    code, sentence = run(monkeypatch, capfd, tmp_path, recipe)
    assert code == 4 and "free" in sentence
    assert not objects(tmp_path)
