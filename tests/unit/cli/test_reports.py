"""What running programs say, as people read it."""

from typing import Any

import pytest

from tunnel.cli.reports import certificates_report, duration, size, status_report

LINK: dict[str, Any] = {
    "transport": "quic",
    "observed": "192.0.2.7:4711",
    "state": "ready",
    "since": "2026-01-31T12:00:00Z",
    "streams": 3,
    "round_trip": 0.0123,
}
CLIENT: dict[str, Any] = {
    "fingerprint": f"sha256:{'ab' * 32}",
    "session": "abab/01",
    "names": ["a.t.test", "b.t.test"],
    "granted": ["a.t.test"],
    "streams": 3,
    "received": 1023,
    "sent": 1_572_864,
    "connections": [LINK],
}
CERTIFICATE: dict[str, Any] = {
    "name": "relay.test",
    "source": "acme",
    "state": "valid",
    "not_after": "2026-03-31T12:00:00Z",
    "renew_at": "2026-03-01T12:00:00Z",
    "last_error": None,
    "retry_at": None,
}
RELAY: dict[str, Any] = {
    "program": "relay",
    "version": "0.1.0",
    "name": "eu1",
    "pid": 7,
    "uptime": 93_784.0,
    "state": "serving",
    "ready": True,
    "why": None,
    "listeners": [
        {"name": "public", "kind": "public", "protocol": "tcp", "address": "0.0.0.0:443"}
    ],
    "clients": [CLIENT],
    "clients_left_out": 0,
    "refused": [],
    "visitors": {
        "open": 1,
        "total": 2,
        "turned_away": {"hello": 4},
        "received": 0,
        "sent": 0,
        "parked": 0,
        "direct": {"open": 1, "total": 2, "unanswered": 0, "spares": 4, "spares_refused": {}},
    },
    "certificate": CERTIFICATE,
    "budget": [{"domain": "t.test", "orders": 2, "limit": 45}],
    "budgets_left_out": 0,
}


def row(report: str, beginning: str) -> list[str]:
    """Return the cells of the line that begins so."""
    line = next(line for line in report.splitlines() if line.startswith(beginning))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_a_relay_tells_who_is_there() -> None:
    report = status_report(RELAY, coloured=False)
    head = "relay eu1, version 0.1.0, process 7, up 1d 2h: serving, ready"
    assert report.splitlines()[0] == head
    assert row(report, "abababababab") == [
        *("abababababab", "a.t.test +1", "quic", "192.0.2.7:4711", "ready"),
        *("2026-01-31T12:00:00Z", "3", "12.3 ms", "1023 B", "1.5 MiB"),
    ]
    assert row(report, "t.test") == ["t.test", "2 of 45"]
    assert "turned away: hello 4\n" in report


def test_a_client_of_several_connections_has_one_line_and_its_bytes_once() -> None:
    pool = [
        {**LINK, "transport": "h2", "round_trip": 0.02, "observed": "192.0.2.7:1"},
        {**LINK, "transport": "h2", "since": "2026-01-30T12:00:00Z", "state": "draining"},
        {**LINK, "round_trip": None},
    ]
    report = status_report({**RELAY, "clients": [{**CLIENT, "connections": pool}]}, coloured=False)
    assert row(report, "abababababab")[2:] == [
        *("h2 x2, quic", "192.0.2.7:1 +2", "ready, draining", "2026-01-30T12:00:00Z", "3"),
        *("12.3 ms", "1023 B", "1.5 MiB"),
    ]
    assert report.count("1.5 MiB") == 1


def test_clients_are_sorted_by_name() -> None:
    clients = [{**CLIENT, "names": [f"{name}.t.test"]} for name in "cab"]
    report = status_report({**RELAY, "clients": clients}, coloured=False)
    assert [report.index(f"{name}.t.test") for name in "abc"] == sorted(
        report.index(f"{name}.t.test") for name in "abc"
    )


