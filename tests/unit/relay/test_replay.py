"""A visitor that can begin anew."""

import asyncio
from collections.abc import Awaitable

import pytest

from tests.unit.relay.scenes import in_loop
from tunnel.errors import Code, StreamReset
from tunnel.protocol.hello import MAX_HELLO_BYTES
from tunnel.relay.replay import ReplayableVisitor
from tunnel.stream import Stream
from tunnel.transport.memory import memory_pair


async def pair(hello: bytes = b"hello") -> tuple[ReplayableVisitor, Stream]:
    """Return the relay's end of a visitor, and the visitor."""
    near, far = memory_pair()
    stream = await near.open_stream()
    return ReplayableVisitor(stream, hello, asyncio.get_running_loop().time), (
        await far.accept_stream()
    )


async def expect_cut(attempt: Awaitable[object], code: Code) -> None:
    with pytest.raises(StreamReset) as cut:
        await attempt
    assert cut.value.code is code


@in_loop
async def test_the_hello_comes_first() -> None:
    replay, _ = await pair()
    assert await replay.receive() == b"hello"


@in_loop
async def test_a_second_attempt_hears_all_of_it_again() -> None:
    replay, visitor = await pair()
    await replay.receive()
    await visitor.send(b" world")
    await replay.receive()
    replay.rewind()
    assert await replay.receive() == b"hello world"


@in_loop
async def test_a_second_attempt_hears_the_end_too() -> None:
    replay, visitor = await pair()
    await visitor.finish()
    heard = [await replay.receive(), await replay.receive()]
    replay.rewind()
    assert heard == [await replay.receive(), await replay.receive()] == [b"hello", b""]


@in_loop
async def test_a_failed_attempt_spares_the_visitor() -> None:
    replay, visitor = await pair()
    replay.abort(Code.BUSY)
    await visitor.send(b" is still here")
    replay.rewind()
    assert [await replay.receive(), await replay.receive()] == [b"hello", b" is still here"]


@in_loop
async def test_a_failed_attempt_no_longer_listens_to_the_visitor() -> None:
    replay, visitor = await pair()
    await replay.receive()
    async with asyncio.TaskGroup() as group:
        group.create_task(expect_cut(replay.receive(), Code.BUSY))
        await asyncio.sleep(0)
        replay.abort(Code.BUSY)
        replay.abort(Code.ABORTED)
    await visitor.send(b" again")
    replay.rewind()
    assert [await replay.receive(), await replay.receive()] == [b"hello", b" again"]


@in_loop
async def test_a_failed_attempt_answers_nothing_late() -> None:
    replay, _ = await pair()
    replay.abort(Code.BUSY)
    for late in (replay.send(b"late"), replay.finish(), replay.receive()):
        await expect_cut(late, Code.BUSY)
    assert replay.is_replayable


@in_loop
async def test_a_visitor_that_leaves_ends_the_visit() -> None:
    replay, visitor = await pair()
    await replay.receive()
    visitor.abort()
    await expect_cut(replay.receive(), Code.ABORTED)
    assert not replay.is_replayable


@in_loop
async def test_an_answer_ends_the_chance_to_begin_anew() -> None:
    replay, _ = await pair()
    await replay.send(b"answer")
    assert not replay.is_replayable


@in_loop
async def test_a_visitor_that_says_more_than_is_kept_cannot_begin_anew() -> None:
    replay, visitor = await pair()
    await replay.receive()
    await visitor.send(bytes(MAX_HELLO_BYTES))
    await replay.receive()
    assert not replay.is_replayable
