"""Certificates that are kept, in a time of their own: days pass between two steps of the loop."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.acme_front import NEW_ORDER_PATH, Front
from tests.integration.acme.steps import Answerer, settings_for
from tunnel.acme.challenge import PendingAnswer
from tunnel.acme.directories import directory_of
from tunnel.acme.issuance import Issuer, Standing, Wanted
from tunnel.acme.store import Store
from tunnel.errors import OrderPostponed
from tunnel.settings.values import AcmeSettings
from tunnel.tls.slots import Certificate, CertificateKey

LOOK_INTERVAL = 0.01
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


class Clock:
    """Time that passes while somebody sleeps and at no other moment, up to `limit` or a stop."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC)
        self.limit: datetime | None = None
        self.is_at_limit = asyncio.Event()
        self._runs = asyncio.Event()
        self._runs.set()

    def now(self) -> datetime:
        return self.moment

    async def sleep(self, seconds: float) -> None:
        until = self.moment + timedelta(seconds=seconds)
        await asyncio.sleep(0)
        if self.limit is not None and until > self.limit:
            self.moment = self.limit
            self.is_at_limit.set()
            self.stop()
        await self._runs.wait()
        self.moment = max(self.moment, until)

    def stop(self) -> None:
        self._runs.clear()

    def run(self) -> None:
        self.limit = None
        self.is_at_limit.clear()
        self._runs.set()


@dataclass
class Showing:
    """The path of validations to a server that shows what it is given."""

    answerer: Answerer
    is_there: asyncio.Event = field(default_factory=asyncio.Event)  # a relay, say
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)  # who opens waits for it
    refusal: OrderPostponed | None = None
    shows_nothing: bool = False
    hidden: frozenset[str] = frozenset()  # names of which nothing is shown
    keeps_showing: bool = False  # also when it is left
    on_open: Callable[[], object] = lambda: None
    opened_for: list[tuple[str, bool]] = field(default_factory=list)  # names, and "renewal"
    open_now: int = 0

    def __post_init__(self) -> None:
        self.is_there.set()
        self.goes_on.set()

    async def ready(self, name: str) -> None:  # noqa: ARG002 - of the interface
        await self.is_there.wait()

    def addresses(self, _name: str) -> frozenset[str]:
        return frozenset({"192.0.2.1"})

    @asynccontextmanager
    async def opened(
        self, name: str, answer: PendingAnswer, *, renewal: bool
    ) -> AsyncIterator[None]:
        if self.refusal is not None:
            raise self.refusal
        self.opened_for.append((name, renewal))
        self.open_now += 1
        try:
            self.on_open()
            await self.goes_on.wait()
            if not self.shows_nothing and name not in self.hidden:
                self.answerer.present(name, answer)
            yield
        finally:
            self.open_now -= 1
            if not self.keeps_showing:
                self.answerer.forget(name)


@dataclass(frozen=True)
class Failure:
    """What was said of an order that failed, and when."""

    cause: str
    retry_in: float
    at: datetime


class Keeper:
    """A process that keeps certificates; another one on the same folder is that one restarted."""

    def __init__(
        self,
        settings: AcmeSettings,
        folder: Path,
        path: Showing,
        clock: Clock | None = None,
        *,
        draw: float = 0.5,
        **options: Any,
    ) -> None:
        self.clock = clock or Clock()
        self.path = path
        self.store = Store.below(folder, directory_of(settings.directory))
        self.issuer = Issuer(
            settings,
            folder,
            now=self.clock.now,
            sleep=self.clock.sleep,
            draw=lambda: draw,
            **options,
        )
        self.installed: list[Certificate] = []
        self.failures: list[Failure] = []

    def standing(self, *names: str) -> Standing:
        return self.issuer.standing(names)

    async def until(
        self, *names: str, issued: int = 0, failed: int = 0, key: CertificateKey | None = None
    ) -> None:
        """Keep a certificate until so much was issued and has failed in all; then stop."""
        enough = asyncio.Event()

        def look() -> None:
            if len(self.installed) >= issued and len(self.failures) >= failed:
                self.clock.stop()
                enough.set()

        async with self.keeping(*names, look=look, key=key):
            await enough.wait()

    async def passes(self, span: timedelta, *names: str) -> None:
        """Keep a certificate for some time from now on, as far as it is slept through."""
        self.clock.limit = self.clock.moment + span
        async with self.keeping(*names):
            await self.clock.is_at_limit.wait()

    @asynccontextmanager
    async def keeping(
        self,
        *names: str,
        look: Callable[[], None] = lambda: None,
        key: CertificateKey | None = None,
    ) -> AsyncIterator[None]:
        """Keep a certificate while inside; leaving is the end of the process."""

        def install(certificate: Certificate) -> None:
            self.installed.append(certificate)
            look()

        def fail(cause: str, retry_in: float) -> None:
            self.failures.append(Failure(cause, retry_in, self.clock.moment))
            look()

        wanted = Wanted(names, self.path, install, fail, key)
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(self.issuer.keep(wanted))
            yield
            keeping.cancel()
        self.clock.run()


def keeper(front: Front, folder: Path, answerer: Answerer, clock: Clock | None = None) -> Keeper:
    """Return a process that orders at a front, whose proofs are shown by `answerer`."""
    return Keeper(settings_for(front), folder, Showing(answerer), clock)


def orders_at(front: Front) -> int:
    """Return how many orders were placed, or tried to be."""
    return [path for _, path in front.requests].count(NEW_ORDER_PATH)


async def requested(front: Front, path: str) -> None:
    """Wait until a request for a path that begins so has come in."""
    await so_it_is(lambda: any(each.startswith(path) for _, each in front.requests))


async def so_it_is(is_so: Callable[[], object]) -> None:
    """Wait until something is so that another thread or task does."""
    while not is_so():  # noqa: ASYNC110 - other threads set no event of this loop
        await asyncio.sleep(LOOK_INTERVAL)


def told(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Return the lines of the issuer from `level` on, without their fields."""
    return [line.getMessage() for line in _lines(caplog) if line.levelno >= level]


def fields_of(caplog: pytest.LogCaptureFixture, message: str) -> list[Mapping[str, Any]]:
    """Return the fields of each line of the issuer that says so."""
    return [vars(line)["fields"] for line in _lines(caplog) if line.getMessage() == message]


def _lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [line for line in caplog.records if line.name == "tunnel.acme.issuance"]
