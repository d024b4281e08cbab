"""When a client whose `direct` is "auto" keeps no direct connections, and what it says then."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.e2e.proxies import proxy
from tests.integration.conftest import Run
from tests.integration.stage import on_stage, until
from tests.integration.test_direct_client import (
    Relay,
    ended,
    offering,
    playing,
    serving,
    state_of,
    through,
)
from tests.integration.test_keys_client_visits import SAID, settings_for, target, visit
from tunnel.client.events import DirectState
from tunnel.client.spare_plan import FEWEST, LOSSY_FOR, SEGMENTS_JUDGED
from tunnel.client.spares import Spares

LOSSY = "the path loses 25.00% of what TCP sends"
PROXIED = "the relay is reached through a proxy"


class Clock:
    """The time of spares: the loop's, and as much later as a test says."""

    def __init__(self) -> None:
        self.later = 0.0

    def now(self, _spares: Spares) -> float:
        """Return the time."""
        return asyncio.get_running_loop().time() + self.later


@pytest.fixture
def lossy(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Have TCP no BBR, and connections lose every fourth segment; return the clock of spares."""
    monkeypatch.setattr("tunnel.client.spares.ask_for_bbr", lambda _sock: False)
    told = SEGMENTS_JUDGED, SEGMENTS_JUDGED // 4
    monkeypatch.setattr("tunnel.client.spares.segments_of", lambda _sock: told)
    monkeypatch.setattr("tunnel.client.spares.TEND_INTERVAL", 0.02)
    clock = Clock()
    monkeypatch.setattr(Spares, "_now", property(clock.now))
    return clock


async def come_and_go(relay: Relay) -> list[socket.socket]:
    """Have one visitor who has gone; return the spares that waited meanwhile."""
    visited, *waiting = [await relay.accept() for _ in range(FEWEST)]
    sock, prelude = visited
    sock.send(relay.frame(prelude))
    await until(lambda: bool(relay.arrived))
    stream, _ = relay.arrived[0]
    stream.abort()
    return [each for each, _ in waiting]


def test_a_path_that_loses_too_much_has_no_spares_until_it_is_tried_again(
    run: Run, lossy: Clock
) -> None:
    async def body() -> None:
        async with playing("auto") as (relay, spares):
            spares.follow(relay.invitation(), "auto")
            for sock in await come_and_go(relay):
                await ended(sock)
            assert spares.state("") == DirectState("off", LOSSY, spares=0, visitors=1)
            lossy.later = LOSSY_FOR - 60
            assert spares.state("").reason == LOSSY
            lossy.later = LOSSY_FOR
            await until(lambda: spares.state("").spares == FEWEST)
            expected = DirectState("on", "the path loses little", FEWEST, visitors=1)
            assert spares.state("") == expected

    run(body())


@pytest.mark.usefixtures("lossy")
def test_an_operator_who_wants_spares_has_them_whatever_the_path_loses(run: Run) -> None:
    async def body() -> None:
        async with playing() as (relay, spares):
            spares.follow(relay.invitation(), "on")
            await come_and_go(relay)
            await until(lambda: spares.state("").spares == FEWEST)
            state = spares.state("")
            assert (state.state, state.reason) == ("on", "set by the operator")

    run(body())


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_relay_behind_a_proxy_has_no_spares(tmp_path: Path, run: Run, mode: str) -> None:
    asked: list[str] = []

    async def body(address: str) -> None:
        async with on_stage(offering(tmp_path, "h2", "direct")) as stage, target(b"yes ") as to:
            way = {"proxy": f"http://{address}"}
            settings = settings_for(stage, tmp_path, to, direct=mode, server=way)
            async with serving(settings) as (client, name):
                assert (await visit(stage, name)).answer == b"yes " + SAID
                assert state_of(client).direct == DirectState("off", PROXIED)
                assert through(stage) == 0
            assert asked == [str(stage.agents)]  # for nothing but the relay's connection

    with proxy("http", None, asked) as address:
        run(body(address))
