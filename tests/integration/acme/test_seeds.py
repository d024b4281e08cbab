"""Certificates of another program, taken over at a real authority."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acme_front import Front
from tests.integration.acme.keeping import DAY, keeper, orders_at
from tests.integration.acme.steps import Answerer
from tests.integration.conftest import Run
from tests.pebble import Pebble, pebble

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes

NAME = "a.t.test"
LIFE = 3 * DAY


@pytest.fixture(scope="module")
def ca(answerer: Answerer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """Run an authority whose certificates live three days."""
    folder, seconds = tmp_path_factory.mktemp("pebble"), int(LIFE.total_seconds())
    with pebble(folder, tls_port=answerer.port, validity=seconds) as one:
        yield one


def seed_from(front: Front, answerer: Answerer, folder: Path, run: Run, *names: str) -> Path:
    """Return a PEM file with key and chain, as another program leaves it."""
    file = folder / "seed.pem"

    async def body() -> None:
        kept = keeper(front, folder / "other", answerer)
        await kept.until(*names, issued=1)
        certificate = kept.installed[0]
        file.touch(0o600)
        file.write_bytes(certificate.chain_pem + certificate.key_pem)

    run(body())
    front.requests.clear()
    return file


def test_a_seed_is_used_without_an_order_and_renewed_like_any_other(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    file = seed_from(front, answerer, tmp_path, run, NAME)

    async def body() -> None:
        kept = keeper(front, tmp_path / "state", answerer)
        cached = kept.issuer.cached([NAME], file)
        assert cached is not None
        await kept.passes(DAY, NAME)
        assert orders_at(front) == 0
        await kept.until(NAME, issued=1)
        assert kept.clock.moment < cached.not_after

    run(body())


def test_a_seed_that_comes_by_a_reload_is_used_too(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    file = seed_from(front, answerer, tmp_path, run, NAME)

    async def body() -> None:
        kept = keeper(front, tmp_path / "state", answerer)
        assert kept.issuer.cached([NAME]) is None
        assert kept.issuer.cached([NAME], file) is not None
        assert keeper(front, tmp_path / "state", answerer).issuer.cached([NAME]) is not None
        await kept.passes(DAY, NAME)
        assert orders_at(front) == 0

    run(body())


def test_a_seed_for_another_name_is_told_once_and_an_order_follows(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    file = seed_from(front, answerer, tmp_path, run, "b.t.test")

    async def body() -> None:
        kept = keeper(front, tmp_path / "state", answerer)
        assert kept.issuer.cached([NAME], file) is None
        await kept.until(NAME, issued=1)

    run(body())
    assert caplog.messages.count("did not import a seed") == 1
