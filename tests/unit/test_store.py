"""Both stores: same references, all or nothing, verified before use."""

import errno
import json
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from tunegate import digests
from tunegate.errors import BadInput, Refused, Unavailable
from tunegate.store import MANIFEST, base, directory, open_store

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(params=["directory", "s3"])
def store(request, tmp_path):
    return open_store(str(tmp_path / "store")) if request.param == "directory" else request.getfixturevalue("s3")


@pytest.fixture
def made(tmp_path) -> Path:
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "rows.jsonl").write_text('{"a": 1}\n')
    (made / "deep" / "bytes.bin").write_bytes(bytes(range(256)) * 5000)
    return made


def forget() -> None:
    """Verify again, as a new process would."""
    base._verified.clear()


def test_an_object_comes_back_as_it_was(store, made):
    ref = store.put("rows", made)
    wanted = digests.digest_json({
        "deep/bytes.bin": digests.sha256_file(made / "deep" / "bytes.bin"), "rows.jsonl": digests.sha256_file(made / "rows.jsonl"),
    })  # fmt: skip
    assert ref == f"rows/{wanted}"
    assert store.has(ref)
    forget()
    found = store.get(ref)
    assert (found / "deep" / "bytes.bin").read_bytes() == (made / "deep" / "bytes.bin").read_bytes()
    assert store.list("objects") == [f"objects/{ref}/{name}" for name in sorted(["MANIFEST.json", "deep/bytes.bin", "rows.jsonl"])]


def test_both_stores_give_the_same_reference(tmp_path, s3, made):
    assert open_store(str(tmp_path / "other")).put("rows", made) == s3.put("rows", made)


def test_an_object_put_again_from_the_store_keeps_its_digest(store, made):
    ref = store.put("rows", made)
    assert store.put("rows", store.get(ref)) == ref


def test_nothing_is_there_until_it_is_whole(tmp_path, made, monkeypatch):
    store = open_store(str(tmp_path / "store"))

    def fail_late(source, target):
        shutil.copyfile(source, target)
        if source.name == "rows.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(directory, "copy_to_disk", fail_late)
    with pytest.raises(Unavailable, match=r"disk of the store .* is full \(needs 1\.2 MiB, [\d,.]+ MiB free\)"):
        store.put("rows", made)
    assert store.list("objects") == []
    assert store.list("partial") == []


def test_a_disk_without_room_is_told_before_anything_is_copied(tmp_path, made, monkeypatch):
    store = open_store(str(tmp_path / "store"))
    monkeypatch.setattr(directory.shutil, "disk_usage", lambda place: Usage(10, 10, 1000))
    monkeypatch.setattr(directory, "copy_to_disk", lambda *paths: pytest.fail("copied"))
    with pytest.raises(Unavailable, match="Free some space"):
        store.put("rows", made)


def test_a_file_that_changes_while_it_is_stored_is_refused(tmp_path, made, monkeypatch):
    store = open_store(str(tmp_path / "store"))
    monkeypatch.setattr(directory, "copy_to_disk", lambda source, target: target.write_bytes(b"other"))
    with pytest.raises(Refused, match="changed while it was being stored"):
        store.put("rows", made)
    assert store.list("objects") == []


