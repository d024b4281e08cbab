"""A relay in two processes: what its figures add up to, and that it drains when it is asked to."""

import asyncio
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.targets import pages
from tests.e2e.test_workers import TURNED_AWAY, is_alive, until
from tests.e2e.visitors import get, request, tls
from tests.e2e.world import SUFFIX, WAYS, Client, Relay, World, new_world
from tests.integration.clients import dial
from tests.integration.spares import Stock
from tests.ports import free_port
from tunnel.protocol.messages import Welcome
from tunnel.stream import Address
from tunnel.tls.identity import generate
from tunnel.transport.direct.keys import DirectKeys

VISITORS = 12  # all of whom meet one of two workers once in two thousand times
BODY_BYTES = 100_000
OVERHEAD = 1.1  # of TLS and the heads of HTTP, at most

Figures = dict[str, float]  # by name and labels

pytestmark = pytest.mark.timeout(60)


@dataclass
class Pair:
    """A relay of two workers, where its figures are, and clients of it."""

    world: World
    relay: Relay
    metrics: int
    clients: dict[str, Client]

    def figures(self) -> Figures:
        """Return what /metrics says now."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line.startswith("tunnel_relay_"))
        return {name: float(value) for name, _, value in samples}

    def grown(self, before: Figures) -> Figures:
        """Return by how much each figure has grown, once every visitor has gone."""
        until(lambda: self.figures()["tunnel_relay_visitors"] == 0)
        return {name: value - before.get(name, 0) for name, value in self.figures().items()}

    def status(self) -> Any:
        return self.world.ask("relay", "status", "-c", str(self.relay.settings))

    def direct_visitors(self) -> int:
        """Return how many visitors have come to a client on direct connections, as it says."""
        settings = self.clients["direct"].settings
        (endpoint,) = self.world.ask("client", "status", "-c", str(settings))["endpoints"]
        count: int = endpoint["servers"][0]["direct"]["visitors"]
        return count

    def spares_by_http2(self) -> list[int]:
        """Return how many spares each client has whose transport is HTTP/2."""
        listed = self.status()["clients"]
        ways = ({link["transport"] for link in each["connections"]} for each in listed)
        return [
            each["direct_spares"] for each, way in zip(listed, ways, strict=True) if way == {"h2"}
        ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    metrics = free_port()
    with pages() as target, new_world(tmp_path_factory.mktemp("pair")) as world:
        relay = world.relay(workers=2, extra=f'[admin]\nmetrics = "127.0.0.1:{metrics}"\n')
        clients = {
            way: world.client(relay, target=target, name=way, options=WAYS[way])
            for way in ("quic", "direct")
        }
        assert all(client.host for client in clients.values())
        yield Pair(world, relay, metrics, clients)
        world.report()


def refused(reason: str) -> str:
    """Return the figure of spares that were refused for this reason."""
    return f'tunnel_relay_direct_spares_refused_total{{reason="{reason}"}}'


def test_visitors_and_their_bytes_count_once_whichever_worker_they_met(pair: Pair) -> None:
    until(lambda: pair.figures()["tunnel_relay_direct_spares"] > 0)
    before, before_there = pair.figures(), pair.direct_visitors()
    for client in pair.clients.values():
        for _ in range(VISITORS):
            assert len(get(pair.relay, client, f"/bytes/{BODY_BYTES}").body) == BODY_BYTES
    grown = pair.grown(before)
    total = VISITORS * len(pair.clients)
    assert grown["tunnel_relay_visitors_accepted_total"] == total
    directly = pair.direct_visitors() - before_there
    assert 0 < grown["tunnel_relay_direct_visits_total"] == directly <= VISITORS
    sent = grown['tunnel_relay_visitor_bytes_total{direction="sent"}']
    assert total * BODY_BYTES < sent < OVERHEAD * total * BODY_BYTES
    received = grown['tunnel_relay_visitor_bytes_total{direction="received"}']
    assert 0 < received < sent / 10
    assert grown["tunnel_relay_handed_over_total"] > 0


def test_whoever_is_turned_away_counts_in_the_sum_of_both(pair: Pair) -> None:
    before = pair.figures()
    for _ in range(VISITORS):
        with pytest.raises(OSError, match=TURNED_AWAY):
            get(pair.relay, pair.clients["quic"], host=f"nobody.{SUFFIX}")
    grown = pair.grown(before)
    assert grown['tunnel_relay_visitors_refused_total{reason="not_serving"}'] == VISITORS


def test_forged_and_replayed_spares_are_refused_by_the_worker_of_their_session(pair: Pair) -> None:
    before = pair.figures()

    async def body() -> None:
        agents = Address("127.0.0.1", pair.relay.agents_port)
        pin = bytes.fromhex(pair.relay.pin.removeprefix("sha256:"))
        client = await dial("h2", agents, pin, identity=generate())
        welcome = await client.register()
        assert isinstance(welcome, Welcome)
        assert welcome.direct is not None
        stock = Stock(agents, welcome.session, DirectKeys(welcome.direct.key))
        stranger = stock.stranger()
        good = await stock.open()
        await asyncio.to_thread(until, lambda: pair.spares_by_http2() == [1])
        for _ in range(VISITORS):  # half of them to the other worker, which hands them over
            await (await stranger.open()).ended()
            await (await stock.open(good.prelude)).ended()
        grown = await asyncio.to_thread(pair.grown, before)
        assert grown[refused("forged")] == VISITORS
        assert grown[refused("replayed")] == VISITORS
        assert grown["tunnel_relay_handed_over_total"] > 0
        assert pair.spares_by_http2() == [1]
        for sock in stock.opened:
            sock.close()
        client.connection.close()

    asyncio.run(body())


def test_asked_to_drain_both_let_visitors_finish_and_end_in_order(pair: Pair) -> None:
    pids = pair.status()["workers"]["pids"].values()
    with (
        tls(pair.relay, pair.clients["quic"]) as by_stream,
        tls(pair.relay, pair.clients["direct"]) as directly,
    ):
        settings = str(pair.relay.settings)
        assert pair.world.ask("relay", "drain", "-c", settings) == {"draining": True}
        pair.relay.process.wait_for("draining")
        for visitor in (by_stream, directly):
            assert len(request(visitor, f"/bytes/{BODY_BYTES}").body) == BODY_BYTES
    assert pair.relay.process.wait() == 0
    assert "asked to drain" in pair.relay.process.logged()
    assert not any(map(is_alive, pids))