def test_columns_of_figures_do_not_move_when_these_change() -> None:
    later = {**CLIENT, "streams": 1000, "received": 1 << 40, "sent": 0}
    slow = {**later, "connections": [{**LINK, "round_trip": 1.2345}]}
    now, then = (
        status_report({**RELAY, "clients": [each]}, coloured=False).splitlines()[4:6]
        for each in (CLIENT, slow)
    )
    assert [len(line) for line in now] == [len(line) for line in then]
    assert now[0] == then[0]


def test_a_relay_tells_why_it_is_not_ready() -> None:
    status = {**RELAY, "ready": False, "state": "draining", "why": "new visitors go elsewhere"}
    head = status_report(status, coloured=False).splitlines()[0]
    assert head.endswith(": draining, not ready (new visitors go elsewhere)")


def test_a_relay_that_only_starts_has_a_headline() -> None:
    status = {"program": "relay", "version": "1", "state": "starting", "ready": False, "why": "x"}
    assert status_report(status, coloured=False) == "relay, version 1: starting, not ready (x)\n"


def test_who_is_left_out_is_counted() -> None:
    assert "and 7 more clients\n" in status_report({**RELAY, "clients_left_out": 7}, coloured=False)


def test_budgets_that_are_left_out_are_counted() -> None:
    report = status_report({**RELAY, "budgets_left_out": 7}, coloured=False)
    assert "and 7 more budgets, which are no fuller\n" in report


def test_what_a_peer_chose_is_shown_as_text() -> None:
    refused = {
        "at": "2026-01-31T12:00:00Z",
        "peer": "192.0.2.7:1",
        "fingerprint": None,
        "code": "unauthorized",
        "message": "\x1b[31mred",
    }
    assert "\x1b" not in status_report({**RELAY, "refused": [refused]}, coloured=False)


def test_a_client_tells_how_each_endpoint_is_served_and_why() -> None:
    server: dict[str, Any] = {
        "server": "eu",
        "transport": None,
        "reason": "nothing registered yet",
        "connections": 0,
        "names": [],
        "observed": None,
        "last_error": "no answer",
        "retry_in": 4.2,
        "round_trip": None,
        "probe_in": None,
        "direct": {"state": "off", "reason": "set by the operator", "spares": 0, "visitors": 0},
    }
    settled = {
        **server,
        "server": "us",
        "transport": "h2",
        "reason": "UDP does not pass: no answer",
        "connections": 4,
        "names": ["a.t.test"],
        "retry_in": None,
        "probe_in": 70.0,
        "round_trip": 0.01,
        "last_error": None,
    }
    endpoint = {
        "endpoint": "web",
        "id": "ab" * 16,
        "names": ["a.t.test"],
        "urls": [],
        "target": "127.0.0.1:3000",
        "streams": 0,
        "visitors": 0,
        "received": 0,
        "sent": 0,
        "target_failures": 2,
        "servers": [server, settled],
        "certificates": [CERTIFICATE],
    }
    status = {
        "program": "client",
        "version": "0.1.0",
        "pid": 7,
        "uptime": 1.0,
        "state": "running",
        "ready": False,
        "why": "no relay serves any name (eu: no answer)",
        "endpoints": [endpoint],
    }
    report = status_report(status, coloured=False)
    assert row(report, "web       eu") == [
        *("web", "eu", "-", "0", "0 of 1", "-", "in 5s", "nothing registered yet"),
        *("off: set by the operator", "no answer"),
    ]
    assert row(report, "web       us") == [
        *("web", "us", "h2", "4", "1 of 1", "10.0 ms", "in 1m 11s"),
        *("UDP does not pass: no answer", "off: set by the operator", "-"),
    ]
    assert row(report, "relay.test")[:2] == ["relay.test", "acme"]


def test_no_certificate_is_said_to_be_none() -> None:
    assert (
        certificates_report({"certificates": []}, coloured=False) == "there are no certificates\n"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.9, "0s"), (59, "59s"), (61, "1m 1s"), (7199, "1h 59m"), (100_000, "1d 3h")],
)
def test_a_duration_has_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1 << 30, "1 GiB"), (5 << 50, "5120 TiB")],
)
def test_a_size_has_the_unit_that_suits_it(count: int, words: str) -> None:
    assert size(count) == words
