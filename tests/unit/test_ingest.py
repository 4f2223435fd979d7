"""Ingest: every kind of source and form, what is quarantined and why, and the base model."""

import csv
import functools
import gzip
import http.server
import io
import json
import shutil
import ssl
import threading
from pathlib import Path

import pytest
import zstandard

from tunegate import digests, rows
from tunegate.errors import BadInput, Unavailable
from tunegate.ingest import base_model, ingest, ingest_step, readers, stage
from tunegate.recipe import Data
from tunegate.steps import Inputs
from tunegate.store import open_store

PAIR = {"prompt": "turn it on", "completion": "done"}
CHAT = {"messages": [{"role": "user", "content": "turn it on"}, {"role": "assistant", "content": "done"}]}


def lines(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def read(tmp_path: Path, *sources, store=None, **settings) -> tuple[dict, list[dict], list[dict]]:
    report = ingest(Data(sources=[str(source) for source in sources], **settings), tmp_path / "out", store)
    made = tmp_path / "out" / "rows"
    quarantine = [json.loads(line) for line in (made / "quarantine.jsonl").read_text().splitlines()]
    assert json.loads((made / "ingest.json").read_text()) == report
    assert report["digest"] == digests.sha256_file(made / "rows.jsonl")
    return report, list(rows.read_rows(made / "rows.jsonl")), quarantine


@pytest.mark.parametrize("record, schema, turns", [
    (CHAT, "chat", ["turn it on", "done"]),
    ({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "sharegpt",
     ["s", "a", "b"]),
    ({"instruction": "Add.", "input": "1 2", "output": "3"}, "alpaca", ["Add.\n\n1 2", "3"]),
    ({"instruction": "Greet.", "input": "", "output": "Hi"}, "alpaca", ["Greet.", "Hi"]),
    (PAIR, "prompt", ["turn it on", "done"]),
    ({"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]}, "prompt", ["turn it on", "done"]),
    ({"question": "a", "answer": "b", "system": "s"}, "question", ["s", "a", "b"]),
    ({"messages": [{"role": "system", "content": "own"}, *CHAT["messages"]], "system": "s"}, "chat", ["own", "turn it on", "done"]),
])  # fmt: skip
def test_each_schema(tmp_path, record, schema, turns):
    (tmp_path / "a.jsonl").write_text(lines({**record, "task_type": "t", "extra": 1}))
    report, made, _ = read(tmp_path, tmp_path / "a.jsonl")
    assert [turn["content"] for turn in made[0]["messages"]] == turns
    assert made[0] == rows.make_row(made[0]["messages"], "t", str(tmp_path / "a.jsonl"))
    assert report["files"][0]["schemas"] == {schema: 1}


def test_named_columns(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines({"q": "a", "a": "b", "kind": "t", "messages": "no"}, PAIR))
    _, made, _ = read(tmp_path, tmp_path / "a.jsonl", columns={"prompt": "q", "completion": "a", "task_type": "kind"})
    assert [(row["messages"][0]["content"], row["task_type"]) for row in made] == [("a", "t"), ("turn it on", "")]
    with pytest.raises(BadInput, match="maps 'promt'.*Did you mean 'prompt'"):
        read(tmp_path, tmp_path / "a.jsonl", columns={"promt": "q"})


def table(delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([["", "prompt", "completion"], ["0", "two\nlines", "é"], ["1", "b", "c"]])
    return text.getvalue().encode("utf-8-sig")


def parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([CHAT, {**CHAT, "messages": CHAT["messages"] * 2}]), sink)
    return sink.getvalue()


@pytest.mark.parametrize("name, make", [
    ("a.jsonl", lambda: lines(PAIR, PAIR).encode("utf-8-sig")), ("a.ndjson", lambda: f"\n{lines(PAIR)}\n{json.dumps(PAIR)}".encode()),
    ("a.json", lambda: json.dumps([PAIR, PAIR], indent=1).encode()), ("lines.json", lambda: lines(PAIR, PAIR).encode()),
    ("A.CSV", lambda: table(",")), ("a.tsv", lambda: table("\t")), ("a.parquet", parquet),
])  # fmt: skip
@pytest.mark.parametrize("pack, suffix", [(bytes, ""), (gzip.compress, ".gz"), (zstandard.compress, ".zst")])
def test_each_form(tmp_path, name, make, pack, suffix):
    path = tmp_path / (name + suffix)
    path.write_bytes(pack(make()))
    report, made, quarantine = read(tmp_path, path)
    assert (report["rows"], len(made), quarantine) == (2, 2, [])


def test_what_is_quarantined_and_where(tmp_path):
    bad = [
        b"{oops}", b'["a"]', b'{"text": "x"}', b'{"prompt": "a", "completion": ""}', b'{"prompt": "a\\u0000", "completion": "b"}',
        b'{"prompt": "\\ud800", "completion": "b"}', b'{"prompt": 5, "completion": "b"}', b"\xff\xfe", b'{"messages": "x", "system": "s"}',
        b"[" * 100_000, b'{"conversations": [{"from": "x"}]}', b'{"prompt": "a", "completion": "b", "task_type": 1}',
        b'{"messages": [{"role": "assistant", "content": "x"}]}', b"1" * 5000,
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*bad, lines(PAIR).encode()]))
    report, made, quarantine = read(tmp_path, tmp_path / "a.jsonl", max_bad_share=0.95)
    assert [entry["line"] for entry in quarantine] == list(range(1, len(bad) + 1))
    for entry, reason in zip(quarantine, [
        "not JSON: Expecting property name", "not an object", "no known form: its fields are text", "completion is empty",
        "prompt contains a NUL", "half of a surrogate pair", "prompt is not text but int", "not UTF-8", "messages is not a list",
        "nested too deep", "is from 'x'", "task_type is not text", "turn 1 is assistant's", "thousands of digits",
    ], strict=True):  # fmt: skip
        assert reason in entry["reason"]
        assert 0 < len(entry["text"]) <= 500 and entry["source"].endswith("a.jsonl")
    assert quarantine[0]["text"] == "{oops}"
    assert len(made) == 1 and report["quarantined"] == len(bad) == sum(report["reasons"].values())


def test_rows_of_a_table_that_do_not_fit_its_header(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"prompt,completion\na,b\na\na,b,c\n\xff,b\n")
    _, made, quarantine = read(tmp_path, tmp_path / "a.csv", max_bad_share=1)
    assert len(made) == 1
    assert [(entry["line"], entry["reason"].split(" has ")[-1]) for entry in quarantine[:2]] == [
        (3, "fewer fields than the header"), (4, "more fields than the header")
    ]  # fmt: skip
    assert "not UTF-8" in quarantine[2]["reason"]


def test_a_line_too_long_is_passed_over_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 1 << 20)
    asked = []

    class Watched(io.BytesIO):
        def readline(self, size=-1):
            asked.append(size)
            return super().readline(size)

    file = Watched(b"x" * (5 << 20) + b"\n" + lines(PAIR).encode())
    found = list(readers.READERS[".jsonl"](file, "a.jsonl"))
    assert [(record.line, record.fault) for record in found] == [(1, "the line is longer than 1 MiB"), (2, "")]
    assert found[1].value == PAIR and max(asked) <= (1 << 20) + 1


def test_too_many_bad_rows_name_the_first_three(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(*[PAIR] * 90, *[{"x": i} for i in range(10)]))
    with pytest.raises(BadInput, match=r"^10 of 100 rows \(10.0%\).*a.jsonl:91 \(no known form.*a.jsonl:92 .*a.jsonl:93 [^;]*columns.$"):
        read(tmp_path, tmp_path / "a.jsonl")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    report, _, _ = read(tmp_path, tmp_path / "a.jsonl", max_bad_share=0.1)
    assert report["quarantined"] == 10


def test_nothing_to_read(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "dir").mkdir()
    (tmp_path / "x.docx").write_text("x")
    for source, sentence in {
        tmp_path / "empty.jsonl": "There are no rows in", tmp_path / "none.jsonl": "does not exist", tmp_path / "*.gone": "No file matches",
        tmp_path / "dir": "holds no file of a known form", tmp_path / "x.docx": "has no known form", "ftp://x/y": "is of no known kind",
        "http://x/y.jsonl": "is of no known kind", "hf://name": "not a data set of the hub", "store:x/y": "Run the recipe",
    }.items():  # fmt: skip
        with pytest.raises(BadInput, match=sentence):
            read(tmp_path, source)


@pytest.mark.parametrize("name, data", [
    ("a.jsonl.gz", gzip.compress(b"x" * 10_000)[:-9]), ("a.jsonl.gz", b"not gzip"), ("a.jsonl.zst", b"not zstandard"),
    ("a.parquet", b"PAR1 not parquet"), ("a.json", b"[{"), ("a.parquet.gz", gzip.compress(b"no")),
])  # fmt: skip
def test_damaged_files(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=name):
        read(tmp_path, tmp_path / name)


def test_globs_and_directories_are_read_in_order(tmp_path):
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", "README.md"):
        (data / name).write_text(lines({"prompt": name, "completion": "x"}))
    _, made, _ = read(tmp_path, data / "*.jsonl")
    assert [row["messages"][0]["content"] for row in made] == ["a.jsonl", "b.jsonl"]
    _, made, _ = read(tmp_path, data)
    assert [row["source"] for row in made] == ["a.jsonl", "b.jsonl", "deep/c.jsonl"]


def test_staged_sources_read_the_same_anywhere(tmp_path):
    store = open_store(str(tmp_path / "store"))
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.jsonl").write_text(lines(PAIR))
    address = stage(store, tmp_path / "here" / "a.jsonl")
    assert address.startswith("store:staged/") and address == stage(store, tmp_path / "there" / "a.jsonl")
    assert stage(store, tmp_path / "here").startswith("store:staged/")
    _, made, _ = read(tmp_path, address, store=store)
    assert made[0]["source"] == "a.jsonl"
    with pytest.raises(BadInput, match="does not exist"):
        stage(store, tmp_path / "none")


def test_a_bucket_gives_rows_and_the_base(tmp_path, s3, base):
    for key in ("data/b.jsonl", "data/a.jsonl.gz", "data/README.md", "data-old/c.jsonl"):
        body = lines({"prompt": key, "completion": "x"}).encode()
        s3.client.put_object(Bucket=s3.bucket, Key=key, Body=gzip.compress(body) if key.endswith("gz") else body)
    for file in base.iterdir():
        s3.client.put_object(Bucket=s3.bucket, Key=f"models/tiny/{file.name}", Body=file.read_bytes())
    _, made, _ = read(tmp_path, f"s3://{s3.bucket}/data")
    assert [row["source"] for row in made] == [f"s3://{s3.bucket}/data/a.jsonl.gz", f"s3://{s3.bucket}/data/b.jsonl"]
    _, made, _ = read(tmp_path, f"s3://{s3.bucket}/data/b.jsonl")
    assert len(made) == 1
    with pytest.raises(BadInput, match="no file of a known form"):
        read(tmp_path, f"s3://{s3.bucket}/nothing")
    config = {"data": {"sources": [f"s3://{s3.bucket}/data/"]}, "base_model": f"s3://{s3.bucket}/models/tiny"}
    result = ingest_step(config, Inputs({}, s3), tmp_path / "step")
    assert result.refs["base"] == base_model.mirror(str(base), open_store(str(tmp_path / "local")))
    assert result.line == "2 rows from 2 files, 0 quarantined"
    assert result.metrics == {
        "rows_read": 2.0, "preferences_read": 0.0, "labelled_read": 0.0, "rows_quarantined": 0.0, "files": 2.0
    }  # fmt: skip
    with pytest.raises(BadInput, match=f"There is no model at s3://{s3.bucket}/models/none"):
        base_model.mirror(f"s3://{s3.bucket}/models/none", s3)


def certificate(directory: Path) -> Path:
    """Make a certificate of 127.0.0.1 and its key, in one file."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = directory / "server.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path == "/broken.jsonl":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
        elif self.path == "/busy.jsonl":
            self.send_error(503)
        else:
            super().do_GET()


def test_https(tmp_path, monkeypatch):
    served = tmp_path / "served"
    served.mkdir()
    (served / "a b.jsonl.gz").write_bytes(gzip.compress(lines(PAIR).encode()))
    pem = certificate(tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(served)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"https://127.0.0.1:{server.server_port}"
    with pytest.raises(Unavailable, match="certificate"):
        read(tmp_path, f"{address}/a%20b.jsonl.gz")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    _, made, _ = read(tmp_path, f"{address}/a%20b.jsonl.gz?download=true")
    assert len(made) == 1
    with pytest.raises(BadInput, match="answered 404"):
        read(tmp_path, f"{address}/none.jsonl")
    with pytest.raises(Unavailable, match="answered 503"):
        read(tmp_path, f"{address}/busy.jsonl")
    with pytest.raises(Unavailable, match="broken.jsonl cannot be read"):
        read(tmp_path, f"{address}/broken.jsonl")
    server.shutdown()
    server.server_close()
    with pytest.raises(Unavailable, match="cannot be read"):
        read(tmp_path, f"{address}/a.jsonl")


def test_the_hub_is_read_through_datasets(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)  # load_dataset prefers a directory of that name to the hub
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "train.jsonl").write_text(lines(PAIR, {"prompt": "b", "completion": None}))
    _, made, quarantine = read(tmp_path, "hf://org/name", max_bad_share=0.5)
    assert made[0]["source"] == "hf://org/name" and quarantine[0]["line"] == 2
    with pytest.raises(BadInput, match="nosplit"):
        read(tmp_path, "hf://org/name:nosplit")
    with pytest.raises(Unavailable, match="hf://org/other cannot be reached"):
        read(tmp_path, "hf://org/other")


@pytest.fixture
def base(tmp_path) -> Path:
    """A directory that has what a model directory must have; its weights are never read here."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    (base / "tokenizer.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"\0" * 100)
    (base / "training_args.bin").write_bytes(b"pickle")
    return base


