"""What an operator and the program around a client are told."""

import io
import logging
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tunnel.client import events
from tunnel.client.__main__ import Announcer
from tunnel.client.ending import Ending
from tunnel.client.favourites import Favourites
from tunnel.client.journal import EVERY, Journal
from tunnel.client.refusals import advice, stanza
from tunnel.errors import Code
from tunnel.stream import Address

RELAY = Address("192.0.2.1", 4433)
OTHER = Address("192.0.2.2", 4433)


def serving(endpoint: str, name: str) -> events.Serving:
    return events.Serving(endpoint, "0" * 32, name, f"https://{name}", "eu")


def announced(*seen: events.ClientEvent) -> str:
    out = io.StringIO()
    announce = Announcer()
    with redirect_stdout(out):
        for event in seen:
            announce(event)
    return out.getvalue()


def test_each_endpoint_is_announced_once_with_its_id_and_url() -> None:
    pair = "ID: 00000000000000000000000000000000\nURL: https://a.test\n"
    again = serving("web", "a.test")
    assert announced(events.Started(("web",)), serving("web", "a.test"), again) == pair


def test_two_endpoints_are_announced_in_the_order_in_which_they_are_served() -> None:
    lines = announced(serving("two", "b.test"), serving("one", "a.test")).splitlines()
    assert lines[1::2] == ["URL: https://b.test", "URL: https://a.test"]


def test_the_stanza_is_what_a_relays_settings_need() -> None:
    text = stanza(bytes(32), ["t.test", "t.test"], ["shop.example.com"])
    assert text == (
        f'[clients.NAME] fingerprint = "sha256:{"00" * 32}"; '
        'suffixes = ["t.test"]; names = ["shop.example.com"]'
    )


@pytest.mark.parametrize("code", [Code.UNAUTHORIZED, Code.NAME_REFUSED])
def test_who_is_not_known_is_told_the_stanza(code: Code) -> None:
    assert advice(code, "STANZA").endswith("add: STANZA")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (Code.NAME_TAKEN, "stop that one"),
        (Code.SUPERSEDED, "stop one of the two"),
        (Code.REVOKED, "withdrawn"),
        (Code.VERSION, "update"),
        (Code.BUSY, "limits in [clients.*]"),
        (Code.BUSY, "certificates_per_week"),
    ],
)
def test_every_refusal_comes_with_something_to_do(code: Code, words: str) -> None:
    assert words in advice(code, "STANZA")


def test_failures_are_logged_the_first_and_every_tenth_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[events.ClientEvent] = []
    journal = Journal("eu", "key", "", told.append)
    with caplog.at_level(logging.INFO):
        for _ in range(2 * EVERY):
            journal.ended("memory", Ending(None, "refused"), 1.0)
    assert (len(caplog.records), len(told)) == (2, 2 * EVERY)


def test_after_a_success_the_next_refusal_is_told_again() -> None:
    told: list[events.ClientEvent] = []
    journal = Journal("eu", "key", "", told.append)
    for _ in range(2):
        journal.refused(Code.UNAUTHORIZED, "", None)
        journal.connected("memory", "192.0.2.9:1", "eu1")
        journal.refused(Code.UNAUTHORIZED, "", None)
    assert len([event for event in told if isinstance(event, events.Refused)]) == 3


def test_a_draining_relay_is_no_refusal() -> None:
    told: list[events.ClientEvent] = []
    Journal("eu", "key", "", told.append).ended("memory", Ending(Code.DRAINING), 1.0)
    assert [type(event) for event in told] == [events.Failed]


def test_a_winner_is_remembered_for_its_relay_alone(tmp_path: Path) -> None:
    Favourites(tmp_path).put(RELAY, "second")
    again = Favourites(tmp_path)
    assert (again.get(RELAY), again.get(OTHER)) == ("second", None)


def test_what_is_forgotten_stays_forgotten(tmp_path: Path) -> None:
    Favourites(tmp_path).put(RELAY, "second")
    Favourites(tmp_path).put(RELAY, None)
    assert Favourites(tmp_path).get(RELAY) is None


def test_nothing_is_written_while_there_is_nothing_to_remember(tmp_path: Path) -> None:
    Favourites(tmp_path / "state").put(RELAY, None)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 60_000, b'{"192.0.2.1:4433": 7}'])
def test_a_damaged_memory_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "transports.json").write_bytes(content)
    assert Favourites(tmp_path).get(RELAY) is None


def test_a_memory_that_cannot_be_written_hurts_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    favourites = Favourites(tmp_path / "file" / "state")
    favourites.put(RELAY, "second")
    assert favourites.get(RELAY) == "second"
