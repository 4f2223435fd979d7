"""The judge, against a small real HTTP server: scores, retries, replies that are none, and the key that is never shown."""

import json

import fake_judge
import pytest
from fake_judge import SECRET

from tunegate import rows
from tunegate.curate import judge
from tunegate.curate.row_stages import Context
from tunegate.errors import BadInput, Unavailable
from tunegate.recipe import Curate, Judge, Task


def row(question: str, answer: str) -> dict:
    return rows.make_row([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


@pytest.fixture
def endpoint(monkeypatch):
    with fake_judge.serving(monkeypatch) as server:
        server.settings = Judge(**server.settings)
        yield server


def by_length(material: dict, tries: int) -> str:
    return json.dumps({"score": min(5, len(material["answer"])), "reason": "by its length"})


def test_each_row_is_scored_with_the_task_and_its_cache_is_not_asked_again(endpoint, tmp_path):
    endpoint.reply = by_length
    made = [row(f"question {n}", "x" * n) for n in range(1, 8)]
    cache = tmp_path / "judge.jsonl"
    scores = judge.score_judge(made[:4], endpoint.settings, cache, system="Be brief.")
    assert scores == {row["id"]: n for n, row in enumerate(made[:4], 1)}
    first = endpoint.asked[0]
    assert (first["path"], first["key"]) == ("/v1/chat/completions", f"Bearer {SECRET}")
    assert (first["body"]["model"], first["body"]["temperature"]) == ("tiny", 0)
    assert json.loads(first["body"]["messages"][1]["content"])["conversation"][0] == {"role": "system", "content": "Be brief."}
    cache.write_bytes(cache.read_bytes()[:-20])  # killed while it wrote
    again = judge.score_judge(made, endpoint.settings, cache, system="Be brief.")
    assert list(again.values()).count(5) == 3 and scores.items() <= again.items()
    assert len(endpoint.asked) == 4 + 4
    assert judge.score_judge(made, endpoint.settings, cache, system="Be brief.") == again and len(endpoint.asked) == 8
    entries = [json.loads(line) for line in cache.read_text().splitlines()]
    assert {entry["reason"] for entry in entries} == {"by its length"} and len(entries) == 7
    judge.score_judge(made, endpoint.settings.model_copy(update={"model": "other"}), cache, system="Be brief.")
    assert len(endpoint.asked) == 8 + 7


def test_a_reply_without_a_score_is_asked_for_once_more_and_then_the_row_is_not_judged(endpoint):
    endpoint.reply = lambda material, tries: "A five!" if tries == 1 or material["answer"] == "never" else by_length(material, tries)
    late, never = row("a", "late"), row("b", "never")
    said = []
    assert judge.score_judge([late, never], endpoint.settings, say_progress=said.append) == {late["id"]: 4}
    assert len(endpoint.asked) == 4
    assert said[-1] == "      judge: 1 of 2 rows were not judged, for want of a score in the reply"
    second = next(asked for asked in endpoint.asked if len(asked["body"]["messages"]) == 4)
    assert second["body"]["messages"][2] == {"role": "assistant", "content": "A five!"}


def test_a_server_that_is_busy_is_asked_again(endpoint):
    endpoint.reply = lambda material, tries: (429, {"Retry-After": "0"}, "slow down") if tries < 3 else by_length(material, tries)
    made = row("a", "abc")
    assert judge.score_judge([made], endpoint.settings) == {made["id"]: 3}
    assert len(endpoint.asked) == 3


@pytest.mark.parametrize(
    "answer, error, sentence",
    [
        ((401, {}, f"Incorrect key {SECRET}"), BadInput, "HTTP 401: Incorrect key …. Look at curate.quality.judge"),
        ((503, {}, "loading"), Unavailable, "HTTP 503: loading. It was asked 6 times"),
        ((200, {}, "<html>"), BadInput, "does not reply as OpenAI's chat completions do: <html>"),
    ],
)
def test_an_endpoint_that_cannot_judge_ends_in_a_sentence_without_the_key(endpoint, tmp_path, capsys, answer, error, sentence):
    endpoint.reply = lambda material, tries: answer
    with pytest.raises(error) as raised:
        judge.score_judge([row("a", "b")], endpoint.settings, tmp_path / "judge.jsonl")
    assert sentence in str(raised.value)
    shown = str(raised.value) + "".join(capsys.readouterr()) + (tmp_path / "judge.jsonl").read_text()
    assert SECRET not in shown


def test_a_server_that_is_not_there_is_unavailable(endpoint):
    gone = Judge(url="http://127.0.0.1:1/v1", model="tiny")
    with pytest.raises(Unavailable, match="did not answer: ConnectError"):
        judge.score_judge([row("a", "b")], gone)


@pytest.mark.parametrize(
    "reply, score",
    [
        ('{"score": 4, "reason": "good"}', (4, "good")), (' {"reason": "", "score": 1}\n', (1, "")),
        ('{"score": "4", "reason": "good"}', None), ('{"score": 4.0, "reason": "good"}', None), ('{"score": true, "reason": ""}', None),
        ('{"score": 6, "reason": ""}', None), ('{"score": 4}', None), ('```json\n{"score": 4, "reason": "good"}\n```', None),
        ("4", None), ("", None), ("[" * 100_000, None),
    ],
)  # fmt: skip
def test_only_the_object_that_was_asked_for_is_a_score(reply, score):
    assert judge.read_score(reply) == score


def test_it_is_off_without_an_endpoint(endpoint):
    assert judge.off(Curate(), Context(Task())) == "curate.quality.judge.url is not set"
    assert judge.off(Curate(quality={"judge": endpoint.settings}), Context(Task())) == ""