def test_the_base_is_mirrored_without_its_pickles(tmp_path, base):
    store = open_store(str(tmp_path / "store"))
    ref = base_model.mirror(str(base), store)
    assert sorted(file.name for file in store.get(ref).iterdir()) == [
        "MANIFEST.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip
    assert stage(store, base) == f"store:{ref}"
    assert base_model.mirror(f"store:{ref}", store) == ref
    (base / "tokenizer_config.json").write_text("{}")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    assert base_model.mirror(str(base), store) != ref


@pytest.mark.parametrize("spoil, sentence", [
    (lambda base: (base / "tokenizer_config.json").write_text("{}"), r"The base model \S+/base has no chat template.*chat_template.jinja"),
    (lambda base: (base / "config.json").unlink(), "has no config.json"),
    (lambda base: (base / "config.json").write_text("[]"), "The config.json of the base model .* is not a JSON object"),
    (lambda base: (base / "config.json").write_text('{"quantization_config": {"bits": 4}}'), "is already quantised to 4 bits"),
    (lambda base: (base / "model.safetensors").unlink(), r"no .safetensors file \(but training_args.bin, a pickle"),
    (lambda base: (base / "tokenizer_config.json").unlink(), "has no tokenizer_config.json"),
    (lambda base: (base / "tokenizer_config.json").write_text("[]"), "is not a JSON object"),
    (lambda base: shutil.rmtree(base), "is not a directory"),
])  # fmt: skip
def test_a_base_that_cannot_be_trained_is_refused(tmp_path, base, spoil, sentence):
    spoil(base)
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(BadInput, match=sentence):
        base_model.mirror(str(base), store)
    assert store.list("objects") == []


def test_a_base_from_the_hub(tmp_path, base, monkeypatch):
    store = open_store(str(tmp_path / "store"))

    def snapshot(name, revision, local_dir, allow_patterns, ignore_patterns):
        assert (name, revision, ignore_patterns) == ("org/model", "abc123", ["*/*"]) and "*.safetensors" in allow_patterns
        (local_dir / ".cache" / "huggingface").mkdir(parents=True)
        for file in base.glob("*.[js]*"):
            shutil.copy(file, local_dir)

    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.snapshot_download", snapshot)
        assert base_model.mirror("hf://org/model@abc123", store) == base_model.mirror(str(base), store)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(Unavailable, match="hf://org/model@abc123 cannot be fetched"):
        base_model.mirror("hf://org/model@abc123", store)
    with pytest.raises(BadInput, match="not on the hub"):
        base_model.mirror("hf://a/b/c/d", store)


def test_the_step_writes_rows_and_names_the_base(tmp_path, base):
    store = open_store(str(tmp_path / "store"))
    (tmp_path / "a.jsonl").write_text(lines(PAIR))
    config = {"data": {"sources": [stage(store, tmp_path / "a.jsonl")]}, "base_model": stage(store, base)}
    result = ingest_step(config, Inputs({}, store), tmp_path / "out")
    assert f"store:{result.refs['base']}" == config["base_model"]
    assert sorted(path.name for path in (tmp_path / "out" / "rows").iterdir()) == [
        "ingest.json", "labelled.jsonl", "preferences.jsonl", "quarantine.jsonl", "rows.jsonl"
    ]  # fmt: skip
    assert result.line == "1 rows from 1 file, 0 quarantined"
    tokenizer = {path.name for path in (tmp_path / "out" / "tokenizer").iterdir()}
    assert tokenizer == {path.name for path in base.iterdir() if path.suffix == ".json"} and "tokenizer_config.json" in tokenizer
