"""Bad networks: what `soak` does, a little of it."""

from itertools import product

import pytest

from tests.unit.transport.quic.soak import LOSSES, PAIRS, Plan, Soak

FEW = [(pair, "bbr", seed) for pair in PAIRS for seed in range(2)]
MANY = list(product(PAIRS, ("bbr", "reno"), range(len(LOSSES), 20)))


@pytest.mark.parametrize(("engines", "congestion", "seed"), FEW)
def test_everything_arrives_over_a_bad_network(
    engines: tuple[str, str], congestion: str, seed: int
) -> None:
    # Of the five losses, every one is met: 0 to 10 %.
    index = PAIRS.index(engines) * 2 + seed
    Soak(Plan(index, engines, congestion, streams=30)).run()


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("engines", "congestion", "seed"), MANY)
def test_everything_arrives_over_many_bad_networks(
    engines: tuple[str, str], congestion: str, seed: int
) -> None:
    Soak(Plan(seed, engines, congestion)).run()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("engines", PAIRS)
def test_everything_arrives_on_a_connection_of_thousands_of_rounds(
    engines: tuple[str, str],
) -> None:
    Soak(Plan(4, engines, "bbr", streams=700)).run()
