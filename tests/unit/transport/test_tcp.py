"""Sockets as streams."""

import asyncio
import select
import socket
from contextlib import suppress

import pytest

from tests.unit.transport.loops import on_both_loops, run_on, until
from tunnel.errors import StreamReset
from tunnel.stream import Address
from tunnel.transport import tcp
from tunnel.transport.accepting import TcpListener
from tunnel.transport.resets import reset_watch
from tunnel.transport.tcp import TcpStream, wrap

LOOPBACK = Address("127.0.0.1", 0)


async def joined() -> tuple[TcpStream, socket.socket]:
    """Return a stream and the plain blocking socket at its far end."""
    listener = TcpListener(LOOPBACK)
    plain = socket.create_connection(listener.address)
    stream = await wrap(await listener.accept())
    listener.close()
    return stream, plain


async def read(plain: socket.socket) -> bytes:
    """Read from a blocking socket while the loop goes on."""
    return await asyncio.to_thread(plain.recv, 4096)


@on_both_loops
def test_a_fin_is_an_end_and_an_rst_is_a_cut(loop: str) -> None:
    async def body() -> None:
        ended, plain = await joined()
        plain.shutdown(socket.SHUT_WR)
        assert await ended.receive() == b""
        plain.close()
        ended.abort()

        cut, plain = await joined()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        plain.close()
        with pytest.raises(StreamReset):
            await cut.receive()

    run_on(loop, body())


@on_both_loops
def test_finish_is_a_fin_and_abort_is_an_rst(loop: str) -> None:
    async def body() -> None:
        stream, plain = await joined()
        await stream.send(b"last words")
        await stream.finish()
        assert [await read(plain), await read(plain)] == [b"last words", b""]
        stream.abort()
        plain.close()

        stream, plain = await joined()
        stream.abort()
        with pytest.raises(ConnectionResetError):
            await read(plain)
        plain.close()

    run_on(loop, body())


@on_both_loops
def test_both_ends_done_means_no_rst(loop: str) -> None:
    async def body() -> None:
        stream, plain = await joined()
        plain.shutdown(socket.SHUT_WR)
        assert await stream.receive() == b""
        await stream.send(b"x" * 10_000)
        await stream.finish()
        stream.abort()
        received = b""
        while piece := await read(plain):
            received += piece
        assert len(received) == 10_000
        plain.close()

    run_on(loop, body())


@on_both_loops
def test_a_peer_that_stalls_and_dies_is_noticed(loop: str) -> None:
    async def body() -> None:
        stream, plain = await joined()

        async def send_for_ever() -> None:
            while True:
                await stream.send(bytes(65536))

        async def expect_cut() -> None:
            with pytest.raises(StreamReset):
                await send_for_ever()

        async with asyncio.TaskGroup() as group:
            group.create_task(expect_cut())
            for _ in range(50):
                await asyncio.sleep(0)
            plain.close()  # unread bytes make it an RST

    run_on(loop, body())


@on_both_loops
def test_a_reset_is_noticed_though_nobody_reads(loop: str) -> None:
    async def body() -> None:
        stream, plain = await joined()
        assert not stream._inbox.is_cut
        plain.sendall(b"x")
        await until(lambda: bool(stream._inbox.size))  # reading is paused now
        reset_watch().sweep()
        await stream.send(b"still here")
        plain.close()  # unread bytes make it an RST
        await until(lambda: is_reset(stream))
        reset_watch().sweep()
        with pytest.raises(StreamReset):
            await stream.receive()
        assert not reset_watch()._lost

    run_on(loop, body())


@on_both_loops
def test_a_finish_after_a_write_that_failed_is_no_success(loop: str) -> None:
    async def body() -> None:
        stream, plain = await joined()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        plain.close()
        while not is_reset(stream):
            pass  # the loop gets no turn in which to notice it

        async def say_last_words() -> None:
            await stream.send(b"last words")
            await stream.finish()

        with pytest.raises(StreamReset):
            await say_last_words()

    run_on(loop, body())


@on_both_loops
def test_a_peer_that_has_finished_is_no_reset(loop: str) -> None:
    async def body() -> None:
        stream, plain = await joined()
        plain.sendall(b"x")
        await until(lambda: bool(stream._inbox.size))
        plain.shutdown(socket.SHUT_WR)
        await stream.finish()
        assert await read(plain) == b""
        plain.close()
        reset_watch().sweep()
        assert [await stream.receive(), await stream.receive()] == [b"x", b""]
        stream.abort()
        assert not reset_watch()._lost

    run_on(loop, body())


def is_reset(stream: TcpStream) -> bool:
    poll = select.poll()
    poll.register(stream._descriptor, 0)
    return bool(poll.poll(0))


@on_both_loops
def test_streams_hold_no_buffer_of_their_own_and_mix_nothing_up(loop: str) -> None:
    async def body() -> None:
        ends = [await joined() for _ in range(3)]
        for number, (_, plain) in enumerate(ends):
            plain.sendall(b"%d" % number * 1000)
        for number, (stream, _) in enumerate(ends):
            assert await stream.receive() == b"%d" % number * 1000
        assert len({id(stream.get_buffer(0)) for stream, _ in ends}) == 1
        for stream, plain in ends:
            stream.abort()
            plain.close()

    run_on(loop, body())


@on_both_loops
def test_the_far_end_is_named(loop: str) -> None:
    async def body() -> None:
        stream, plain = await joined()
        assert stream.peer == Address(*plain.getsockname())
        assert repr(stream) == f"<TcpStream {stream.peer} open>"
        stream.abort()
        plain.close()

    run_on(loop, body())


def test_a_mapped_address_is_shown_as_what_it_is() -> None:
    assert tcp.address_of(("::ffff:192.0.2.1", 443, 0, 0)) == Address("192.0.2.1", 443)
    assert tcp.address_of(("fe80::1%eth0", 443, 0, 2)) == Address("fe80::1", 443)
    assert tcp.address_of("") == Address("", 0)


@on_both_loops
def test_a_reader_that_stands_still_holds_up_the_sender_soon(loop: str) -> None:
    async def body() -> None:
        stream, plain = await joined()
        sent = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await stream.send(bytes(16 * 1024))
                    sent += 16 * 1024
        stream.abort()
        plain.close()
        assert sent <= 256 * 1024  # what a stream_window is by default

    run_on(loop, body())
