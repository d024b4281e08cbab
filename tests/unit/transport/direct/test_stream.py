"""A socket of the poller as a stream: what it has said is read, whenever it said it."""

import asyncio

import pytest

from tests.unit.transport.direct.pairs import connected
from tests.unit.transport.loops import on_both_loops, run_on
from tunnel.transport.direct.poller import ENDING, poller
from tunnel.transport.direct.stream import MESSAGE_BYTES, DirectStream


@on_both_loops
@pytest.mark.parametrize("size", [0, 1, MESSAGE_BYTES, 20 * MESSAGE_BYTES])
def test_an_end_that_came_with_the_last_bytes_is_told(loop: str, size: int) -> None:
    async def body() -> None:
        near, far = connected()
        far.send(bytes(size))
        far.close()
        stream = DirectStream(near)
        received = b""
        while data := await stream.receive():
            received += data
        assert received == bytes(size)
        assert await stream.receive() == b""
        stream.abort()

    run_on(loop, body())


@on_both_loops
def test_messages_are_received_one_after_the_other(loop: str) -> None:
    async def body() -> None:
        near, far = connected()
        stream = DirectStream(near)
        for message in (b"one", b"two", bytes(MESSAGE_BYTES), b"three"):
            far.send(message)
            assert await stream.receive() == message
        far.close()
        assert await stream.receive() == b""
        stream.abort()

    run_on(loop, body())


@on_both_loops
def test_what_came_while_somebody_else_watched_is_received(loop: str) -> None:
    async def body() -> None:
        near, far = connected()
        seen = asyncio.Event()
        poller().watch(near, lambda _: seen.set())
        far.send(b"early")
        await seen.wait()
        stream = DirectStream(near)
        assert await stream.receive() == b"early"
        stream.abort()
        far.close()

    run_on(loop, body())


@on_both_loops
@pytest.mark.parametrize("left", [0, 1, MESSAGE_BYTES])
def test_an_end_that_somebody_else_was_told_of_is_told_again(loop: str, left: int) -> None:
    async def body() -> None:
        near, far = connected()
        ending = asyncio.Event()

        def wake(events: int) -> None:
            if events & ENDING:
                ending.set()

        poller().watch(near, wake)
        far.send(b"first" + bytes(left))
        far.close()
        await ending.wait()
        stream = DirectStream(near, near.recv(5))
        received = b""
        while data := await stream.receive():
            received += data
        assert received == b"first" + bytes(left)
        stream.abort()

    run_on(loop, body())
