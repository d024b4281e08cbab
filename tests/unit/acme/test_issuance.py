"""What is planned for a certificate and when, at an authority at which nobody ever answers."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.unit.acme.stored import DAY, NAME, NAMES, NOW, issued
from tunnel.acme.challenge import PendingAnswer
from tunnel.acme.directories import directory_of
from tunnel.acme.issuance import NAP_MAX, Issuer, Standing, Wanted
from tunnel.acme.schedule import HOUR, Record, RenewalWindow
from tunnel.acme.store import Store
from tunnel.settings.values import AcmeSettings
from tunnel.tls.slots import Certificate

NOBODY = "https://127.0.0.1:1/dir"
MINUTE = timedelta(minutes=1)


@dataclass
class Life:
    """A certificate that is kept from NOW on, without ever getting a new one."""

    folder: Path
    settings: AcmeSettings = field(default_factory=lambda: AcmeSettings(NOBODY))
    moment: datetime = NOW
    naps: list[float] = field(default_factory=list)
    failed_at: list[datetime] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store.below(self.folder, directory_of(NOBODY))

    def issuer(self, **options: Any) -> Issuer:
        options = {"draw": lambda: 0.5, "sleep": self.sleep} | options
        return Issuer(self.settings, self.folder, now=lambda: self.moment, **options)

    async def sleep(self, seconds: float) -> None:
        """Let the time pass, up to the end of this life."""
        await asyncio.sleep(0)
        if self.moment >= self.end:
            self.over.set()
            await asyncio.Event().wait()
        self.naps.append(seconds)
        self.moment += timedelta(seconds=seconds)

    def passes(self, span: timedelta, issuer: Issuer | None = None) -> None:
        """Keep the certificate for some time."""
        asyncio.run(self.keep(issuer or self.issuer(), span))

    async def keep(self, issuer: Issuer, span: timedelta) -> None:
        self.end, self.over = self.moment + span, asyncio.Event()
        wanted = Wanted(NAMES, self, self.install, self.failed)
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(issuer.keep(wanted))
            await self.over.wait()
            keeping.cancel()

    def install(self, certificate: Certificate) -> None:
        pytest.fail(f"nobody can have issued {certificate}")

    def failed(self, cause: str, retry_in: float) -> None:
        assert "cannot reach 127.0.0.1:1" in cause
        assert retry_in > 0
        self.failed_at.append(self.moment)

    async def ready(self, name: str) -> None:
        """Wait for nothing."""

    def addresses(self, _name: str) -> frozenset[str]:
        return frozenset({"192.0.2.1"})

    @asynccontextmanager
    async def opened(
        self, name: str, _answer: PendingAnswer, *, renewal: bool
    ) -> AsyncIterator[None]:
        pytest.fail(f"nothing can have been placed for {name}, {renewal=}")
        yield


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path)


def asks(caplog: pytest.LogCaptureFixture) -> int:
    return caplog.messages.count("no renewal window")


def test_before_anything_is_done_nothing_is_said_of_it(life: Life) -> None:
    assert life.issuer().standing(NAMES) == Standing("not begun")
    assert life.issuer().cached(NAMES) is None
    assert list(life.folder.iterdir()) == []


def test_what_is_kept_stands_for_renewal_with_a_third_of_its_life_left(life: Life) -> None:
    certificate = issued(NAME, begins=-DAY, ends=89 * DAY)
    life.store.save(NAMES, certificate)
    standing = life.issuer(draw=lambda: 0.0).standing(NAMES)
    assert standing.not_after == certificate.not_after
    assert standing.renew_at == certificate.not_after - 30 * DAY


def test_an_expired_one_is_not_used(life: Life) -> None:
    life.store.save(NAMES, issued(NAME, begins=-2 * DAY, ends=-DAY))
    assert life.issuer().cached(NAMES) is None


def test_the_wall_clock_is_looked_at_often(life: Life) -> None:
    life.store.save(NAMES, issued(NAME))
    life.passes(2 * DAY)
    assert life.failed_at == []
    assert max(life.naps) == NAP_MAX


def test_failed_orders_follow_the_schedule(life: Life) -> None:
    life.passes(4 * DAY, life.issuer(draw=lambda: 0.0))
    waits = [later - earlier for earlier, later in pairwise(life.failed_at)]
    assert waits[:5] == [MINUTE, 10 * MINUTE, 100 * MINUTE, DAY, DAY]


def test_a_renewal_that_fails_leaves_what_there_is_in_force_to_its_end(life: Life) -> None:
    life.store.save(NAMES, issued(NAME, begins=-8 * DAY, ends=DAY))
    issuer = life.issuer()
    before = issuer.cached(NAMES)
    life.passes(12 * HOUR, issuer)
    assert issuer.cached(NAMES) is before
    assert issuer.standing(NAMES).activity == "valid"
    assert "cannot reach" in (issuer.standing(NAMES).last_error or "")
    life.passes(DAY, issuer)
    assert issuer.standing(NAMES).activity == "expired, waiting to try again"
    assert len(life.failed_at) > 3


def test_no_window_is_asked_for_where_the_operator_has_said_when(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    life.store.save(NAMES, issued(NAME))
    life.passes(DAY - HOUR)
    assert asks(caplog) == 4
    life.settings = AcmeSettings(NOBODY, renew_before=DAY.total_seconds())
    life.passes(DAY)
    assert asks(caplog) == 4


def test_a_window_and_a_place_in_it_are_those_of_one_certificate(life: Life) -> None:
    old, new = issued(NAME), issued(NAME)
    window = RenewalWindow(NOW + 10 * DAY, NOW + 12 * DAY)
    life.store.save_record(NAMES, Record().issued(old.leaf_hash, 0.25).with_window(window))
    life.store.save(NAMES, old)
    assert life.issuer().standing(NAMES).renew_at == NOW + 10.5 * DAY
    life.store.save(NAMES, new)
    assert (
        life.issuer(draw=lambda: 0.0).standing(NAMES).renew_at
        == new.not_after - (new.not_after - new.leaf.not_valid_before_utc) / 3
    )


PAST = RenewalWindow(NOW - 3 * DAY, NOW - 2 * DAY)


@pytest.mark.parametrize(
    ("begins", "rests"),
    [
        (-HOUR, DAY - HOUR),
        (HOUR, DAY),
        (900 * DAY, DAY),
    ],
    ids=["new", "ahead of our clock by little", "ahead of our clock by years"],
)
def test_a_window_in_the_past_does_not_make_each_restart_order(
    life: Life, begins: timedelta, rests: timedelta
) -> None:
    certificate = issued(NAME, begins=begins, ends=begins + 90 * DAY)
    life.store.save(NAMES, certificate)
    life.store.save_record(NAMES, Record().issued(certificate.leaf_hash, 0.5).with_window(PAST))
    life.passes(rests + MINUTE)
    assert life.failed_at[0] == NOW + rests


def test_plans_of_a_clock_that_was_years_ahead_do_not_hold(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    life.store.save(NAMES, issued(NAME, ends=3000 * DAY))
    life.moment = NOW + 900 * DAY
    issuer = life.issuer()
    life.passes(HOUR, issuer)
    assert asks(caplog) == 1
    life.moment = NOW
    life.passes(HOUR, issuer)
    assert asks(caplog) == 2


def test_where_nothing_can_be_kept_nobody_is_asked(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    (life.folder / "acme").touch()
    failures: list[tuple[str, float]] = []
    life.failed = lambda cause, retry_in: failures.append((cause, retry_in))  # type: ignore[method-assign] # it is another failure that is expected
    life.passes(20 * MINUTE, life.issuer(draw=lambda: 0.0))
    assert {cause.partition("acme/")[2] for cause, _ in failures} == {
        f"{directory_of(NOBODY).slug}/{NAME}.json: cannot be written: Not a directory"
    }
    assert [retry_in for _, retry_in in failures] == [60, 60, 600, 600, 600]
    assert caplog.messages.count("certificate not ordered") == 5


class UnforeseenError(Exception):
    """What nobody has foreseen."""


def test_a_bug_is_told_with_its_place_and_tried_again_on_the_schedule(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    causes: list[str] = []

    def fail(cause: str, retry_in: float) -> None:
        causes.append(cause)
        life.failed_at.append(life.moment)

    def break_down(*_args: object) -> None:
        raise UnforeseenError("two\nlines")

    issuer = life.issuer(draw=lambda: 0.0)
    issuer._orders.certificate = break_down  # type: ignore[assignment] # for a bug there is no other way in
    issuer._orders.renewal_window = break_down  # type: ignore[assignment] # as above
    life.failed = fail  # type: ignore[method-assign] # it is another failure that is expected
    life.passes(2 * HOUR, issuer)
    assert set(causes) == {"bug: UnforeseenError: two lines"}
    waits = [later - earlier for earlier, later in pairwise(life.failed_at)]
    assert waits == [MINUTE, 10 * MINUTE, 100 * MINUTE]
    lines = [line for line in caplog.records if line.levelno >= logging.WARNING]
    assert [line.getMessage() for line in lines] == ["certificate not issued"] * 4
    assert all(line.exc_info and line.exc_info[0] is UnforeseenError for line in lines)


def test_a_bug_in_asking_for_a_window_is_told_and_asked_again_later(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_args: object) -> None:
        raise UnforeseenError

    life.store.save(NAMES, issued(NAME))
    issuer = life.issuer()
    issuer._orders.renewal_window = break_down  # type: ignore[assignment] # for a bug there is no other way in
    life.passes(11 * HOUR, issuer)
    assert caplog.messages == ["renewal window not asked for: bug"] * 2


def test_whoever_asks_for_an_order_waits_for_no_plan(life: Life) -> None:
    life.store.save(NAMES, issued(NAME))

    async def body() -> None:
        rests = asyncio.Event()

        async def rest(_seconds: float) -> None:
            rests.set()
            await asyncio.Event().wait()

        issuer = life.issuer(sleep=rest)
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(life.keep(issuer, DAY))
            await rests.wait()
            rests.clear()
            assert issuer.renew(NAMES) == NOW
            await rests.wait()
            keeping.cancel()
        assert life.failed_at == [NOW]

    asyncio.run(body())
