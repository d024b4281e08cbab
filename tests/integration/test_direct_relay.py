"""Direct connections at a relay: they carry visitors, and add no way in (docs/protocol.md §7)."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.clients import ScriptedClient
from tests.integration.conftest import Run
from tests.integration.hellos import hello
from tests.integration.spares import Spare, Stock, stocked
from tests.integration.stage import (
    LISTED,
    Stage,
    granted,
    listener,
    on_stage,
    relay_settings,
    until,
)
from tests.integration.visitors import Cut, Visitor, visiting
from tests.limits import limited
from tests.unit.transport.direct.pairs import deafen
from tunnel.errors import Code
from tunnel.protocol.direct import SPARES_LIMIT
from tunnel.protocol.messages import StreamKind, Welcome
from tunnel.relay.counts import RelayVisits
from tunnel.relay.spares import Spares
from tunnel.relay.status import OneProcess
from tunnel.settings.values import GrantLimits, RelayLimits, RelaySettings, RelayTimeouts
from tunnel.tls.identity import generate
from tunnel.transport.direct.joint import MESSAGES
from tunnel.transport.direct.options import (
    KEEPALIVE_IDLE,
    KEEPALIVE_INTERVAL,
    KEEPALIVE_PROBES,
)

TRANSPORTS = ("quic", "h2", "direct")
KEY = generate()
PATIENT = RelayTimeouts(client_hello=0.3, open_stream=2.0, visitor_hold=0.5)


@dataclass
class Scene:
    """A relay, a client that serves its name, and what opens its spares."""

    stage: Stage
    client: ScriptedClient
    stock: Stock
    hello: bytes  # of each visitor

    @property
    def view(self) -> OneProcess:
        view = self.stage.relay.view
        assert view is not None
        return view

    @property
    def spares(self) -> Spares:
        return self.view.ways.spares

    def visiting(self) -> AbstractAsyncContextManager[Visitor]:
        """Connect as a visitor and say a hello."""
        return visiting(self.stage.public, self.hello)

    async def fresh(self) -> Spare:
        """Open a spare, and return once it waits."""
        before = self.spares.accepted
        spare = await self.stock.open()
        await until(lambda: self.spares.accepted > before)
        return spare

    async def refused(self, reason: str, count: int = 1) -> None:
        """Wait until so many spares were refused for a reason; none is kept."""
        await until(lambda: self.spares.refused[reason] == count)


def settings_for(folder: Path, **changes: Any) -> RelaySettings:
    """Return settings of a relay that offers direct connections."""
    listeners = [listener("agents", transports=TRANSPORTS), listener("public")]
    changes = {"timeouts": PATIENT, **changes}
    return relay_settings(folder, listeners=listeners, **changes)


@asynccontextmanager
async def scene(settings: RelaySettings, transport: str = "h2") -> AsyncIterator[Scene]:
    """Run a relay and a client that serves; its spares are opened by the test."""
    async with on_stage(settings) as stage, serving(stage, transport) as each:
        yield each


@asynccontextmanager
async def serving(stage: Stage, transport: str = "h2", **changes: Any) -> AsyncIterator[Scene]:
    """Register one more client, and let it serve."""
    client = await stage.dial(transport, KEY, **changes)
    welcome = await client.register()
    async with stocked(stage, welcome) as stock:
        assert (await client.serve()).reason is None
        yield Scene(stage, client, stock, hello(client.name))


async def heard(spare: Spare, scene: Scene) -> None:
    """Read header and hello of a visitor."""
    header = await spare.header()
    assert (header.kind, header.name) == (StreamKind.VISITOR, scene.client.name)
    assert await spare.hear(len(scene.hello)) == scene.hello


async def goes_on(visitor: Visitor, spare: Spare) -> None:
    """Fail unless bytes pass both ways."""
    await spare.say(b"back")
    assert await visitor.hear(4) == b"back"
    await visitor.say(b"there")
    assert await spare.hear(5) == b"there"


# -- what they are for


@pytest.mark.parametrize("transport", ["quic", "h2"])
def test_a_visitor_is_taken_to_the_freshest_spare(
    tmp_path: Path, run_on_each: Run, transport: str
) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path), transport) as s:
            stale, freshest = await s.fresh(), await s.fresh()
            async with s.visiting() as visitor:
                await heard(freshest, s)
                await goes_on(visitor, freshest)
                assert s.spares.total == 1
            async with s.visiting():
                await heard(stale, s)
            assert (s.view.ways.direct.total, s.view.ways.direct.unanswered) == (2, 0)

    run_on_each(body())


def test_without_a_spare_a_stream_carries_the_visitor(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s, s.visiting() as visitor:
            call = await s.client.take()
            assert await call.hear(len(s.hello)) == s.hello
            await call.stream.send(b"back")
            assert await visitor.hear(4) == b"back"

    run(body())


def test_what_passes_is_counted_for_the_session(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            spare = await s.fresh()
            async with s.visiting() as visitor:
                await heard(spare, s)
                await goes_on(visitor, spare)
                spare.sock.close()
                assert await visitor.hear_all() == b""
            await until(lambda: not s.view.front.visits.open)
            tally = s.view.registry.tally
            assert (tally.forth, tally.back) == (5, 4)

    run(body())


def test_a_visitor_may_ask_often_then_get_much_and_be_cut(tmp_path: Path, run_on_each: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            spare = await s.fresh()
            async with s.visiting() as visitor:
                await heard(spare, s)
                for _ in range(2 * MESSAGES):
                    await goes_on(visitor, spare)
                much = bytes(range(256)) * 4096
                async with asyncio.TaskGroup() as group:
                    group.create_task(spare.say(much))
                    assert await visitor.hear(len(much)) == much
                for _ in range(2 * MESSAGES):
                    await goes_on(visitor, spare)
                spare.reset()
                with pytest.raises(Cut):
                    await visitor.hear_all()

    run_on_each(body())


def test_a_spare_is_kept_alive_and_does_not_wait_to_send(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            await s.fresh()
            (pool,) = s.spares._pools.values()
            options = (  # the first two it has from its listener
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE),
                (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL),
                (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
            )
            for level, option, value in options:
                assert pool.idle[0].sock.getsockopt(level, option) == value

    run(body())


def test_a_validation_never_goes_direct(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            await s.fresh()
            await s.client.serve(challenge=True)
            asked = hello(s.client.name, ("acme-tls/1",))
            async with visiting(s.stage.public, asked):
                call = await s.client.take()
                assert call.header.kind is StreamKind.CHALLENGE
                assert s.spares.total == 1

    run(body())


def test_every_link_of_a_session_is_offered_the_same_key(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with on_stage(settings_for(tmp_path)) as stage:
            first = await stage.dial("h2", KEY)
            second = await stage.dial("quic", KEY, instance=first.instance)
            other = await stage.dial("h2", generate())
            offers = []
            for client in (first, second, other):
                welcome = await client.register()
                assert isinstance(welcome, Welcome)
                offers.append((welcome.session, welcome.direct))
            assert offers[0] == offers[1] != offers[2]
            assert offers[0][1] != offers[2][1]

    run(body())


@pytest.mark.parametrize(
    ("transports", "limits"),
    [(("quic", "h2"), GrantLimits()), (TRANSPORTS, GrantLimits(rate=1 << 20))],
    ids=["not listed in transports", "a client whose rate is limited"],
)
def test_it_is_not_offered(
    tmp_path: Path, run: Run, transports: tuple[str, ...], limits: GrantLimits
) -> None:
    async def body() -> None:
        listeners = [listener("agents", transports=transports), listener("public")]
        clients = granted(KEY, limits=limits)
        settings = relay_settings(tmp_path, listeners=listeners, suffixes=LISTED, clients=clients)
        async with on_stage(settings) as stage:
            welcome = await (await stage.dial("h2", KEY)).register()
            assert isinstance(welcome, Welcome)
            assert welcome.direct is None

    run(body())


# -- what would be a way in


def test_forged_foreign_and_replayed_preludes_are_refused_and_counted(
    tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            good = s.stock.next_prelude()
            await (await s.stock.stranger().open()).ended()
            await s.refused("forged")
            await (await s.stock.open(replace(good, session=bytes(16)))).ended()
            await s.refused("unknown session")
            await (await s.stock.open(replace(good, counter=99))).ended()
            await s.refused("forged", 2)
            await s.stock.open(good)  # none of that has used its number up
            await until(lambda: s.spares.total == 1)
            await (await s.stock.open(good)).ended()
            await s.refused("replayed")
            assert s.spares.total == 1

    run(body())


def test_a_prelude_does_not_outlive_its_session(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            idle = await s.fresh()
            s.client.connection.close()
            await idle.ended()
            await (await s.stock.open()).ended()
            await s.refused("unknown session")
            assert s.spares.total == 0

    run(body())


@pytest.mark.parametrize(
    "first", [b"T", b"TUNNEL/1" + bytes(55), b"TUNNEL/2", b"TRACE / HTTP/1.1\r\n\r\n", b"T\x16"]
)
def test_what_is_no_whole_prelude_is_ended_in_time(tmp_path: Path, run: Run, first: bytes) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            sock = await s.stock.connect(first)
            async with asyncio.timeout(2):
                await Spare(sock, s.stock.keys, s.stock.next_prelude()).ended()
            assert s.view.front.visits.turned_away.total() == 1

    run(body())


@pytest.mark.parametrize("kind", ["public", "agents without direct"])
def test_elsewhere_a_prelude_is_nothing(tmp_path: Path, run: Run, kind: str) -> None:
    async def body() -> None:
        more = replace(listener("agents"), name="more")
        settings = settings_for(tmp_path)
        settings = replace(settings, listeners={**settings.listeners, "more": more})
        async with scene(settings) as s:
            address = s.stage.public if kind == "public" else more.listen[0]
            stock = replace(s.stock, address=address)
            spare = await stock.open()
            await until(lambda: s.view.front.visits.turned_away.total() == 1)
            assert s.spares.total == 0
            spare.sock.close()

    run(body())


def test_a_spare_that_speaks_before_its_turn_is_closed(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            spare = await s.fresh()
            await spare.say(b"HTTP/1.1 200 OK")
            await spare.ended()
            assert (s.spares.total, s.spares.died) == (0, 1)

    run(body())


def test_spares_that_are_held_and_never_used_are_bounded(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            for _ in range(SPARES_LIMIT):
                await s.stock.open()
            await until(lambda: s.spares.total == SPARES_LIMIT)
            await (await s.stock.open()).ended()
            await s.refused("full")
            assert s.spares.total == SPARES_LIMIT

    run(body())


@pytest.mark.alone  # what other tests have open counts
def test_all_spares_together_leave_descriptors_for_visitors(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            with limited(resource.RLIMIT_NOFILE, 240):
                for _ in range(60):  # a quarter
                    await s.fresh()
                await (await s.stock.open()).ended()
                await s.refused("full")

    run(body())


@pytest.mark.slow
@pytest.mark.timeout(120)  # ten thousand connections
def test_ten_thousand_half_written_preludes_keep_nobody_out(
    tmp_path: Path, run_for_long: Run
) -> None:
    async def body() -> None:
        limits = RelayLimits(visitors_per_address=64)
        async with scene(settings_for(tmp_path, limits=limits)) as s:
            half, visits = bytes(s.stock.next_prelude())[:40], s.view.front.visits
            for batch in range(20):  # 64 of each may wait for their time, the others are refused
                socks = [blunt(s.stage, half) for _ in range(500)]
                await turned_away(visits, 500 * (batch + 1) - limits.visitors_per_address)
                assert len(s.view.front.crowd) < 2 * limits.visitors_per_address  # some leave now
                for sock in socks:
                    sock.close()
            await turned_away(visits, 10_000)
            assert visits.turned_away.total() == 10_000
            assert (s.spares.total, s.spares.accepted) == (0, 0)
            spare = await s.fresh()
            async with s.visiting():
                await heard(spare, s)

    run_for_long(body())


async def turned_away(visits: RelayVisits, count: int) -> None:
    """Wait until at least so many were turned away."""
    await until(lambda: visits.turned_away.total() >= count)


def blunt(stage: Stage, first: bytes) -> socket.socket:
    """Connect, say something, and wait for nothing."""
    sock = socket.create_connection((stage.agents.host, stage.agents.port))
    sock.sendall(first)
    return sock


# -- spares that die


@pytest.mark.parametrize("end", ["finish", "reset"])
def test_a_visitor_is_said_again_to_the_next_spare(tmp_path: Path, run: Run, end: str) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            second, first = await s.fresh(), await s.fresh()
            async with s.visiting() as visitor:
                await heard(first, s)
                await visitor.say(b" and more")
                assert await first.hear(9) == b" and more"
                if end == "finish":
                    first.sock.close()
                else:
                    first.reset()
                await heard(second, s)
                assert await second.hear(9) == b" and more"
                await goes_on(visitor, second)
            assert s.view.ways.direct.unanswered == 1

    run(body())


def test_where_one_spare_is_silent_no_older_one_is_tried(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            old, forgotten = await s.fresh(), await s.fresh()
            deafen(forgotten.sock)
            async with s.visiting() as visitor:
                await until(lambda: s.spares.total == 1)
                young = await s.fresh()
                await heard(young, s)
                await old.ended()
                await goes_on(visitor, young)
            assert (s.spares.died, s.view.ways.direct.unanswered) == (1, 1)

    run(body())


def test_a_visitor_is_reopened_three_times_at_most_of_which_one_on_a_spare(
    tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            spares = [await s.fresh() for _ in range(3)]
            async with s.visiting() as visitor:
                for spare in (spares[2], spares[1]):
                    await heard(spare, s)
                    spare.reset()
                call = await s.client.take()  # the third attempt is a stream
                assert await call.hear(len(s.hello)) == s.hello
                await call.stream.send(b"back")
                assert await visitor.hear(4) == b"back"
            assert s.spares.total == 1

    run(body())


def test_after_an_answer_a_lost_spare_is_a_cut(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            await s.fresh()
            spare = await s.fresh()
            async with s.visiting() as visitor:
                await heard(spare, s)
                await goes_on(visitor, spare)
                spare.reset()
                with pytest.raises(Cut):
                    await visitor.hear_all()
            assert s.spares.total == 1

    run(body())


# -- what ends them


def test_a_revoked_client_loses_its_spares_and_its_running_visitors(
    tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        settings = settings_for(tmp_path, suffixes=LISTED, clients=granted(KEY))
        async with scene(settings) as s:
            idle, running = await s.fresh(), await s.fresh()
            async with s.visiting() as visitor:
                await heard(running, s)
                await goes_on(visitor, running)
                revoked = granted(KEY, enabled=False)
                await s.stage.relay.reload(replace(settings, clients=revoked))
                with pytest.raises(Cut):
                    await visitor.hear_all()
                await idle.ended()
                with pytest.raises(Cut):
                    await running.hear(1)
            await (await s.stock.open()).ended()
            await s.refused("unknown session")
            assert await s.client.lost() is Code.REVOKED

    run(body())


def test_running_visitors_go_on_while_any_link_of_their_session_lives(
    tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as s:
            spare = await s.fresh()
            async with s.visiting() as visitor:
                await heard(spare, s)
                await goes_on(visitor, spare)
                other = await s.stage.register("quic", KEY, instance=s.client.instance)
                s.client.connection.close()
                await until(lambda: len(s.view.registry.links) == 1)
                await goes_on(visitor, spare)
                other.connection.close()
                with pytest.raises(Cut):
                    await visitor.hear_all()

    run(body())


def test_a_visitor_whom_nobody_has_answered_moves_to_the_successor(
    tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path)) as old:
            stuck = await old.fresh()
            async with old.visiting() as visitor:
                await heard(stuck, old)
                async with serving(old.stage) as new:
                    call = await new.client.take()
                    assert await call.hear(len(old.hello)) == old.hello
                    await call.stream.send(b"back")
                    assert await visitor.hear(4) == b"back"

    run(body())


def test_a_draining_relay_lets_direct_visitors_finish(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path, drain_timeout=5.0)) as s:
            spare = await s.fresh()
            async with s.visiting() as visitor:
                await heard(spare, s)
                await goes_on(visitor, spare)
                s.stage.stop.set()
                await goes_on(visitor, spare)
                visitor.finish()
                with pytest.raises(Cut):
                    await spare.hear(1)
                await spare.say(b"last")
                spare.sock.close()
                assert await visitor.hear_all() == b"last"
            await s.stage.over.wait()

    run(body())


def test_at_the_end_of_the_drain_direct_visitors_are_cut(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with scene(settings_for(tmp_path, drain_timeout=0.2)) as s:
            spare = await s.fresh()
            async with s.visiting() as visitor:
                await heard(spare, s)
                await goes_on(visitor, spare)
                s.stage.stop.set()
                with pytest.raises(Cut):
                    await visitor.hear_all()
            await s.stage.over.wait()

    run(body())


# -- limits


def test_streams_of_a_client_count_direct_visitors_too(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        clients = granted(KEY, limits=GrantLimits(streams=1))
        async with scene(settings_for(tmp_path, suffixes=LISTED, clients=clients)) as s:
            await s.fresh()
            spare = await s.fresh()
            async with s.visiting() as visitor:
                await heard(spare, s)
                await goes_on(visitor, spare)
                async with s.visiting() as second:
                    await second.ended()  # no place within open_stream
                assert s.spares.total == 1

    run(body())


@pytest.mark.parametrize("key", ["linger", "idle_visitor"])
def test_silence_ends_direct_visitors_too(tmp_path: Path, run: Run, key: str) -> None:
    async def body() -> None:
        timeouts = replace(PATIENT, **{key: 0.1})
        async with scene(settings_for(tmp_path, timeouts=timeouts)) as s:
            spare = await s.fresh()
            async with s.visiting() as visitor:
                await heard(spare, s)
                await goes_on(visitor, spare)
                if key == "linger":
                    visitor.finish()
                with pytest.raises(Cut):
                    await visitor.hear_all()

    run(body())
