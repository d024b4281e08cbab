"""Peeking at the beginning of a socket."""

import asyncio
import select
import socket

import pytest

from tests.unit.transport.loops import on_both_loops, run_on
from tunnel.errors import Code, ConnectionLost, RemoteProtocolError
from tunnel.transport.demux import Peeker
from tunnel.transport.tcp import wrap


class Line:
    """A parser of one line, which notes how long the beginnings were that it was shown."""

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.was_shown = asyncio.Event()

    def __call__(self, data: bytes) -> bytes | None:
        self.shown.append(len(data))
        self.was_shown.set()
        line, found, _ = data.partition(b"\n")
        return line if found else None


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return a non-blocking socket to peek at, and the blocking one of the peer, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        plain = socket.create_connection(server.getsockname())
        sock, _ = server.accept()
    sock.setblocking(False)
    return sock, plain


def soon(seconds: float = 5) -> float:
    return asyncio.get_running_loop().time() + seconds


@on_both_loops
def test_what_was_seen_is_still_there(loop: str) -> None:
    async def body() -> None:
        sock, plain = socket_pair()
        plain.sendall(b"first\nsecond")
        assert await Peeker(sock).until(Line(), 100, soon()) == b"first"
        stream = await wrap(sock)
        assert await stream.receive() == b"first\nsecond"
        stream.abort()
        plain.close()

    run_on(loop, body())


@on_both_loops
def test_what_is_consumed_is_gone(loop: str) -> None:
    async def body() -> None:
        sock, plain = socket_pair()
        peeker = Peeker(sock)
        plain.sendall(b"PROXY\nhello\n")
        header = await peeker.until(Line(), 100, soon())
        assert peeker.consume(len(header) + 1) == b"PROXY\n"
        assert await peeker.until(Line(), 100, soon()) == b"hello"
        sock.close()
        plain.close()

    run_on(loop, body())


@on_both_loops
def test_a_partial_beginning_does_not_spin(loop: str) -> None:
    async def body() -> None:
        sock, plain = socket_pair()
        line = Line()
        async with asyncio.TaskGroup() as group:
            peeking = group.create_task(Peeker(sock).until(line, 100, soon()))
            for piece in (b"a", b"bc"):
                line.was_shown.clear()
                plain.sendall(piece)
                await line.was_shown.wait()
                for _ in range(100):
                    await asyncio.sleep(0)
                assert select.select([sock], [], [], 0)[0] == []
            plain.sendall(b"\n")
            assert await peeking == b"abc"
        assert line.shown == [1, 3, 4]
        sock.close()
        plain.close()

    run_on(loop, body())


@on_both_loops
@pytest.mark.parametrize("beginning", [b"", b"not a whole li"])
def test_an_early_end_is_a_lost_connection(loop: str, beginning: bytes) -> None:
    async def body() -> None:
        sock, plain = socket_pair()
        plain.sendall(beginning)
        plain.close()
        with pytest.raises(ConnectionLost, match="closed before"):
            await Peeker(sock).until(Line(), 100, soon())
        sock.close()

    run_on(loop, body())


@on_both_loops
def test_a_reset_is_a_lost_connection(loop: str) -> None:
    async def body() -> None:
        sock, plain = socket_pair()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        plain.close()
        with pytest.raises(ConnectionLost, match="reset"):
            await Peeker(sock).until(Line(), 100, soon())
        sock.close()

    run_on(loop, body())


@on_both_loops
def test_a_peer_that_says_nothing_runs_into_the_deadline(loop: str) -> None:
    async def body() -> None:
        sock, plain = socket_pair()
        with pytest.raises(ConnectionLost) as lost:
            await Peeker(sock).until(Line(), 100, soon(0.02))
        assert lost.value.code is Code.TIMEOUT
        sock.close()
        plain.close()

    run_on(loop, body())


@on_both_loops
def test_a_beginning_without_end_is_refused_at_the_limit(loop: str) -> None:
    async def body() -> None:
        sock, plain = socket_pair()
        plain.sendall(b"x" * 1000)
        with pytest.raises(RemoteProtocolError, match="first 100 bytes"):
            await Peeker(sock).until(Line(), 100, soon())
        sock.close()
        plain.close()

    run_on(loop, body())


@on_both_loops
def test_a_cancelled_peek_leaves_the_socket_to_others(loop: str) -> None:
    async def body() -> None:
        sock, plain = socket_pair()
        line = Line()
        plain.sendall(b"part")
        async with asyncio.TaskGroup() as group:
            peeking = group.create_task(Peeker(sock).until(line, 100, soon()))
            await line.was_shown.wait()
            peeking.cancel()
        stream = await wrap(sock)
        assert await stream.receive() == b"part"
        plain.sendall(b"!")  # a low-water mark left behind would keep this back
        assert await stream.receive() == b"!"
        stream.abort()
        plain.close()

    run_on(loop, body())
