"""The command line: help that names everything, errors in one sentence with their code, and submit against a real HTTP server."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import call

from tunegate import cli, cli_steps, runner
from tunegate.errors import BadInput, Unavailable
from tunegate.recipe import load_recipe, parse_recipe
from tunegate.store import open_store

STEPS = ["ingest", "curate", "baseline", "sft", "prefer", "merge", "evaluate", "gate", "register", "deploy"]
DIGEST = "@sha256:" + "0" * 64
IMAGES = {name: f"registry.example/{name}{DIGEST}" for name in runner.IMAGES}


def test_help_names_every_command(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "--help")
    listed = re.findall(r"^\W*(\w+)  +[A-Z]", out, re.MULTILINE)
    assert code == 0
    assert set(listed) >= {"run", "plan", "submit", "serve", "approve", "promote", "rollback", "report", "verify", "waive", "keys", *STEPS}


@pytest.mark.parametrize("command", ["run", "plan", "submit", "serve", "promote", "rollback", "report", "verify", "waive", "keys", *STEPS])
def test_every_command_explains_its_options(monkeypatch, capsys, command):
    code, out, _ = call(monkeypatch, capsys, command, "--help")
    assert code == 0
    options = re.findall(r"^\W*\*?\s*(--[a-z-]+)(.*)$", out, re.MULTILINE)
    assert options and all(re.search(r"[A-Za-z]{3}", text) for _, text in options)


def test_plan_prints_a_table(monkeypatch, capsys, tiny_recipe):
    code, out, _ = call(monkeypatch, capsys, "plan", tiny_recipe())
    assert code == 0
    assert out.splitlines()[-1] == "tiny can run."


@pytest.mark.parametrize(
    "arguments, code, sentence",
    [
        (["plan", "nowhere.yaml"], 2, "tunegate: No recipe at nowhere.yaml."),
        (["run", "nowhere.yaml"], 2, "tunegate: No recipe at nowhere.yaml."),
        (["report", "20200101-000000-abcd", "--runs", "nowhere"], 2, "tunegate: There is no run 20200101-000000-abcd in nowhere."),
    ],
)
def test_an_error_is_one_sentence_and_its_code(monkeypatch, capsys, arguments, code, sentence):
    found, out, err = call(monkeypatch, capsys, *arguments)
    assert (found, out) == (code, "")
    assert err.startswith(sentence) and err.count("\n") == 1


def test_a_wrong_override_is_an_error(monkeypatch, capsys, tiny_recipe):
    code, _, err = call(monkeypatch, capsys, "plan", tiny_recipe(), "--set", "sft.learning_rat=1")
    assert code == 2 and "Did you mean 'learning_rate'?" in err


def test_run_leaves_nothing_behind_when_plan_refuses(monkeypatch, capsys, tiny_recipe, tmp_path):
    code, _, err = call(monkeypatch, capsys, "run", tiny_recipe(), "--set", "curate.test_rows=10", "--runs", tmp_path / "runs")
    assert code == 2 and "needs 200 items" in err
    assert not (tmp_path / "runs").exists() and not list((tmp_path / "store").glob("objects/*"))


def test_the_program_starts_as_a_module():
    answer = subprocess.run([sys.executable, "-m", "tunegate.cli", "--help"], capture_output=True, text=True, env=_environment())
    assert answer.returncode == 0 and "Usage" in answer.stdout


def test_settings_without_a_recipe_are_the_defaults_with_overrides():
    found = cli_steps.settings(None, ["sft.learning_rate=1e-5"])
    assert (found.sft.learning_rate, found.sft.num_train_epochs) == (1e-5, 3)


def test_a_step_does_not_write_into_a_full_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is there already"):
        cli_steps.empty(tmp_path)


def test_ingest_and_curate_on_plain_files(monkeypatch, capsys, tmp_path):
    rows = [{"prompt": f"how much is {n} times {n * n + 7}, please", "completion": str(n * (n * n + 7))} for n in range(900)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n")
    code, out, err = call(monkeypatch, capsys, "ingest", tmp_path / "mine.jsonl", "--output", tmp_path / "in")
    assert (code, err) == (0, "") and out.startswith("900 rows from 1 file, 1 quarantined")
    small = ["--set", "curate.dev_rows=20", "--set", "curate.test_rows=30", "--set", "curate.min_train_rows=100"]
    small += ["--set", "curate.duplicate_jaccard=1", "--set", "curate.cluster_jaccard=1"]
    code, out, err = call(monkeypatch, capsys, "curate", tmp_path / "in/rows/rows.jsonl", "--output", tmp_path / "out", *small)
    assert code == 0, err
    assert len((tmp_path / "out/test.jsonl").read_text().splitlines()) == 30
    code, _, err = call(monkeypatch, capsys, "curate", tmp_path / "in/rows/rows.jsonl", "--output", tmp_path / "out")
    assert code == 2 and "is there already" in err


def test_run_ids_sort_by_time():
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", runner.new_run_id())


def test_local_files_are_staged_and_renamed(tiny_recipe, tmp_path):
    store = open_store(str(tmp_path / "store"))
    recipe = load_recipe(tiny_recipe(data={"sources": ["*.jsonl", "s3://bucket/x.jsonl"]}))
    staged = runner.stage_local(recipe, store)
    rows, remote = staged.data.sources
    assert rows.startswith("store:") and remote == "s3://bucket/x.jsonl"
    assert staged.base_model.startswith("store:") and store.has(staged.base_model.removeprefix("store:"))
    assert runner.stage_local(staged, store) == staged


def test_submit_refuses_a_tag_and_a_directory(tiny_recipe):
    recipe = load_recipe(tiny_recipe())
    with pytest.raises(BadInput, match="--image-train must be an image with its digest"):
        runner.submit(recipe, "http://localhost:1", IMAGES | {"image_train": "tunegate/train:dev"})
    with pytest.raises(BadInput, match="is a directory, which a cluster cannot reach"):
        runner.submit(recipe, "http://localhost:1", IMAGES)


@pytest.fixture
def remote_recipe(tiny_recipe):
    return load_recipe(tiny_recipe(store="s3://bucket/prefix", base_model="s3://bucket/base", data={"sources": ["s3://bucket/x.jsonl"]}))


class Kubeflow(BaseHTTPRequestHandler):
    """The three calls that a submission makes, and what was sent to them."""

    def do_GET(self):
        self.answer({"experiments": [{"experiment_id": "e1", "display_name": "tunegate"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received[self.path.rpartition("/")[2]] = body
        self.answer({"run_id": "r-1", "experiment_id": "e1", "display_name": "tunegate"})

    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def kubeflow():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Kubeflow)
    server.received = {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_submit_sends_the_compiled_pipeline_and_its_arguments(remote_recipe, kubeflow, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # kfp keeps its context there
    host = f"http://127.0.0.1:{kubeflow.server_port}"
    assert runner.submit(remote_recipe, host, IMAGES, {"secret": "keys"}) == f"{host}/#/runs/details/r-1"
    run = kubeflow.received["runs"]
    sent = run["runtime_config"]["parameters"]
    assert parse_recipe(sent["recipe"]) == remote_recipe
    assert {name: sent[name] for name in IMAGES} == IMAGES
    assert (sent["gpus"], sent["cpu"], sent["memory"], sent["secret"]) == (1, "8", "64Gi", "keys")
    spec = run["pipeline_spec"]
    assert "sft" in json.dumps(spec)


def test_a_server_that_does_not_answer_is_a_sentence(remote_recipe):
    def refuse(host):
        raise ConnectionError("refused\nwith details")

    with pytest.raises(Unavailable, match=r"No run was started on http://nowhere: refused\. Check the address"):
        runner.submit(remote_recipe, "http://nowhere", IMAGES, connect=refuse)


def test_the_run_page_is_that_of_the_run(remote_recipe):
    client = SimpleNamespace(create_run_from_pipeline_package=lambda *a, **k: SimpleNamespace(run_id="abc"))
    assert runner.submit(remote_recipe, "http://kfp/", IMAGES, connect=lambda host: client) == "http://kfp/#/runs/details/abc"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