def test_two_writers_of_the_same_bytes_agree(tmp_path, made):
    uri, refs = str(tmp_path / "store"), []
    threads = [threading.Thread(target=lambda: refs.append(open_store(uri).put("rows", made))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refs) == 8 and len(set(refs)) == 1
    assert len(open_store(uri).list("")) == 3


@pytest.mark.parametrize("change", ["edit", "remove", "add", "manifest"])
def test_a_changed_object_is_refused_by_name(tmp_path, made, change):
    store = open_store(str(tmp_path / "store"))
    ref = store.put("rows", made)
    place = store.place(ref)
    named = {"edit": "rows.jsonl", "remove": "rows.jsonl", "add": "extra.json", "manifest": MANIFEST}[change]
    if change == "edit":
        (place / named).write_text('{"a": 2}\n')
    elif change == "remove":
        (place / named).unlink()
    elif change == "add":
        (place / named).write_text("{}")
    else:
        manifest = json.loads((place / MANIFEST).read_text())
        manifest["files"]["rows.jsonl"]["sha256"] = "0" * 64
        (place / MANIFEST).write_text(json.dumps(manifest))
    forget()
    with pytest.raises(Refused, match=named):
        store.get(ref)


def test_a_changed_object_in_a_bucket_is_refused_by_name(s3, made):
    ref = s3.put("rows", made)
    s3.client.put_object(Bucket=s3.bucket, Key=s3.key(f"objects/{ref}/rows.jsonl"), Body=b'{"a": 2}\n')
    with pytest.raises(Refused, match=rf"s3://.*{ref}/rows.jsonl was changed"):
        s3.get(ref)
    assert not s3.cache.has(ref)
    s3.client.delete_object(Bucket=s3.bucket, Key=s3.key(f"objects/{ref}/rows.jsonl"))
    with pytest.raises(Refused, match="rows.jsonl is missing"):
        s3.get(ref)


def test_a_spoilt_cache_is_filled_again(s3, made):
    ref = s3.put("rows", made)
    (s3.get(ref) / "rows.jsonl").write_text("spoilt")
    forget()
    assert (s3.get(ref) / "rows.jsonl").read_text() == '{"a": 1}\n'


def test_an_absent_object_and_a_wrong_reference(store):
    with pytest.raises(BadInput, match="has no object rows/0000"):
        store.get("rows/" + "0" * 64)
    for wrong in ("rows", "../x/" + "0" * 64, "rows/" + "0" * 63, ""):
        with pytest.raises(BadInput, match="is not a reference"):
            store.get(wrong)
    with pytest.raises(BadInput, match="not a path inside"):
        store.write_json("../x.json", {})


def test_documents_and_what_steps_remember(store, made):
    ref = store.put("rows", made)
    assert store.read_json("runs/1/ingest.json") is None
    store.write_json("runs/1/ingest.json", {"é": 1})
    store.write_json("runs/1/ingest.json", {"é": 2})
    store.write_json("runs/10/ingest.json", {})
    assert store.read_json("runs/1/ingest.json") == {"é": 2}
    assert store.list("runs/1") == ["runs/1/ingest.json"]
    assert store.recall("ingest", "key") is None
    store.remember("ingest", "key", {"refs": {"rows": ref}, "line": "x"})
    assert store.recall("ingest", "key") == {"refs": {"rows": ref}, "line": "x"}
    store.remember("ingest", "other", {"refs": {"rows": ref, "base": "base/" + "1" * 64}})
    assert store.recall("ingest", "other") is None


def test_a_document_is_created_once(store):
    assert store.create_json("ledger/x/1.json", {"model": "é"})
    assert not store.create_json("ledger/x/1.json", {"model": "b"})
    assert store.read_json("ledger/x/1.json") == {"model": "é"}
    assert store.list("") == ["ledger/x/1.json"], "nothing half-written stays"
    with pytest.raises(BadInput, match="not a path inside"):
        store.create_json("../x.json", {})


def test_of_many_creators_one_is_told_so(store):
    told, start = [], threading.Barrier(8)

    def create(number):
        start.wait()
        told.append((open_store(store.uri).create_json("ledger/x/1.json", {"by": number}), number))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [number for created, number in told if created]
    assert store.read_json("ledger/x/1.json") == {"by": winner}


def test_a_server_without_conditional_writes_creates_all_the_same(s3):
    from botocore.awsrequest import AWSResponse

    class Raw:
        def stream(self, *args, **kwargs):
            yield b"<Error><Code>NotImplemented</Code></Error>"

    def refuse(request, **kwargs):
        if "If-None-Match" in request.headers:
            return AWSResponse(request.url, 501, {}, Raw())

    s3.client.meta.events.register("before-send.s3.PutObject", refuse)
    assert s3.create_json("x.json", {"a": 1})
    assert not s3.create_json("x.json", {"a": 2})
    assert s3.read_json("x.json") == {"a": 1}


def test_a_manifest_is_read_without_its_files(store, made):
    ref = store.put("rows", made)
    assert set(store.manifest(ref)["files"]) == {"deep/bytes.bin", "rows.jsonl"}
    with pytest.raises(BadInput, match="has no object"):
        store.manifest("rows/" + "0" * 64)
    store.write_json(f"objects/{ref}/{MANIFEST}", {"files": {}})
    with pytest.raises(Refused, match="was changed after it was written"):
        store.manifest(ref)


def test_a_directory_without_links_to_files_is_a_sentence(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(directory.os, "link", refuse)
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(Unavailable, match="cannot be written: Operation not permitted"):
        store.create_json("x.json", {})
    assert store.list("") == []


def test_an_object_without_its_manifest_is_made_again(tmp_path, made):
    store = open_store(str(tmp_path / "store"))
    ref = store.put("rows", made)
    (store.place(ref) / MANIFEST).unlink()
    assert not store.has(ref)
    assert store.put("rows", made) == ref and store.has(ref)


def test_links_to_directories_are_refused(tmp_path, made):
    (made / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="elsewhere is a link to a directory"):
        open_store(str(tmp_path / "store")).put("rows", made)


def test_a_store_that_is_not_one():
    for uri in ("", "gs://bucket/x", "https://host/x", "s3:///x"):
        with pytest.raises(BadInput):
            open_store(uri)


def test_a_store_where_a_file_is(tmp_path, made):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be written"):
        open_store(str(tmp_path / "file")).put("rows", made)


def test_a_missing_bucket_is_named(s3, made):
    store = open_store("s3://no-such-bucket-here/x")
    with pytest.raises(BadInput, match="bucket of s3://no-such-bucket-here/x does not exist"):
        store.put("rows", made)
    store.client.close()


def test_a_server_that_does_not_answer(s3, made, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # botocore waits between its attempts
    with pytest.raises(Unavailable, match="cannot be reached"):
        open_store("s3://bucket/x").read_json("runs/x.json")
