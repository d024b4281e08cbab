"""Splicing two streams: each side is told what the other does."""

import asyncio
import gc
from collections.abc import Awaitable
from contextlib import suppress

import pytest

from tunnel.errors import Code, StreamReset
from tunnel.stream import Prefixed, Splicing, Stream, Tally, splice
from tunnel.transport.memory import memory_pair


async def two_pairs() -> tuple[Stream, Stream, Stream, Stream]:
    """Return visitor and relay's near end of it, far end and service: near and far get spliced."""
    relay, client = memory_pair()
    visitor, far = await relay.open_stream(), await relay.open_stream()
    near, service = await client.accept_stream(), await client.accept_stream()
    return visitor, near, far, service


async def receive_all(stream: Stream) -> bytes:
    received = b""
    while data := await stream.receive():
        received += data
    return received


def test_bytes_and_ends_go_both_ways() -> None:
    async def body() -> None:
        visitor, near, far, service = await two_pairs()
        async with asyncio.TaskGroup() as group:
            group.create_task(splice(near, far))
            await visitor.send(b"request")
            await visitor.finish()
            assert await receive_all(service) == b"request"
            await service.send(b"answer")
            await service.finish()
            assert await receive_all(visitor) == b"answer"

    asyncio.run(body(), debug=True)


def test_what_was_passed_on_is_counted_in_the_part_and_in_the_whole() -> None:
    async def body() -> None:
        visitor, near, far, service = await two_pairs()
        whole = Tally()
        whole.count_back(1)
        part = Tally(whole)
        async with asyncio.TaskGroup() as group:
            group.create_task(splice(near, far, tally=part))
            await visitor.send(b"request")
            await service.send(b"answer!!!")
            for end in (visitor, service):
                await end.finish()
            for end in (visitor, service):
                await receive_all(end)
        assert (part.forth, part.back) == (7, 9)
        assert (whole.forth, whole.back) == (7, 10)

    asyncio.run(body(), debug=True)


def test_what_was_read_before_leaves_at_once() -> None:
    async def body() -> None:
        _, near, far, service = await two_pairs()
        async with asyncio.TaskGroup() as group:
            splicing = group.create_task(reset_of(splice(Prefixed(near, b"hello"), far)))
            receiving = group.create_task(service.receive())
            await asyncio.sleep(0)  # one turn, in which both have begun
            assert receiving.done()
            assert receiving.result() == b"hello"
            near.abort()
            await splicing

    asyncio.run(body(), debug=True)


@pytest.mark.parametrize("cutter", [0, 3])
def test_a_cut_of_one_side_cuts_the_other_with_its_code(cutter: int) -> None:
    async def body() -> None:
        ends = await two_pairs()
        async with asyncio.TaskGroup() as group:
            splicing = group.create_task(reset_of(splice(ends[1], ends[2])))
            ends[cutter].abort(Code.TARGET_DOWN)
            assert await reset_of(ends[3 - cutter].receive()) is Code.TARGET_DOWN
            assert await splicing is Code.TARGET_DOWN

    asyncio.run(body(), debug=True)


def test_a_cut_splice_leaves_nothing_to_the_garbage_collector() -> None:
    async def body() -> int:
        visitor, near, far, _ = await two_pairs()
        visitor.abort(Code.TARGET_DOWN)
        gc.collect()
        with suppress(StreamReset):
            await splice(near, far)
        return gc.collect()

    assert asyncio.run(body()) == 0


def test_a_cut_after_one_way_has_ended_is_a_cut() -> None:
    async def body() -> None:
        visitor, near, far, service = await two_pairs()
        async with asyncio.TaskGroup() as group:
            splicing = group.create_task(reset_of(splice(near, far)))
            await visitor.finish()
            assert await service.receive() == b""
            service.abort(Code.INTERNAL)
            assert await splicing is Code.INTERNAL
        assert await reset_of(visitor.receive()) is Code.INTERNAL

    asyncio.run(body(), debug=True)


