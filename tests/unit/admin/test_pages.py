"""What pages answer, without any HTTP around them."""

import asyncio
from datetime import UTC, datetime
from http import HTTPStatus

import pytest

from tests.integration.desks import ScriptedDesk
from tunnel.admin.answers import Answer, Problem, Request, json_answer
from tunnel.admin.conversation import respond
from tunnel.admin.families import counters, gauge
from tunnel.admin.metrics import Exposition
from tunnel.admin.pages import control_pages, read_only_pages


def get(path: str) -> Request:
    return Request("GET", path, {}, b"")


def test_the_control_socket_has_all_that_a_metrics_address_has() -> None:
    desk = ScriptedDesk()
    assert read_only_pages(desk).keys() < control_pages(desk, {}).keys()


def test_whatever_may_be_done_takes_a_post() -> None:
    pages = control_pages(ScriptedDesk(), {})
    assert {path for path, methods in pages.items() if "POST" in methods} == {
        "/drain",
        "/certificates/renew",
    }


def test_a_metrics_address_takes_nothing_but_get() -> None:
    assert {m for methods in read_only_pages(ScriptedDesk()).values() for m in methods} == {"GET"}


def test_a_problem_is_answered_in_its_own_words() -> None:
    async def refuse(_request: Request) -> Answer:
        raise Problem(HTTPStatus.CONFLICT, "there is nobody to order from")

    answer = asyncio.run(respond({"/x": {"GET": refuse}}, get("/x")))
    assert (answer.status, answer.content) == (409, b'{"error": "there is nobody to order from"}\n')


def test_moments_are_in_utc_and_in_seconds() -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)
    assert json_answer({"at": moment}).content == b'{"at": "2026-01-31T12:00:00Z"}\n'


def test_what_is_not_for_json_is_a_bug() -> None:
    with pytest.raises(TypeError, match="bytes is not for JSON"):
        json_answer({"key": b"x"})


def test_a_counter_gets_its_ending_and_a_gauge_none() -> None:
    families = (
        gauge("tunnel_size_bytes", "How much.", 1),
        counters("tunnel_visitors", "How many.", ("reason",), {("busy",): 2, ('a\n"b',): 3}),
    )
    lines = Exposition(lambda: families).text().decode().splitlines()
    assert lines[:7] == [
        "# HELP tunnel_size_bytes How much.",
        "# TYPE tunnel_size_bytes gauge",
        "tunnel_size_bytes 1.0",
        "# HELP tunnel_visitors_total How many.",
        "# TYPE tunnel_visitors_total counter",
        r'tunnel_visitors_total{reason="a\n\"b"} 3.0',
        'tunnel_visitors_total{reason="busy"} 2.0',
    ]
