"""What a service manager hears of a daemon, on a real datagram socket; time passes at once."""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from pathlib import Path

import pytest

from tests.unit.client.scenes import now, run_in_no_time
from tunnel.runtime.notify import (
    EXTENSION,
    EXTENSION_INTERVAL,
    FAREWELL,
    SEND_TIMEOUT,
    STATUS_INTERVAL,
    STATUS_LIMIT,
    Notifier,
    watchdog_interval,
)
from tunnel.runtime.supervision import first_of

EXTENDED = f"EXTEND_TIMEOUT_USEC={EXTENSION * 1e6:.0f}"


def at_once() -> float:
    """Say how long a drain lasts that has nothing to wait for."""
    return 0.0


class Ear:
    """The service manager's socket."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address.replace("@", "\0"))
        self.sock.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": address}

    def heard(self) -> list[str]:
        """Return every datagram since the last call."""
        messages: list[str] = []
        with suppress(BlockingIOError):
            while True:
                messages.append(self.sock.recv(4096).decode())
        return messages

    def fill(self) -> None:
        """Leave no room for another datagram."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, suppress(BlockingIOError):
            other.setblocking(False)
            while True:
                other.sendto(b"noise", self.sock.getsockname())


@pytest.fixture(params=["path", "abstract"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ear]:
    address = "@" + secrets.token_hex(8) if request.param == "abstract" else f"{tmp_path}/notify"
    ear = Ear(address)
    with ear.sock:
        yield ear


async def life(stop: asyncio.Event, seconds: float, stops_after: float) -> None:
    """Last for `seconds`; `stops_after` as many a stop is asked for."""
    await asyncio.sleep(min(stops_after, seconds))
    if stops_after < seconds:
        stop.set()
        await asyncio.sleep(seconds - stops_after)


def attend(notifier: Notifier, seconds: float, *, stops_after: float = inf) -> None:
    """Let `seconds` pass beside a service."""

    async def main() -> None:
        stop = asyncio.Event()
        works = notifier.works(stop)
        await first_of(lambda: life(stop, seconds, stops_after), *works)

    run_in_no_time(main())


def test_readiness_is_told_together_with_the_status(ear: Ear) -> None:
    Notifier(ear.environment).ready(lambda: "clients: 1", at_once)
    assert ear.heard() == ["READY=1\nSTATUS=clients: 1"]


def test_the_cause_of_an_end_stays_behind_as_the_status(ear: Ear) -> None:
    Notifier(ear.environment).failed("a.toml:1: a fault\na.toml:2: another\n")
    assert ear.heard() == ["STATUS=a.toml:1: a fault a.toml:2: another"]


def test_a_long_status_is_shortened(ear: Ear) -> None:
    Notifier(ear.environment).failed("x" * 5000)
    assert ear.heard() == [f"STATUS={'x' * (STATUS_LIMIT - 1)}…"]


def test_the_status_is_told_when_it_changes_and_not_more_often_than_that(ear: Ear) -> None:
    def text() -> str:
        return f"minute {now() // 60:.0f}"

    async def main() -> None:
        notifier = Notifier(ear.environment)
        notifier.ready(text, at_once)
        stop = asyncio.Event()
        await first_of(lambda: life(stop, 150, inf), *notifier.works(stop))

    run_in_no_time(main())
    first, *later = ear.heard()
    assert first == "READY=1\nSTATUS=minute 16"  # the clock starts at 1000 s
    assert later == ["STATUS=minute 17", "STATUS=minute 18", "STATUS=minute 19"]


def test_a_status_that_cannot_be_told_ends_nothing(ear: Ear) -> None:
    def fail() -> str:
        raise ValueError

    Notifier(ear.environment).ready(fail, at_once)
    assert ear.heard() == ["READY=1\nSTATUS=running"]


def test_what_is_said_again_soon_waits_for_no_room(ear: Ear) -> None:
    notifier = Notifier({**ear.environment, "WATCHDOG_USEC": "2000000"})
    ear.fill()
    begun = time.monotonic()
    attend(notifier, 10)
    assert time.monotonic() - begun < SEND_TIMEOUT
    assert set(ear.heard()) == {"noise"}


def test_what_is_said_once_waits_for_room_but_not_for_long(
    ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.runtime.notify.SEND_TIMEOUT", 0.1)
    ear.fill()
    begun = time.monotonic()
    Notifier(ear.environment).ready(lambda: "fine", at_once)
    assert 0.1 <= time.monotonic() - begun < 5


def test_a_status_that_was_lost_is_told_again(ear: Ear) -> None:
    async def main() -> None:
        async def listen_late() -> None:
            await asyncio.sleep(3 * STATUS_INTERVAL)
            ear.heard()
            await asyncio.sleep(3 * STATUS_INTERVAL)

        works = Notifier(ear.environment).works(asyncio.Event())
        await first_of(listen_late, *works)

    ear.fill()
    run_in_no_time(main())
    assert ear.heard() == ["STATUS=starting"]


def test_a_stop_is_told_and_more_time_asked_for_again_and_again(ear: Ear) -> None:
    notifier = Notifier(ear.environment)
    notifier.ready(lambda: "visitors: 1", lambda: 60.0)
    ear.heard()
    attend(notifier, 1 + 2.5 * EXTENSION_INTERVAL, stops_after=1)
    told = [message for message in ear.heard() if not message.startswith("STATUS=")]
    assert told == ["STOPPING=1\nSTATUS=stopping: visitors: 1", EXTENDED, EXTENDED, EXTENDED]


def test_no_more_time_is_asked_for_than_draining_may_take_when_it_begins(ear: Ear) -> None:
    drain_timeout = 5.0
    notifier = Notifier(ear.environment)
    notifier.ready(lambda: "fine", lambda: drain_timeout)
    drain_timeout = 20.0  # by a reload
    attend(notifier, 1000, stops_after=0)
    assert ear.heard().count(EXTENDED) == (20 + FAREWELL) / EXTENSION_INTERVAL


def test_a_stop_before_the_start_is_over_has_nothing_to_drain(ear: Ear) -> None:
    attend(Notifier(ear.environment), 1000, stops_after=0)
    assert ear.heard().count(EXTENDED) == FAREWELL / EXTENSION_INTERVAL


def test_each_extension_outlasts_the_wait_for_the_next_one() -> None:
    assert EXTENSION >= 2 * EXTENSION_INTERVAL


def test_the_watchdog_is_pinged_twice_in_its_time(ear: Ear) -> None:
    notifier = Notifier({**ear.environment, "WATCHDOG_USEC": "30000000"})
    attend(notifier, 100)
    assert ear.heard().count("WATCHDOG=1") == 100 // 15 + 1


def test_a_watchdog_that_waits_for_another_process_is_not_pinged() -> None:
    assert watchdog_interval({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}) is None


def test_a_watchdog_that_waits_for_this_process_is_pinged() -> None:
    ours = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
    assert watchdog_interval(ours) == 0.5


@pytest.mark.parametrize("given", ["", "0", "-1", "soon"])
def test_a_time_that_is_none_is_no_watchdog(given: str) -> None:
    assert watchdog_interval({"WATCHDOG_USEC": given}) is None


@pytest.mark.parametrize("given", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_where_nobody_listens_nothing_runs_and_nothing_is_sent(given: dict[str, str]) -> None:
    notifier = Notifier({**given, "WATCHDOG_USEC": "1000000"})
    notifier.ready(lambda: pytest.fail("asked for a status that nobody hears"), at_once)
    assert list(notifier.works(asyncio.Event())) == []


def test_a_manager_that_has_gone_is_no_fault(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": f"{tmp_path}/none"}).ready(lambda: "fine", at_once)
