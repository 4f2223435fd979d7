"""Ingest: what is damaged or made to do harm is put aside, and memory stays bounded."""

import csv
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tunegate import digests, rows
from tunegate.errors import BadInput
from tunegate.ingest import ingest, readers, unpack
from tunegate.ingest.decode import MAX_DEPTH, decode
from tunegate.ingest.json_list import split_list
from tunegate.recipe import Data

PAIR = b'{"prompt": "turn it on", "completion": "done"}'
MIB = 2**20
MAX_RSS_MIB = 160  # 35 for the interpreter, and several times the 32 MiB that one piece of a packed file may unpack to


def read(tmp_path: Path, name: str, data: bytes, **more) -> tuple[dict, list[tuple[int, str]]]:
    """Ingest one file; give the report, and line and reason of each quarantine entry."""
    (tmp_path / name).write_bytes(data)
    report = ingest(Data(sources=[str(tmp_path / name)], **{"max_bad_share": 1, **more}), tmp_path / "out")
    bad = list(rows.read_json_lines(tmp_path / "out" / "rows" / "quarantine.jsonl"))
    assert all(len(entry["text"]) <= 500 and len(entry["reason"]) <= 300 and entry["source"].endswith(name) for entry in bad)
    return report, [(entry["line"], entry["reason"]) for entry in bad]


@pytest.mark.parametrize("data, fault", [
    (b'{"a": 1, "a": 1}', "the key 'a' stands twice"), (b'{"a": 1, "a" :1}', "twice"), (b'{"a": 1, "\\u0061"\t: 1}', "twice"),
    (b'[{"b": {"a": "x:y", "a": 1}}]', "twice"), (b'{"a": ":", "b": "\\": \\\\", "b": 1}', "twice"),
    (b'{"tools": {"a": 1, "a": 2}}', "twice"),
    (b'{"a": {"a": 1}, "b": {"a": ": : \\": \\\\\\": "}, "c:": ":", " :" : "\\\\"}', ""), (b'{"a": "x", "b": {}, "c": []}', ""),
    (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, ""), (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested too deep"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested too deep"), (b'{"tools":' * 500 + b"1" + b"}" * 500, "nested too deep"),
    (b'"\xff"', "not UTF-8"), (b"{oops}", "not JSON: Expecting property name"), (b"1" * 5000, "thousands of digits"), (b"", "not JSON"),
    (b'["a\0b"]', "not JSON: Invalid control character"),
])  # fmt: skip
def test_what_json_is_taken(data, fault):
    found = decode(data)[1]
    assert found == "" if fault == "" else fault in found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(alphabet=st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='":\\ a', max_size=3), inner, max_size=4),
    max_leaves=15,
)


@settings(deadline=None, database=None, max_examples=200)
@given(JSON, st.sampled_from([None, 1]), st.sampled_from([(",", ":"), (" , ", " : "), (",\n", "\t:")]), st.booleans())
def test_valid_json_is_read_as_the_json_module_reads_it(value, indent, separators, ascii):
    data = json.dumps(value, indent=indent, separators=separators, ensure_ascii=ascii).encode()
    assert decode(data) == (value, "")


@settings(deadline=None, database=None, max_examples=200)
@given(st.lists(JSON, max_size=5), st.sampled_from([None, 1]), st.integers(1, 7))
def test_a_list_is_cut_where_its_elements_end_wherever_the_pieces_end(values, indent, size):
    class Pieces(io.BytesIO):
        def read1(self, _):
            return self.read(size)

    cut = list(split_list(Pieces(json.dumps(values, indent=indent).encode()), 10**6, 100))
    assert [(json.loads(element), whole) for element, whole in cut] == [(value, True) for value in values]


