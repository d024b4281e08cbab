"""What every connection promises, whatever carries it (tunnel.stream.Connection)."""

import asyncio
import gc
from dataclasses import replace

import pytest

from tests.contract.conftest import Pair, Run
from tests.contract.traffic import (
    KIB,
    MIB,
    Flood,
    exchange,
    receive_all,
    receive_exactly,
    send_all,
    turns,
)
from tunnel.errors import Code, ConnectionLost, StreamReset
from tunnel.settings.values import FlowSettings
from tunnel.stream import Connection, Stream
from tunnel.transport.options import TransportOptions

OPTIONS = TransportOptions()
SMALL = TransportOptions(flow=FlowSettings(stream_window=64 * KIB, stream_window_max=64 * KIB))


async def open_both(relay: Connection, client: Connection) -> tuple[Stream, Stream]:
    """Return both ends of the relay's next stream, after a byte has shown it to the client."""
    near = await relay.open_stream()
    await near.send(b"#")
    far = await client.accept_stream()
    assert await far.receive() == b"#"
    return near, far


def test_both_ends_name_the_same_handshake(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair() as (relay, client):
            assert relay.binding == client.binding
            assert len(relay.binding.leaf_hash) == 32

    run(body())


def test_streams_arrive_in_the_order_in_which_they_were_opened(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair() as (relay, client):
            for number in range(20):
                await (await relay.open_stream()).send(bytes([number]))
            arrived = [await (await client.accept_stream()).receive() for _ in range(20)]
            assert arrived == [bytes([number]) for number in range(20)]

    run(body())


def test_hearing_from_the_peer_is_noted(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair() as (relay, client):
            loop = asyncio.get_running_loop()
            before = loop.time()
            await open_both(relay, client)
            assert before <= client.last_heard <= loop.time()

    run(body())


def test_a_neighbour_of_an_unread_stream_keeps_going(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair() as (relay, client):
            stalled, _ = await open_both(relay, client)
            near, far = await open_both(relay, client)
            async with asyncio.TaskGroup() as group:
                stalling = group.create_task(Flood(stalled).run(16 * MIB))
                group.create_task(send_all(near, [bytes(64 * KIB)] * 64))
                assert len(await receive_all(far)) == 4 * MIB
                assert not stalling.done()
                stalling.cancel()

    run(body())


@pytest.mark.parametrize("reads", ["relay", "client"])
def test_64_stalled_streams_leave_control_alone(run: Run[None], pair: Pair, reads: str) -> None:
    async def body() -> None:
        async with pair() as (relay, client):
            control = await open_both(relay, client)
            pairs = [await open_both(relay, client) for _ in range(64)]
            floods = [Flood(near if reads == "client" else far) for near, far in pairs]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(flood.run(16 * MIB)) for flood in floods]
                await exchange(*control, rounds=20)
                assert not any(task.done() for task in tasks)
                for task in tasks:
                    task.cancel()

    run(body())


def test_a_stalled_stream_holds_a_window_and_little_more(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair(SMALL, SMALL) as (relay, client):
            control = await open_both(relay, client)
            near, far = await open_both(relay, client)
            flood = Flood(near)
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(flood.run(2 * MIB))
                await exchange(*control, rounds=50)
                assert 64 * KIB <= flood.sent <= (64 + 256) * KIB
                assert not sending.done()
                assert len(await receive_all(far)) == 2 * MIB

    run(body())


def test_opening_waits_at_the_limit_for_a_stream_to_end(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair(replace(OPTIONS, max_streams=2)) as (relay, client):
            control = await open_both(relay, client)
            first, second = [await open_both(relay, client) for _ in range(2)]
            async with asyncio.TaskGroup() as group:
                opening = group.create_task(open_both(relay, client))
                await exchange(*control, rounds=10)
                assert not opening.done()
                await end_cleanly(first)
                third = await opening
                cut = group.create_task(open_both(relay, client))
                await exchange(*control, rounds=10)
                assert not cut.done()
                second[0].abort()
                second[1].abort()
            await exchange(*third)

    run(body())


def test_a_cancelled_opening_takes_no_place(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair(replace(OPTIONS, max_streams=1)) as (relay, client):
            await open_both(relay, client)
            for patience in range(10):
                only = await open_both(relay, client)
                async with asyncio.TaskGroup() as group:
                    waiting = group.create_task(relay.open_stream())
                    await turns(2)
                    only[0].abort()
                    only[1].abort()
                    await turns(patience % 3)
                    waiting.cancel()
                if not waiting.cancelled():
                    waiting.result().abort()
                    (await client.accept_stream()).abort()

    run(body())


def test_a_cancelled_accept_loses_no_stream(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair() as (relay, client):
            accepted: list[Stream] = []

            async def accept_one() -> None:
                accepted.append(await client.accept_stream())

            async with asyncio.TaskGroup() as group:
                for patience in range(20):
                    accepting = group.create_task(accept_one())
                    await turns(1)
                    await (await relay.open_stream()).send(bytes([patience]))
                    await turns(patience)
                    accepting.cancel()
                    await turns(2)
            while len(accepted) < 20:
                await accept_one()
            assert [await stream.receive() for stream in accepted] == [
                bytes([number]) for number in range(20)
            ]

    run(body())


@pytest.mark.parametrize("closer", ["relay", "client"])
def test_the_other_end_learns_why_a_connection_was_closed(
    run: Run[None], pair: Pair, closer: str
) -> None:
    async def body() -> None:
        async with pair() as (relay, client):
            near, far = (relay, client) if closer == "relay" else (client, relay)
            near.close(Code.SUPERSEDED, "a newer one has come")
            lost = await far.wait_closed()
            assert (lost.code, str(lost)) == (Code.SUPERSEDED, "a newer one has come")
            assert (await near.wait_closed()).code is Code.SUPERSEDED

    run(body())


def test_closing_cuts_every_stream_at_both_ends(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair() as (relay, client):
            near, far = await open_both(relay, client)
            async with asyncio.TaskGroup() as group:
                for stream in (near, far):
                    group.create_task(expect(StreamReset, stream.receive()))
                await turns(2)
                relay.close(Code.DRAINING)
            await client.wait_closed()
            for attempt in (near.receive(), near.send(b"x"), far.send(b"x"), far.finish()):
                with pytest.raises(StreamReset) as cut:
                    await attempt
                assert cut.value.code is Code.ABORTED  # the connection knows why

    run(body())


def test_closing_wakes_a_blocked_sender(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair() as (relay, client):
            near, _ = await open_both(relay, client)
            control = await open_both(relay, client)
            async with asyncio.TaskGroup() as group:
                group.create_task(expect(StreamReset, Flood(near).run(64 * MIB)))
                await exchange(*control, rounds=10)
                client.close()

    run(body())


def test_a_lost_connection_opens_and_accepts_nothing(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair(replace(OPTIONS, max_streams=0)) as (relay, client):
            await open_both(relay, client)
            async with asyncio.TaskGroup() as group:
                group.create_task(expect(ConnectionLost, relay.open_stream()))
                group.create_task(expect(ConnectionLost, client.accept_stream()))
                await turns(2)
                client.close()
            await relay.wait_closed()
            assert relay.is_closed
            await expect(ConnectionLost, relay.open_stream())
            await expect(ConnectionLost, client.accept_stream())

    run(body())


def test_a_second_close_changes_nothing(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair() as (relay, client):
            relay.close(Code.DRAINING)
            relay.close(Code.INTERNAL)
            assert (await client.wait_closed()).code is Code.DRAINING
            assert (await relay.wait_closed()).code is Code.DRAINING

    run(body())


def test_a_cancelled_wait_for_the_end_disturbs_nobody(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair() as (relay, client):
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(client.wait_closed())
                await turns(2)
                waiting.cancel()
            relay.close(Code.BUSY)
            assert (await client.wait_closed()).code is Code.BUSY

    run(body())


def test_too_much_parked_cuts_the_stream_that_stalled_longest(run: Run[None], pair: Pair) -> None:
    flow = FlowSettings(
        stream_window=64 * KIB, stream_window_max=64 * KIB, parked_max=3 * 64 * KIB + 32 * KIB
    )

    async def body() -> None:
        async with pair(SMALL, TransportOptions(flow=flow)) as (relay, client):
            control = await open_both(relay, client)
            pairs = [await open_both(relay, client) for _ in range(4)]
            async with asyncio.TaskGroup() as group:
                for near, _ in pairs:
                    group.create_task(send_or_cut(near, 64 * KIB))
                    await exchange(*control, rounds=10)
            with pytest.raises(StreamReset) as cut:
                await pairs[0][0].receive()
            assert cut.value.code is Code.BUSY
            for near, far in pairs[1:]:
                assert len(await receive_exactly(far, 64 * KIB)) == 64 * KIB
                await send_all(far, [b"alive"])
                assert await receive_all(near) == b"alive"

    run(body())


def test_the_control_stream_is_never_cut_for_what_is_parked(run: Run[None], pair: Pair) -> None:
    flow = FlowSettings(stream_window=64 * KIB, stream_window_max=64 * KIB, parked_max=96 * KIB)

    async def body() -> None:
        async with pair(SMALL, TransportOptions(flow=flow)) as (relay, client):
            control = await open_both(relay, client)
            await control[0].send(bytes(KIB))  # nobody reads it, and it has waited longest
            (first, _), (second, _) = [await open_both(relay, client) for _ in range(2)]
            await send_or_cut(first, 60 * KIB)
            await send_or_cut(second, 60 * KIB)
            with pytest.raises(StreamReset) as cut:
                await first.receive()
            assert cut.value.code is Code.BUSY
            assert len(await receive_exactly(control[1], KIB)) == KIB

    run(body())


def test_cut_streams_give_the_connections_credit_back(run: Run[None], pair: Pair) -> None:
    flow = FlowSettings(64 * KIB, 64 * KIB, connection_window=256 * KIB)

    async def body() -> None:
        async with pair(TransportOptions(flow=flow), TransportOptions(flow=flow)) as (
            relay,
            client,
        ):
            control = await open_both(relay, client)
            for round_number in range(20):
                near, far = await open_both(relay, client)
                source, sink = (near, far) if round_number % 2 else (far, near)
                async with asyncio.TaskGroup() as group:
                    group.create_task(expect(StreamReset, Flood(source).run(64 * MIB)))
                    await sink.receive()
                    sink.abort()
                source.abort()
                await exchange(*control)
            near, far = await open_both(relay, client)
            async with asyncio.TaskGroup() as group:
                group.create_task(send_all(near, [bytes(64 * KIB)] * 16))
                assert len(await receive_all(far)) == MIB

    run(body())


@pytest.mark.timeout(60)  # hundreds of streams in the loop's debug mode
def test_hundreds_of_short_streams_leave_nothing_behind(run: Run[None], pair: Pair) -> None:
    async def body() -> None:
        async with pair(replace(OPTIONS, max_streams=50)) as (relay, client):
            control = await open_both(relay, client)

            async def visit(number: int, near: Stream, far: Stream) -> None:
                if number % 4:
                    await exchange(near, far)
                    await end_cleanly((near, far))
                near.abort()
                far.abort()

            for _ in range(10):  # each round takes every place and gives it back
                pairs = [await open_both(relay, client) for _ in range(50)]
                async with asyncio.TaskGroup() as group:
                    for number, ends in enumerate(pairs):
                        group.create_task(visit(number, *ends))
                del pairs, ends
            await exchange(*control, rounds=5)
            gc.collect()
            kinds = {type(stream) for stream in control}
            assert sum(type(thing) in kinds for thing in gc.get_objects()) == len(control)

    run(body())


async def end_cleanly(streams: tuple[Stream, Stream]) -> None:
    """Finish both halves and free both places."""
    for stream in streams:
        await stream.finish()
    for stream in streams:
        assert await stream.receive() == b""
        stream.abort()


async def send_or_cut(stream: Stream, size: int) -> None:
    """Send, or be cut meanwhile."""
    try:
        await stream.send(bytes(size))
    except StreamReset:
        return


async def expect(error: type[Exception], attempt: object) -> None:
    with pytest.raises(error):
        await attempt  # type: ignore[misc]  # any awaitable
