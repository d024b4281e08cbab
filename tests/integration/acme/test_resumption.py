"""Orders whose process goes in the middle, at a real authority: the next one takes them up."""

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.acme_front import CERTIFICATE_PATH, FINALIZE_PATH, Front, Reply
from tests.integration.acme.keeping import (
    DAY,
    HOUR,
    MINUTE,
    Clock,
    Keeper,
    keeper,
    orders_at,
    requested,
    so_it_is,
    told,
)
from tests.integration.acme.steps import Answerer
from tests.integration.conftest import Run
from tests.pebble import Pebble, pebble
from tunnel.acme.store import Draft

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes

NAME = "a.t.test"
LIFE = 3 * DAY
CHALLENGE_PATH = "/chalZ/"
HANGS = Reply(hangs=True, after=True)
UNHEARD = Reply(hangs=True)


@pytest.fixture(scope="module")
def ca(answerer: Answerer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """Run an authority whose certificates live three days."""
    folder, seconds = tmp_path_factory.mktemp("pebble"), int(LIFE.total_seconds())
    with pebble(folder, tls_port=answerer.port, validity=seconds) as one:
        yield one


@pytest.mark.parametrize("path", [CHALLENGE_PATH, FINALIZE_PATH, CERTIFICATE_PATH])
def test_an_order_is_taken_up_again_after_the_end_of_a_process(
    path: str, front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        first = keeper(front, tmp_path, answerer)
        first.path.keeps_showing = True  # the authority looks while the process ends
        front.plan(HANGS, path)
        async with first.keeping(NAME):
            await requested(front, path)
        draft = first.store.draft([NAME])
        assert draft is not None
        again = keeper(front, tmp_path, answerer)
        await again.until(NAME, issued=1)
        assert orders_at(front) == 1
        assert again.installed[0].key.public_key() == draft.key.public_key()
        assert again.failures == []
        assert again.store.draft([NAME]) is None

    run(body())


async def leave_an_order(kept: Keeper, front: Front) -> Draft:
    """End a process whose order is placed and not told of a proof; return what it has kept."""
    front.plan(UNHEARD, CHALLENGE_PATH)
    async with kept.keeping(NAME):
        await requested(front, CHALLENGE_PATH)
    draft = kept.store.draft([NAME])
    assert draft is not None
    return draft


def test_an_order_that_was_only_placed_is_taken_up_again(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        await leave_an_order(keeper(front, tmp_path, answerer), front)
        again = keeper(front, tmp_path, answerer)
        await again.until(NAME, issued=1)
        assert orders_at(front) == 1

    run(body())


def test_an_order_that_became_invalid_meanwhile_is_replaced_at_once_and_counted(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def body() -> None:
        first = keeper(front, tmp_path, answerer)
        await lose_an_order(first, front)
        again = keeper(front, tmp_path, answerer)
        begun = again.clock.moment
        await again.until(NAME, issued=1)
        assert (orders_at(front), again.failures, again.clock.moment) == (2, [], begun)
        assert again.store.record([NAME]).failed_at == (begun,)

    run(body())
    assert "order from before came to nothing" in told(caplog, logging.INFO)


async def lose_an_order(kept: Keeper, front: Front) -> None:
    """End a process just after it has told the authority of a proof that is not there."""
    kept.path.shows_nothing = True
    front.requests.clear()
    front.plan(HANGS, CHALLENGE_PATH)
    async with kept.keeping(NAME):
        await requested(front, CHALLENGE_PATH)


def test_whoever_dies_in_every_order_still_loses_only_five_an_hour(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        clock = Clock()
        for _ in range(5):
            await lose_an_order(keeper(front, tmp_path, answerer, clock), front)
            assert orders_at(front) == 1
        front.requests.clear()
        last = keeper(front, tmp_path, answerer, clock)
        await last.passes(HOUR - MINUTE, NAME)
        assert (orders_at(front), last.installed) == (0, [])
        await last.until(NAME, issued=1)

    run(body())


@pytest.mark.parametrize("restarted", [False, True])
def test_a_finished_order_that_could_not_be_forgotten_is_not_taken_up_again(
    restarted: bool, front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        draft = await leave_an_order(keeper(front, tmp_path, answerer), front)
        kept = keeper(front, tmp_path, answerer)
        await kept.until(NAME, issued=1)
        kept.store.save_draft(draft)
        again = keeper(front, tmp_path, answerer, kept.clock) if restarted else kept
        await again.until(NAME, issued=1 if restarted else 2)
        assert orders_at(front) == 2
        assert again.installed[-1].leaf_hash != kept.installed[0].leaf_hash
        assert again.failures == []

    run(body())


def test_an_order_for_another_key_than_is_wanted_is_given_up(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        await leave_an_order(keeper(front, tmp_path, answerer), front)
        own = ec.generate_private_key(ec.SECP256R1())
        again = keeper(front, tmp_path, answerer)
        await again.until(NAME, issued=1, key=own)
        assert again.installed[0].key.public_key() == own.public_key()
        assert (orders_at(front), again.store.record([NAME]).failed_at) == (2, ())

    run(body())


@pytest.mark.slow
def test_it_may_be_cancelled_at_any_request(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        for count in range(1, 30):
            front.requests.clear()
            kept = keeper(front, tmp_path / str(count), answerer)
            async with kept.keeping(NAME):
                await so_it_is(partial(is_so_far, kept, count))
            if kept.installed:
                break
        assert 8 < count < 29
        await kept.until(NAME, issued=2)

    def is_so_far(kept: Keeper, count: int) -> bool:
        return len(front.requests) >= count or bool(kept.installed)

    run(body())