@settings(deadline=None, database=None, max_examples=300)
@given(st.lists(st.binary(max_size=30) | st.sampled_from([PAIR, b"[", b"{", b'"', b",", b"]", b"}", b"\\", b"\n"]), max_size=12))
def test_no_bytes_stop_a_reader(pieces):
    data = b"".join(pieces)
    for kind in (".jsonl", ".json", ".csv"):
        with io.BufferedReader(io.BytesIO(data)) as file:
            try:
                found = list(readers.READERS[kind](file, f"a{kind}"))
            except unpack.Broken:
                continue
        assert all(record.fault or record.value is not None or record.raw.strip() == b"null" for record in found)
        assert [record.line for record in found] == sorted(record.line for record in found)


@settings(deadline=None, database=None)
@given(st.text(min_size=1), st.text(min_size=1))
def test_rows_are_canonical_json(asked, answered):
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    if not rows.problem(messages):
        row = rows.make_row(messages, asked, answered, group=asked)
        assert row["id"] == digests.digest_json(messages)
        assert rows.to_line(row) == digests.canonical_json(row) + b"\n" == rows.to_lines([row])


@pytest.mark.parametrize("data, good, bad", [
    (b"[%s,{oops},%s]" % (PAIR, PAIR), 2, [(2, "not JSON: Expecting property name")]),
    (b"[%s,%s" % (PAIR, PAIR), 1, [(2, "its list does not end")]),
    (b"[%s,]" % PAIR, 1, [(2, "not JSON")]),
    (b"[%s] x" % PAIR, 1, [(2, "its list ends before the file does")]),
    (b"[%s}" % PAIR, 1, [(2, "its list ends before the file does")]),
    (b'[%s,{"a":"\xff"},1,"]",[2]]' % PAIR, 1, [(2, "not UTF-8"), (3, "not an object"), (4, "not an object"), (5, "not an object")]),
    (b"\xef\xbb\xbf\n [\n%s]\n" % PAIR, 1, []),
    (b"[%s,%s]" % (PAIR, b"[" * 50_000 + b"]" * 50_000), 1, [(2, "nested too deep")]),
    (b"[" * 100_000, 0, [(1, "its list does not end")]),
    (b'[%s,{"prompt": "%s"},%s]' % (PAIR, b'a\\"]' * 3 * MIB, PAIR), 2, [(2, "the element is longer than 8 MiB")]),
])  # fmt: skip
def test_lists_of_bad_elements(tmp_path, data, good, bad):
    if not good:
        with pytest.raises(BadInput, match=bad[0][1]):
            read(tmp_path, "a.json", data)
        return
    report, found = read(tmp_path, "a.json", data)
    assert report["rows"] == good and [line for line, _ in found] == [line for line, _ in bad]
    assert all(reason in said for (_, said), (_, reason) in zip(found, bad, strict=True))


def many(rows: int) -> bytes:
    return b"".join(b'{"prompt": "what is %d times seven?", "completion": "%d"}\n' % (i, i * 7) for i in range(rows))


