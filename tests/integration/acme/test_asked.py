"""A certificate that an operator asks for: ordered now, and no more often than may fail."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acme_front import NEW_ORDER_PATH, Front, Reply
from tests.integration.acme.keeping import DAY, HOUR, Keeper, Showing, orders_at, so_it_is
from tests.integration.acme.steps import Answerer, settings_for
from tests.integration.conftest import Run
from tests.pebble import Pebble, pebble
from tunnel.acme.schedule import FAILURES_PER_HOUR

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes

NAME = "a.t.test"


@pytest.fixture(scope="module")
def ca(answerer: Answerer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """Run an authority."""
    with pebble(tmp_path_factory.mktemp("pebble"), tls_port=answerer.port) as one:
        yield one


@pytest.fixture
def kept(front: Front, answerer: Answerer, tmp_path: Path) -> Keeper:
    return Keeper(settings_for(front), tmp_path, Showing(answerer))


def test_what_is_asked_for_is_ordered_long_before_it_is_due(
    front: Front, kept: Keeper, run: Run
) -> None:
    async def body() -> None:
        await kept.until(NAME, issued=1)
        kept.clock.limit = kept.clock.moment + DAY
        async with kept.keeping(NAME):
            await kept.clock.is_at_limit.wait()
            assert orders_at(front) == 1
            assert kept.issuer.renew([NAME]) == kept.clock.moment
            assert kept.issuer.renew([NAME]) == kept.clock.moment  # at once is as good as twice
            await so_it_is(lambda: len(kept.installed) == 2)
        assert orders_at(front) == 2

    run(body())


def test_what_is_asked_for_does_not_wait_for_the_pause_after_a_failure(
    front: Front, kept: Keeper, run: Run
) -> None:
    async def body() -> None:
        front.plan(Reply(503), NEW_ORDER_PATH)
        await kept.until(NAME, failed=1)
        assert kept.failures[0].retry_in > 0
        assert kept.issuer.renew([NAME]) == kept.clock.moment
        await kept.until(NAME, issued=1)
        assert kept.clock.moment == kept.failures[0].at

    run(body())


def test_asking_cannot_make_more_orders_fail_in_an_hour(
    front: Front, kept: Keeper, run: Run
) -> None:
    async def body() -> None:
        begun = kept.clock.moment
        for _ in range(FAILURES_PER_HOUR):
            front.plan(Reply(503), NEW_ORDER_PATH)
        for count in range(1, FAILURES_PER_HOUR + 1):
            await kept.until(NAME, failed=count)
            at = kept.issuer.renew([NAME])
        assert at == begun + HOUR
        await kept.until(NAME, issued=1)
        assert kept.clock.moment >= begun + HOUR

    run(body())