def test_a_cancelled_splice_cuts_both_sides() -> None:
    async def body() -> None:
        visitor, near, far, service = await two_pairs()
        async with asyncio.TaskGroup() as group:
            splicing = group.create_task(splice(near, far))
            await visitor.send(b"x")
            assert await service.receive() == b"x"
            splicing.cancel()
        assert splicing.cancelled()
        assert await reset_of(visitor.receive()) is Code.ABORTED
        assert await reset_of(service.receive()) is Code.ABORTED

    asyncio.run(body(), debug=True)


def test_a_silent_side_is_cut_once_the_other_has_ended() -> None:
    async def body() -> None:
        visitor, near, far, service = await two_pairs()
        async with asyncio.TaskGroup() as group:
            splicing = group.create_task(reset_of(splice(near, far, linger_timeout=0.01)))
            await visitor.finish()
            assert await splicing is Code.TIMEOUT
        assert await reset_of(service.send(b"late")) is Code.TIMEOUT

    asyncio.run(body(), debug=True)


def test_each_byte_of_the_other_side_starts_the_linger_anew() -> None:
    async def body() -> None:
        visitor, near, far, service = await two_pairs()
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            splicing = group.create_task(splice(near, far, linger_timeout=0.1))
            await visitor.finish()
            assert await service.receive() == b""
            began = loop.time()
            while loop.time() < began + 0.3:
                await service.send(b"still here")
                assert await visitor.receive() == b"still here"
            assert not splicing.done()
            await service.finish()
            assert await visitor.receive() == b""

    asyncio.run(body(), debug=True)


def test_nobody_is_hurried_before_one_side_has_ended() -> None:
    async def body() -> None:
        visitor, near, far, service = await two_pairs()
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            splicing = group.create_task(splice(near, far, linger_timeout=0.01))
            later = loop.create_future()
            loop.call_later(0.05, later.set_result, None)
            await later
            assert not splicing.done()
            await visitor.finish()
            await service.finish()

    asyncio.run(body(), debug=True)


def test_places_are_free_after_a_clean_end() -> None:
    async def body() -> None:
        visitor, near, far, service = await two_pairs()
        async with asyncio.TaskGroup() as group:
            group.create_task(splice(near, far))
            await visitor.finish()
            await service.finish()
        assert await visitor.receive() == b""
        assert await service.receive() == b""
        for spliced in (near, far):
            assert await reset_of(spliced.receive()) is Code.ABORTED

    asyncio.run(body(), debug=True)


def test_a_pair_that_can_be_joined_below_is_not_copied() -> None:
    async def body() -> None:
        _, near, far, _ = await two_pairs()
        joined = asyncio.get_running_loop().create_future()
        joined.set_result(None)
        await splice(Joinable(near, joined), far)
        assert await reset_of(far.receive()) is Code.ABORTED

    asyncio.run(body(), debug=True)


class Joinable:
    """A stream that claims to be joined below Python."""

    def __init__(self, stream: Stream, joined: Awaitable[None]) -> None:
        self._joined = joined
        self.receive, self.send = stream.receive, stream.send
        self.finish, self.abort = stream.finish, stream.abort

    def join(self, far: Stream, terms: Splicing) -> Awaitable[None] | None:
        del far, terms
        return self._joined


async def reset_of(attempt: Awaitable[object]) -> Code:
    """Return the code with which the attempt was cut."""
    with pytest.raises(StreamReset) as reset:
        await attempt
    return reset.value.code


def test_what_was_read_before_is_received_before_the_rest() -> None:
    async def body() -> None:
        visitor, near, far, _ = await two_pairs()
        prefixed = Prefixed(near, b"first")
        await visitor.send(b"second")
        # Below Python nobody would send it on.
        assert prefixed.join(far, Splicing(None, Tally())) is None
        assert await prefixed.receive() == b"first"
        assert await prefixed.receive() == b"second"

    asyncio.run(body(), debug=True)


def test_nothing_read_before_does_not_look_like_an_end() -> None:
    async def body() -> None:
        visitor, near, _, _ = await two_pairs()
        await visitor.send(b"all")
        assert await Prefixed(near, b"").receive() == b"all"

    asyncio.run(body(), debug=True)
