"""Certificates that are kept, at a real authority: issued, renewed, saved."""

import logging
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from dns.asyncresolver import Resolver

from tests.acme_front import RENEWAL_PATH, Front, Reply
from tests.integration.acme.keeping import (
    DAY,
    HOUR,
    MINUTE,
    Keeper,
    Showing,
    fields_of,
    keeper,
    orders_at,
    so_it_is,
    told,
)
from tests.integration.acme.steps import Answerer, settings_for
from tests.integration.conftest import Run
from tests.pebble import Pebble, pebble
from tunnel.acme.issuance import ORDERS_AT_ONCE
from tunnel.acme.renewal_info import certificate_id
from tunnel.errors import OrderPostponed
from tunnel.tls.certificates import dns_names

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes

NAME = "a.t.test"
LIFE = 3 * DAY
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture(scope="module")
def ca(answerer: Answerer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """Run an authority whose certificates live three days."""
    folder, seconds = tmp_path_factory.mktemp("pebble"), int(LIFE.total_seconds())
    with pebble(folder, tls_port=answerer.port, validity=seconds) as one:
        yield one


# -- life


def test_what_was_issued_is_used_again_after_a_restart(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        first = keeper(front, tmp_path, answerer)
        assert first.issuer.cached([NAME]) is None
        await first.until(NAME, issued=1)
        again = keeper(front, tmp_path, answerer)
        cached = again.issuer.cached([NAME])
        assert cached is not None
        assert cached.leaf_hash == first.installed[0].leaf_hash
        await again.passes(DAY, NAME)
        assert (again.installed, orders_at(front)) == ([], 1)

    run(body())


def test_it_stands_for_renewal_and_says_so_in_its_line(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def body() -> None:
        kept = keeper(front, tmp_path, answerer)
        assert kept.standing(NAME).activity == "not begun"
        await kept.until(NAME, issued=1)
        await kept.passes(MINUTE, NAME)
        standing, certificate = kept.standing(NAME), kept.installed[0]
        assert (standing.activity, standing.not_after) == ("valid", certificate.not_after)
        assert (standing.last_error, standing.retry_at) == (None, None)
        assert standing.renew_at is not None
        assert standing.renew_at < certificate.not_after - LIFE / 2

    run(body())
    (fields,) = fields_of(caplog, "certificate issued")
    assert (fields["names"], fields["directory"]) == ([NAME], front.directory_url)
    assert LINE.fullmatch(fields["not_after"])
    assert LINE.fullmatch(fields["renew_at"])


def test_without_word_of_the_authority_it_is_renewed_with_half_of_a_short_life_left(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        kept = keeper(front, tmp_path, answerer)
        await kept.until(NAME, issued=1)
        await kept.until(NAME, issued=2)
        left = kept.installed[0].not_after - kept.clock.moment
        assert LIFE * 0.5 < left < LIFE * 0.53
        assert kept.path.opened_for == [(NAME, False), (NAME, True)]
        assert kept.failures == []

    run(body())


def test_renewals_certify_a_new_key_unless_one_is_kept(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        own = ec.generate_private_key(ec.SECP256R1())
        fresh, same = (keeper(front, tmp_path / word, answerer) for word in "ab")
        await fresh.until(NAME, issued=2)
        await same.until(NAME, issued=2, key=own)
        assert fresh.installed[0].pin != fresh.installed[1].pin
        assert same.installed[0].pin == same.installed[1].pin
        assert same.installed[0].key.public_key() == own.public_key()

    run(body())


def test_several_names_are_certified_together(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        names = ("relay.test", "b.relay.test", "c.relay.test")
        kept = keeper(front, tmp_path, answerer)
        await kept.until(*names, issued=1)
        assert dns_names(kept.installed[0].leaf) == set(names)
        assert orders_at(front) == 1
        assert keeper(front, tmp_path, answerer).issuer.cached(names) is not None

    run(body())


def test_only_so_many_orders_are_under_way_at_once(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        kept = keeper(front, tmp_path, answerer)
        kept.path.goes_on.clear()
        names = [f"{letter}.t.test" for letter in "abcdef"]
        most = 0

        def note() -> None:
            nonlocal most
            most = max(most, kept.path.open_now)
            if kept.path.open_now == ORDERS_AT_ONCE:
                kept.path.goes_on.set()

        kept.path.on_open = note
        async with AsyncExitStack() as stack:
            for name in names:
                await stack.enter_async_context(kept.keeping(name))
            await so_it_is(lambda: waiting(kept, names) == len(names) - ORDERS_AT_ONCE)
            await so_it_is(lambda: len(kept.installed) >= len(names))
        assert most == ORDERS_AT_ONCE
        assert {name for each in kept.installed for name in dns_names(each.leaf)} == set(names)

    def waiting(kept: Keeper, names: list[str]) -> int:
        words = [kept.standing(name).activity for name in names]
        return words.count("waiting for other orders")

    run(body())


def test_nothing_is_ordered_before_a_validation_could_come(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        kept = keeper(front, tmp_path, answerer)
        kept.path.is_there.clear()
        async with kept.keeping(NAME):
            await so_it_is(lambda: kept.standing(NAME).activity == "waiting for a relay")
        assert front.requests == []
        kept.path.is_there.set()
        await kept.until(NAME, issued=1)

    run(body())


def test_an_order_that_is_asked_for_while_one_is_under_way_is_that_one(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        kept = keeper(front, tmp_path, answerer)
        kept.path.on_open = lambda: kept.issuer.renew([NAME])
        await kept.passes(HOUR, NAME)
        assert (len(kept.installed), orders_at(front)) == (1, 1)
        kept.issuer.renew([NAME])
        await kept.until(NAME, issued=2)
        assert kept.clock.moment < kept.installed[0].not_after - LIFE / 2

    run(body())


# -- the authority's own windows


def test_it_is_renewed_when_the_authority_says_and_names_what_it_replaces(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def body() -> None:
        kept = keeper(front, tmp_path, answerer)
        start = (kept.clock.moment + 20 * HOUR).replace(microsecond=0)
        front.window = (start, start + HOUR)
        await kept.until(NAME, issued=2)
        assert kept.clock.moment == start + HOUR / 2
        assert front.replaced == [certificate_id(kept.installed[0].leaf)]
        (fields,) = fields_of(caplog, "renewal window")
        assert fields["start"] == f"{start:%Y-%m-%dT%H:%M:%SZ}"
        assert fields["directory"] == front.directory_url

    run(body())


def test_a_window_is_remembered(front: Front, answerer: Answerer, tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        kept = keeper(front, tmp_path, answerer)
        start = kept.clock.moment + 20 * HOUR
        front.window = (start, start + HOUR)
        await kept.until(NAME, issued=1)
        await kept.passes(2 * MINUTE, NAME)
        front.down()
        again = keeper(front, tmp_path, answerer, kept.clock)
        assert again.issuer.cached([NAME]) is not None
        assert again.standing(NAME).renew_at == start + HOUR / 2

    run(body())


def test_where_no_window_can_be_had_the_rule_holds(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        kept = keeper(front, tmp_path, answerer)
        front.window = (kept.clock.moment, kept.clock.moment + HOUR)
        front.plan(Reply.problem(500, "serverInternal", "out of order"), RENEWAL_PATH, 99)
        await kept.until(NAME, issued=2)
        assert kept.installed[0].not_after - kept.clock.moment > LIFE * 0.5
        assert kept.clock.moment > datetime.now(UTC) + DAY
        assert len([path for _, path in front.requests if path.startswith(RENEWAL_PATH)]) > 2

    run(body())
    assert told(caplog) == []


def test_a_window_that_is_now_does_not_have_it_ordered_in_a_loop(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        kept = keeper(front, tmp_path, answerer)
        front.window = (kept.clock.moment - DAY, kept.clock.moment - HOUR)
        await kept.passes(LIFE / 4 - MINUTE, NAME)
        assert len(kept.installed) == 1
        await kept.passes(HOUR, NAME)
        assert len(kept.installed) == 2

    run(body())


# -- disks


def test_nothing_is_ordered_that_could_not_be_kept(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        state = tmp_path / "state"
        state.touch()
        kept = keeper(front, state, answerer)
        await kept.until(NAME, failed=2)
        assert "cannot be written: Not a directory" in kept.failures[0].cause
        assert [failure.retry_in for failure in kept.failures] == [
            63,
            63,
        ]  # with half of the jitter
        assert orders_at(front) == 0
        state.unlink()
        await kept.until(NAME, issued=1)

    run(body())
    assert set(told(caplog)) == {"certificate not ordered"}


def test_what_the_disk_does_not_take_is_installed_and_saved_later(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def body() -> None:
        state, aside = tmp_path / "state", tmp_path / "aside"
        kept = keeper(front, state, answerer)

        def break_the_disk() -> None:
            if not aside.exists():
                state.rename(aside)
                state.touch()

        answerer.on_asked = break_the_disk
        await kept.until(NAME, issued=1)
        answerer.on_asked = lambda: None
        await kept.passes(10 * MINUTE, NAME)
        assert keeper(front, state, answerer).issuer.cached([NAME]) is None
        state.unlink()
        aside.rename(state)
        await kept.passes(2 * MINUTE, NAME)
        cached = keeper(front, state, answerer).issuer.cached([NAME])
        assert cached is not None
        assert cached.leaf_hash == kept.installed[0].leaf_hash
        assert kept.store.draft([NAME]) is None
        assert (len(kept.installed), orders_at(front)) == (1, 1)

    run(body())
    assert told(caplog).count("certificate not kept") == 1
    assert told(caplog, logging.INFO)[-1] == "certificate kept at last"


# -- before anything is ordered


def test_a_relay_that_does_not_confirm_postpones_the_order_which_is_then_taken_up(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        kept = keeper(front, tmp_path, answerer)
        kept.path.refusal = OrderPostponed("relay eu refuses validations: busy", 3600)
        await kept.until(NAME, failed=1)
        assert kept.failures[0].cause == "relay eu refuses validations: busy"
        assert kept.failures[0].retry_in == 3780  # with half of the jitter
        assert kept.standing(NAME).last_error == "relay eu refuses validations: busy"
        kept.path.refusal = None
        await kept.until(NAME, issued=1)
        assert kept.clock.moment >= kept.failures[0].at + HOUR
        assert orders_at(front) == 1

    run(body())


def test_a_name_that_leads_nowhere_is_told_before_anything_is_ordered(
    ca: Pebble,
    front: Front,
    answerer: Answerer,
    tmp_path: Path,
    run: Run,
    caplog: pytest.LogCaptureFixture,
) -> None:
    resolver = Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = int(ca.dns_address.rpartition(":")[2])

    async def body() -> None:
        settings = replace(settings_for(front), preflight="on")
        kept = Keeper(settings, tmp_path, Showing(answerer), resolver=resolver)
        ca.dns.set_default("")
        try:
            await kept.until(NAME, failed=2)
        finally:
            ca.dns.set_default("127.0.0.1")
        assert NAME in kept.failures[0].cause
        assert "does not resolve" in kept.failures[0].cause
        assert kept.standing(NAME).last_error == kept.failures[1].cause
        assert orders_at(front) == 0
        await kept.until(NAME, issued=1)

    run(body())
    assert told(caplog) == ["certificate not ordered"] * 2
    led_astray = f"{NAME} resolves to 127.0.0.1, which is none of 192.0.2.1"
    warned = [vars(line)["fields"]["cause"] for line in caplog.records if line.msg == "preflight"]
    assert warned.count(led_astray) == 1