@pytest.mark.parametrize("pack, suffix", [(gzip.compress, ".gz"), (zstandard.compress, ".zst")])
@pytest.mark.parametrize("damage, reason", [
    (lambda packed: packed[: len(packed) * 3 // 4], "it breaks off in the middle"),
    (lambda packed: packed + b"rubbish", "it cannot be decompressed"),
])  # fmt: skip
def test_rows_before_a_break_stay(tmp_path, pack, suffix, damage, reason):
    report, bad = read(tmp_path, f"a.jsonl{suffix}", damage(pack(many(100_000))))
    # Of Zstandard a block of 128 KiB is given in whole or not at all.
    assert 40_000 < report["rows"] <= 100_000
    assert len(bad) == 1 and bad[0][0] == report["rows"] + 1 and reason in bad[0][1]


@pytest.mark.parametrize("pack, suffix", [(gzip.compress, ".gz"), (zstandard.compress, ".zst")])
def test_parts_are_read_one_after_the_other(tmp_path, pack, suffix):
    report, bad = read(tmp_path, f"a.jsonl{suffix}", pack(many(10)) + pack(b"") + pack(many(20)))
    assert (report["rows"], bad) == (30, [])


@pytest.mark.parametrize("pack, suffix", [(gzip.compress, ".gz"), (zstandard.compress, ".zst")])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_a_decompression_bomb(tmp_path, monkeypatch, pack, suffix, name):
    monkeypatch.setattr(unpack, "RATIO_FROM_BYTES", 4 * MIB)
    start = {"a.jsonl": PAIR + b"\n", "a.json": b"[" + PAIR + b',"', "a.csv": b"prompt,completion\na,b\n", "a.parquet": b""}[name]
    (tmp_path / "good.jsonl").write_bytes(PAIR)
    sources = [str(tmp_path / "good.jsonl"), str(tmp_path / (name + suffix))]
    (tmp_path / (name + suffix)).write_bytes(pack(start + b"x" * 100 * MIB))
    report = ingest(Data(sources=sources, max_bad_share=0.8), tmp_path / "out")
    assert report["files"][1]["rows"] == (0 if name == "a.parquet" else 1)
    assert any("more than 250 times its size" in reason for reason in report["reasons"])


def test_a_limit_on_what_comes_out(tmp_path):
    report, bad = read(tmp_path, "a.jsonl.gz", gzip.compress(many(100_000)), max_unpacked_gib=MIB / 2**30)
    assert 0 < report["rows"] < 100_000
    assert bad == [(report["rows"] + 1, bad[0][1])] and "more than 0.000976562 GiB; data.max_unpacked_gib" in bad[0][1]


def parquet(table: dict, **more) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(table), sink, **more)
    return sink.getvalue()


def test_parquet_rows_that_are_too_long(tmp_path):
    table = {"prompt": ["a", "b", "c"], "completion": ["x", "y" * 9 * MIB, "z"]}
    report, bad = read(tmp_path, "a.parquet", parquet(table))
    assert (report["rows"], bad) == (2, [(2, "the row is longer than 8 MiB")])


def test_parquet_whose_second_row_group_is_damaged(tmp_path):
    table = {"prompt": [f"p{i}" for i in range(2000)], "completion": ["x"] * 2000}
    data = bytearray(parquet(table, row_group_size=1000))
    data[len(data) // 2 : len(data) // 2 + 600] = b"\xff" * 600
    report, bad = read(tmp_path, "a.parquet", bytes(data))
    assert report["rows"] >= 900 and len(bad) == 1 and bad[0][0] == report["rows"] + 1 and "not Parquet that can be read" in bad[0][1]


def test_a_row_group_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_GROUP_BYTES", 1000)
    with pytest.raises(BadInput, match="a row group unpacks to"):
        read(tmp_path, "a.parquet", parquet({"prompt": ["p" * 2000], "completion": ["x"]}))


def test_hostile_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 1000)
    good = b"a,b\n"
    text = b"prompt,completion\n" + good + b"x" * 5000 + b",b\n" + good + b"\0,b\n" + good + b'"' + b"y\n" * 400 + b'z",b\n' + good + b'"'
    report, bad = read(tmp_path, "a.csv", text + b"y\n" * 510)
    assert report["rows"] == 5
    assert [line for line, _ in bad] == [3, 5, 908, *range(909, 919)]
    assert "longer than 0 MiB" in bad[0][1] and "prompt contains a NUL" in bad[1][1] and "longer than 0 MiB" in bad[2][1]
    assert csv.field_size_limit() == 1000
    for data, sentence in ((b"prompt,prompt\na,b\n", "the column 'prompt' twice"), (b"x" * 5000 + b"\na,b\n", "its header cannot be read")):
        with pytest.raises(BadInput, match=sentence):
            read(tmp_path, "b.csv", data)


def test_reasons_without_end_are_counted_together(tmp_path):
    data = b"".join(json.dumps({f"{i}\ud800" + "k" * 2000: 1}).encode() + b"\n" for i in range(150))
    report, bad = read(tmp_path, "a.jsonl", PAIR + b"\n" + data)
    assert len(bad) == 150 and len(report["reasons"]) == 101 and report["reasons"]["other reasons"] == 50


def test_nothing_is_left_of_a_run_that_fails(tmp_path):
    with pytest.raises(BadInput, match="2 of 3 rows"):
        read(tmp_path, "a.jsonl", PAIR + b"\n1\n2\n", max_bad_share=0.5)
    assert list((tmp_path / "out").iterdir()) == []


def peak_mib(tmp_path: Path, source: Path, max_bad_share: float = 0.9) -> tuple[dict, float]:
    """Ingest in a process of its own; give the report and the most memory that it held."""
    program = (
        "import json, sys; from pathlib import Path; from tunegate.ingest import ingest; from tunegate.recipe import Data\n"
        "report = ingest(Data(sources=[sys.argv[1]], max_bad_share=float(sys.argv[3])), Path(sys.argv[2]))\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(json.dumps([report, int(peak.split()[1]) / 1024]))"
    )
    arguments = [source, tmp_path / "out", str(max_bad_share)]
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return tuple(json.loads(ran.stdout))


def test_hostile_lines_are_no_spike_of_memory(tmp_path):
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.write(PAIR + b'\n{"prompt": "')
        for _ in range(100):
            file.write(b"x" * MIB)
        file.write(
            b'"}\n' + b"[" * 8_000_000 + b"\n" + b'{"a":' * 1_000_000 + b'\n{"prompt": "' + b"\\u00e9" * 1_200_000 + b'"}\n' + PAIR + b"\n"
        )
    report, peak = peak_mib(tmp_path, tmp_path / "a.jsonl")
    assert (report["rows"], report["quarantined"]) == (2, 4)
    assert peak < MAX_RSS_MIB


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.json.zst"])
def test_a_bomb_is_no_spike_of_memory(tmp_path, name):
    bomb = b"".join(
        (gzip.compress if name.endswith("gz") else zstandard.compress)(piece) for piece in (PAIR + b"\n", b"[" + b"x" * 200 * MIB)
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(bomb)
    (tmp_path / "a" / "good.jsonl").write_bytes((PAIR + b"\n") * 10)
    report, peak = peak_mib(tmp_path, tmp_path / "a")
    assert report["rows"] == 11 and peak < MAX_RSS_MIB


def test_a_parquet_dictionary_is_no_spike_of_memory(tmp_path):
    table = {"prompt": ["p" * 9 * MIB] * 60 + ["a"], "completion": ["x"] * 61}
    data = parquet(table, compression="zstd", dictionary_pagesize_limit=2**30)
    assert len(data) < MIB, "each value is there once"
    (tmp_path / "a.parquet").write_bytes(data)
    report, peak = peak_mib(tmp_path, tmp_path / "a.parquet", max_bad_share=1)
    assert (report["rows"], report["quarantined"]) == (1, 60)
    assert peak < MAX_RSS_MIB + 4 * readers.BATCH_BYTES / MIB


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_200_megabytes_are_read_in_bounded_memory(tmp_path, name):
    row = b'{"prompt": "%d %s", "completion": "%s"}'
    with open(tmp_path / name, "wb") as file:
        for number in range(200_000):
            file.write(b"[" if name == "a.json" and not number else b",\n" if name == "a.json" else b"")
            file.write(row % (number, b"what is it? " * 20, b"it is: that. " * 55) + (b"" if name == "a.json" else b"\n"))
        file.write(b"]" if name == "a.json" else b"")
    assert (tmp_path / name).stat().st_size > 190 * 10**6
    report, peak = peak_mib(tmp_path, tmp_path / name)
    assert (report["rows"], report["quarantined"]) == (200_000, 0)
    assert peak < MAX_RSS_MIB
