"""Both ends of a connection over loopback: streams, credit, ends and limits."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.unit.transport.loops import until
from tests.unit.transport.quic.places import joined, listening, run
from tunnel.errors import Code, ConnectionLost, LocalProtocolError, StreamReset
from tunnel.settings.values import KIB, MIB, FlowSettings
from tunnel.stream import Stream
from tunnel.transport.options import TransportOptions
from tunnel.transport.quic import connection
from tunnel.transport.quic.configuration import DATAGRAM_BYTES
from tunnel.transport.quic.pacing import DebtPacer
from tunnel.transport.quic.trains import Burst


async def read_all(stream: Stream) -> bytes:
    parts = []
    while data := await stream.receive():
        parts.append(data)
    return b"".join(parts)


def sizes_sent_from_now_on(
    sender: connection.TunnelConnection, monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """Return a list that gets the size of every datagram that a connection sends."""
    endpoint = sender._driver.endpoint
    sizes: list[int] = []
    send = endpoint.send

    def note(bursts: Sequence[Burst]) -> None:
        sizes.extend(len(payload) for payloads, _ in bursts for payload in payloads)
        send(bursts)

    monkeypatch.setattr(endpoint, "send", note)
    return sizes


def test_a_thousand_streams_carry_bytes_at_once() -> None:
    async def main() -> None:
        async def ask(number: int) -> None:
            stream = await relay.open_stream()
            await stream.send(b"%d " % number * 200)
            await stream.finish()
            assert await read_all(stream) == b"%d " % number * 200
            stream.abort()

        async def echo(stream: Stream) -> None:
            await stream.send(await read_all(stream))
            await stream.finish()
            stream.abort()

        async with joined() as (relay, client), asyncio.TaskGroup() as group:
            for number in range(1000):
                group.create_task(ask(number), name="ask")
            for _ in range(1000):
                group.create_task(echo(await client.accept_stream()), name="echo")

    run(main())


def test_the_next_stream_waits_for_a_place() -> None:
    async def main() -> None:
        async with joined(TransportOptions(max_streams=2)) as (relay, client):
            opened = [await relay.open_stream() for _ in range(3)]  # control and two
            async with asyncio.TaskGroup() as group:
                fourth = group.create_task(relay.open_stream(), name="fourth")
                await client.accept_stream()
                assert not fourth.done()
                opened[1].abort()
            assert repr(fourth.result()).startswith("<quic stream 13 in open out open")

    run(main())


def test_whoever_waits_for_a_place_is_told_that_the_connection_died() -> None:
    async def main() -> None:
        async with joined(TransportOptions(max_streams=0)) as (relay, client):
            await relay.open_stream()
            client.close(Code.BUSY, "enough")
            with pytest.raises(ConnectionLost, match="enough"):
                await relay.open_stream()

    run(main())


def test_the_client_opens_no_streams() -> None:
    async def main() -> None:
        async with joined() as (_, client):
            with pytest.raises(LocalProtocolError, match="only the relay"):
                await client.open_stream()

    run(main())


@pytest.mark.parametrize("role", [0, 1])
def test_a_close_tells_code_and_message(role: int) -> None:
    async def main() -> None:
        async with joined() as ends:
            ends[role].close(Code.SUPERSEDED, "a newer one is here")
            for end in ends:
                lost = await end.wait_closed()
                assert (lost.code, str(lost)) == (Code.SUPERSEDED, "a newer one is here")

    run(main())


def test_what_was_sent_before_a_close_leaves_before_it() -> None:
    async def main() -> None:
        async with joined() as (relay, client):
            near, _ = await relay.open_stream(), await client.accept_stream()
            heard = client.engine.decrypted
            await near.send(b"last words")
            relay.close(Code.OK)
            await client.wait_closed()
            assert client.engine.decrypted - heard >= 2  # the bytes, then the close

    run(main())


def test_after_a_close_everything_raises() -> None:
    async def main() -> None:
        async with joined() as (relay, client):
            stream = await relay.open_stream()
            relay.close(Code.OK)
            assert relay.is_closed
            for call in (stream.receive(), stream.send(b"x"), stream.finish()):
                with pytest.raises(StreamReset):
                    await call
            await client.wait_closed()
            with pytest.raises(ConnectionLost):
                await client.accept_stream()

    run(main())


@pytest.mark.parametrize("role", [0, 1])
def test_an_abort_reaches_reader_and_writer_of_the_far_end(role: int) -> None:
    async def main() -> None:
        async with joined() as (relay, client):
            streams = (await relay.open_stream(), await client.accept_stream())
            streams[role].abort(Code.TARGET_DOWN)
            for call in (streams[1 - role].receive(), _send_until_cut(streams[1 - role])):
                with pytest.raises(StreamReset) as reset:
                    await call
                assert reset.value.code is Code.TARGET_DOWN

    run(main())


async def _send_until_cut(stream: Stream) -> None:
    while True:
        await stream.send(b"x" * 65536)


def test_an_abort_after_both_ended_is_invisible() -> None:
    async def main() -> None:
        async with joined() as (relay, client):
            near, far = await relay.open_stream(), await client.accept_stream()
            await near.finish()
            assert await far.receive() == b""
            await far.send(b"x" * 200 * KIB)
            await far.finish()
            far.abort()
            assert await read_all(near) == b"x" * 200 * KIB

    run(main())


def test_both_ends_forget_streams_that_ended() -> None:
    async def main() -> None:
        async with joined() as (relay, client):
            for number in range(20):
                near, far = await relay.open_stream(), await client.accept_stream()
                if number % 2:
                    await near.finish()
                    await far.finish()
                else:
                    far.abort()
            await until(lambda: not relay._streams and not client._streams)

    run(main())


def test_a_writer_waits_until_its_reader_reads() -> None:
    async def main() -> None:
        flow = FlowSettings(stream_window=64 * KIB, stream_window_max=64 * KIB)
        options = TransportOptions(flow=flow)
        async with joined(client_options=options) as (relay, client):
            control = await relay.open_stream(), await client.accept_stream()
            near, far = await relay.open_stream(), await client.accept_stream()
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(near.send(b"x" * MIB), name="write")
                await until(lambda: client.lot.used == 64 * KIB)
                assert not writing.done()
                received = 0
                while not writing.done():
                    received += len(await far.receive())
                await near.finish()
                received += len(await read_all(far))
            assert received == MIB
            del control

    run(main())


def test_a_writer_that_fetches_what_comes_next_leaves_no_short_packet_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DebtPacer, "packets_allowed", lambda *_: None)

    async def main() -> None:
        async with joined() as (relay, client):
            stream, _ = await relay.open_stream(), await relay.open_stream()
            await stream.send(b"first")
            far = await client.accept_stream()
            assert await far.receive() == b"first"
            await until(lambda: relay.engine._max_datagram_size == DATAGRAM_BYTES)
            relay.engine._loss._cc.congestion_window = 1 << 24
            sent = sizes_sent_from_now_on(relay, monkeypatch)
            for _ in range(2):
                await stream.send(bytes(70_000))
                await asyncio.sleep(0)
            assert sum(sent) > 130_000
            assert {size for size in sent if size > 100} == {DATAGRAM_BYTES}

    run(main())


def test_whoever_is_woken_by_what_came_writes_into_the_same_datagram(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with joined() as (relay, client):
            asked = [await relay.open_stream() for _ in range(2)]
            for stream in asked:
                await stream.send(b"first")
            near, far = [await client.accept_stream() for _ in range(2)]
            assert [await near.receive(), await far.receive()] == [b"first"] * 2

            async def hear() -> None:
                await near.receive()
                heard.set()
                await near.send(bytes(400))

            async def follow() -> None:
                await heard.wait()
                await far.send(bytes(400))

            heard = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for each in (hear(), follow()):
                    group.create_task(each, name="answer")
                await asyncio.sleep(0)
                sent = sizes_sent_from_now_on(client, monkeypatch)
                await asked[0].send(b"second")
            for stream in asked:
                assert await stream.receive() == bytes(400)
            assert max(sent) > 800

    run(main())


def test_nothing_waits_for_a_turn_of_the_loop_before_there_are_visitors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "FLUSH_TURNS", 10**9)

    async def main() -> None:
        async with joined() as (relay, client):
            control = await relay.open_stream()
            await control.send(b"challenge")
            assert await (await client.accept_stream()).receive() == b"challenge"

    run(main())


def test_a_window_grows_while_the_reader_keeps_up() -> None:
    async def main() -> None:
        async with joined() as (relay, client):
            near, far = await relay.open_stream(), await client.accept_stream()
            async with asyncio.TaskGroup() as group:
                group.create_task(read_all(far), name="read")
                for _ in range(64):
                    await near.send(b"x" * 64 * KIB)
                await near.finish()
            assert far._window.window > FlowSettings().stream_window  # type: ignore[attr-defined]  # of TunnelStream

    run(main())


def test_the_longest_stalled_stream_is_cut_when_too_much_is_parked() -> None:
    async def main() -> None:
        flow = FlowSettings(parked_max=300 * KIB, connection_window=256 * KIB)
        async with joined(client_options=TransportOptions(flow=flow)) as (relay, client):
            await relay.open_stream()
            await client.accept_stream()
            pairs = [(await relay.open_stream(), await client.accept_stream()) for _ in range(2)]
            for near, _ in pairs:
                await near.send(b"x" * 200 * KIB)
            with pytest.raises(StreamReset) as reset:
                await pairs[0][0].receive()
            assert reset.value.code is Code.BUSY
            assert await pairs[1][1].receive() != b""
            assert client.lot.used <= 300 * KIB

    run(main())


def test_the_time_of_the_last_packet_is_kept() -> None:
    async def main() -> None:
        async with joined() as (relay, client):
            loop = asyncio.get_running_loop()
            started = loop.time()
            near, far = await relay.open_stream(), await client.accept_stream()
            await far.send(b"x")
            await near.receive()
            assert started <= relay.last_heard <= loop.time()

    run(main())


def test_a_cancelled_receive_loses_nothing() -> None:
    async def main() -> None:
        async with joined() as (relay, client):
            near, far = await relay.open_stream(), await client.accept_stream()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await far.receive()
            await near.send(b"still here")
            assert await far.receive() == b"still here"

    run(main())


def test_send_after_finish_is_our_own_fault() -> None:
    async def main() -> None:
        async with joined() as (relay, _):
            stream = await relay.open_stream()
            await stream.finish()
            await stream.finish()
            with pytest.raises(LocalProtocolError, match="after finish"):
                await stream.send(b"x")

    run(main())


def test_an_idle_connection_ends_by_time_out() -> None:
    async def main() -> None:
        async with joined() as (relay, _):
            relay.engine.handle_timer(1e9)
            relay._settle()
            assert (await relay.wait_closed()).code is Code.TIMEOUT

    run(main())


def test_listeners_keep_their_connections_when_they_close() -> None:
    async def main() -> None:
        async with joined() as (relay, client):
            await relay._owner.close()  # type: ignore[attr-defined]  # a listener
            near, far = await relay.open_stream(), await client.accept_stream()
            await near.send(b"still here")
            assert await far.receive() == b"still here"

    run(main())


def test_accepting_from_a_closed_listener_raises() -> None:
    async def main() -> None:
        async with listening() as listener:
            await listener.close()
            with pytest.raises(ConnectionLost, match="listener is closed"):
                await listener.accept()

    run(main())
