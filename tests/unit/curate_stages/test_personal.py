"""Personal data: found in question and answer alike, and numbers of ordinary commands left alone."""

import socket
import sys

import pytest
from stage_rows import CONTEXT, outcomes, row

from tunegate import rows
from tunegate.curate import personal
from tunegate.curate_names import ENTITIES
from tunegate.recipe import Curate, Privacy

DROP, REDACT = (Curate(privacy=Privacy(personal=policy)) for policy in ("drop", "redact"))
FOUND = [
    ("write to jane.doe@example.com today", "write to [EMAIL_ADDRESS] today"),
    ("jane@firma.co.uk, joe@büro.de", "[EMAIL_ADDRESS], [EMAIL_ADDRESS]"),
    ("pay with 4111 1111 1111 1111 now", "pay with [CREDIT_CARD] now"),
    ("amex 378282246310005", "amex [CREDIT_CARD]"),
    ("to DE89 3704 0044 0532 0130 00, please", "to [IBAN_CODE], please"),
    ("ping 192.168.1.1 twice", "ping [IP_ADDRESS] twice"),
    ("route fe80::1ff:fe23:4567:890a", "route [IP_ADDRESS]"),
    ("my number is 536-90-4399", "my number is [US_SSN]"),
]
ORDINARY = [
    "set the timer for 1 hour 20 minutes", "volume 39 percent", "wake me at 12:30:45 on 2024-05-06", "version 2.10.3 of 11.2024",
    "the years 1990 1991 1992 1993", "add 250 50 1000", "order 1700000000000 of 12,500.75 euros", "call Face::add of std::vector<int>",
    "user@host:22 and @someone", "room 101-22, floor 3", "ISBN 978-3-16-148410-0", "3.14159265358979 and 6.022e23", "4111 1111 1111 1112",
    "flight DE89 at gate 37", "355909190063-746 is less", "mail me@nowhere.notatld",
]  # fmt: skip


@pytest.mark.parametrize("text, redacted", FOUND)
def test_each_entity_is_replaced_or_dropped(text, redacted):
    [changed] = outcomes(personal, [text], REDACT)
    assert rows.answer(changed) == redacted
    entity = redacted.split("[")[1].split("]")[0]
    assert outcomes(personal, [text], DROP) == [f"personal data: {entity}"]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_numbers_stay(text):
    assert outcomes(personal, [text], DROP) == [None]


def test_question_and_answer_are_redacted_alike_and_the_system_turn_is_not():
    made = row("mail jane@example.com", '{"to": "jane@example.com"}', system="Support is help@example.com", source="a.jsonl:3")
    [changed] = personal.check([made], REDACT, CONTEXT)
    assert [turn["content"] for turn in changed["messages"]] == [
        "Support is help@example.com", "mail [EMAIL_ADDRESS]", '{"to": "[EMAIL_ADDRESS]"}'
    ]  # fmt: skip
    assert changed["id"] == rows.make_row(changed["messages"])["id"] != made["id"]
    assert changed["source"] == "a.jsonl:3"


def test_only_the_wanted_entities_count():
    phones = Curate(privacy=Privacy(entities=["PHONE_NUMBER"]))
    [changed] = outcomes(personal, ["call +1 415 555 2671 or mail jane@example.com"], phones)
    assert rows.answer(changed) == "call [PHONE_NUMBER] or mail jane@example.com"
    assert personal.off(Curate(privacy=Privacy(entities=[])), CONTEXT) == "curate.privacy.entities is empty"
    assert personal.off(Curate(privacy=Privacy(personal="off")), CONTEXT) == "curate.privacy.personal is off"


def test_every_entity_of_a_recipe_has_a_recogniser():
    assert set(ENTITIES) <= set(personal._recognisers())
    everything = Curate(privacy=Privacy(entities=list(ENTITIES)))
    assert outcomes(personal, ["nothing of this kind here"], everything) == [None]


def test_nothing_is_fetched_and_no_model_is_loaded(monkeypatch):
    def refuse(*given, **named):
        raise AssertionError(f"a connection was tried: {given}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    personal._recognisers.cache_clear()
    loaded = {name for name in ("torch", "transformers") if name in sys.modules}
    assert outcomes(personal, ["mail jane@example.com"], DROP) == ["personal data: EMAIL_ADDRESS"]
    assert {name for name in ("torch", "transformers") if name in sys.modules} == loaded
