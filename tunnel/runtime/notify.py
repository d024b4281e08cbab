"""Telling the service manager how this process fares (sd_notify(3)); silent where there is none.

A datagram that cannot be sent changes nothing: whoever was to hear it has its own deadlines. Only
what is said once is worth a wait, for it holds everything up; the rest is said again soon.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import NoReturn

from tunnel.log import get_log
from tunnel.runtime.supervision import Work

log = get_log(__name__)

STATUS_INTERVAL = 2.0  # seconds between looks at what the status text says
STATUS_LIMIT = 400  # characters
EXTENSION = 15.0  # seconds that each message asks for while the process stops
EXTENSION_INTERVAL = 5.0
FAREWELL = 10.0  # seconds after `drain_timeout` in which connections are closed in order
SEND_TIMEOUT = 1.0  # seconds; the manager's queue is full only while it does nothing at all


class Notifier:
    """Sends to `$NOTIFY_SOCKET`, if there is one. No method raises."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = _socket_address(environment.get("NOTIFY_SOCKET", ""))
        self._watchdog_interval = watchdog_interval(environment)
        self._describe: Callable[[], str] = lambda: "starting"
        self._drain_timeout: Callable[[], float] = lambda: 0.0  # nobody to be seen out yet
        self._told = ""
        self._is_stopping = False

    def ready(self, describe: Callable[[], str], drain_timeout: Callable[[], float]) -> None:
        """Say that the start is over.

        From now on `describe` is asked for the status text, and at the end `drain_timeout` for
        the seconds that draining may last.
        """
        self._describe = describe
        self._drain_timeout = drain_timeout
        self._tell("READY=1", timeout=SEND_TIMEOUT)

    def failed(self, cause: str) -> None:
        """Leave the cause of an end behind as the status text."""
        self._send(_assignment(cause), timeout=SEND_TIMEOUT)

    def works(self, stop: asyncio.Event) -> Iterator[Work]:
        """Yield what is to run beside the service, for ever; nothing where nobody listens.

        Once `stop` is set, more time is asked for as long as draining may last, and no longer.
        """
        if self._address:
            yield self._keep_status
            yield lambda: self._see_out(stop)
        interval = self._watchdog_interval
        if self._address and interval is not None:
            yield lambda: self._ping(interval)

    async def _keep_status(self) -> NoReturn:
        while True:
            if self._status() != self._told:
                self._tell()
            await asyncio.sleep(STATUS_INTERVAL)

    async def _see_out(self, stop: asyncio.Event) -> NoReturn:
        await stop.wait()
        self._is_stopping = True
        self._tell("STOPPING=1", timeout=SEND_TIMEOUT)
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._drain_timeout() + FAREWELL
        while True:
            if clock() < deadline:
                self._send(f"EXTEND_TIMEOUT_USEC={EXTENSION * 1e6:.0f}")
            await asyncio.sleep(EXTENSION_INTERVAL)

    async def _ping(self, interval: float) -> NoReturn:
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(interval)

    def _tell(self, *assignments: str, timeout: float = 0.0) -> None:
        """Send these together with the status text as it is now."""
        if self._address:
            status = self._status()
            if self._send(*assignments, status, timeout=timeout):
                self._told = status

    def _status(self) -> str:
        try:
            text = self._describe()
        except Exception as error:  # noqa: BLE001 - the boundary at which a bug is logged
            log.error("status text failed", exception=error)
            text, self._describe = "running", lambda: "running"
        return _assignment(f"stopping: {text}" if self._is_stopping else text)

    def _send(self, *assignments: str, timeout: float = 0.0) -> bool:
        """Send these in one datagram, within `timeout` seconds; say whether that was done."""
        if not self._address:
            return False
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            sock.sendto("\n".join(assignments).encode(), self._address)
            return True
        return False


def _socket_address(given: str) -> str:
    """Return what to send to; empty for none, or for a kind that is unknown here."""
    if given.startswith("@"):
        return f"\0{given[1:]}"  # the abstract namespace, unix(7)
    return given if given.startswith("/") else ""


def _assignment(status: str) -> str:
    line = " ".join(status.split())  # a line break would begin another assignment
    return f"STATUS={line if len(line) <= STATUS_LIMIT else f'{line[: STATUS_LIMIT - 1]}…'}"


def watchdog_interval(environment: Mapping[str, str]) -> float | None:
    """Return the seconds between two pings: half of what is allowed (sd_watchdog_enabled(3)).

    None where no watchdog waits for this very process.
    """
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        allowed = int(environment.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return allowed / 2e6 if allowed > 0 else None
