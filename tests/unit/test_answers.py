"""Answers are kept as they come, under a key of all they depend on."""

import pytest

from tunegate import answers
from tunegate.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def asking(log, fail_at=None):
    def work(missing, keep):
        for number in missing:
            if number == fail_at:
                raise ConnectionError("the server went away")
            log.append(number)
            keep(number, [f"answer {number}"])

    return work


def test_an_interrupted_evaluation_goes_on_where_it_was(store, monkeypatch, capsys):
    asked = []
    with pytest.raises(ConnectionError):
        answers.resume(store, {"model": "a"}, 5, asking(asked, fail_at=3), "task")
    found = answers.resume(store, {"model": "a"}, 5, asking(asked), "task")
    assert found == [[f"answer {n}"] for n in range(5)] and asked == [0, 1, 2, 3, 4]
    assert "task: 3 of 5 answers are in the store already" in capsys.readouterr().out


def test_what_was_killed_loses_only_what_was_not_yet_written(store, monkeypatch):
    kept = answers.Kept(store, "key")
    kept.keep(0, "early")
    monkeypatch.setattr(answers, "FLUSH_SECONDS", 0)
    kept.keep(1, "written with it")
    monkeypatch.setattr(answers, "FLUSH_SECONDS", 60)
    kept.keep(2, "lost")
    assert answers.Kept(store, "key").results == {0: "early", 1: "written with it"}


def test_another_model_has_answers_of_its_own(store):
    asked = []
    answers.resume(store, {"model": "a"}, 2, asking(asked), "task")
    answers.resume(store, {"model": "b"}, 2, asking(asked), "task")
    answers.resume(store, {"model": "a"}, 2, asking(asked), "task")
    assert asked == [0, 1, 0, 1]


def test_without_a_store_everything_is_asked():
    asked = []
    for _ in range(2):
        answers.resume(None, {}, 1, asking(asked), "task")
    assert asked == [0, 0]
