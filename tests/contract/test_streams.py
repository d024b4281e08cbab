"""What every stream promises, whatever carries it (the contract on tunnel.stream.Stream)."""

import asyncio
import re

import pytest

from tests.contract.conftest import Link, Run
from tests.contract.traffic import (
    KIB,
    MIB,
    Flood,
    exchange,
    random_chunks,
    receive_all,
    receive_exactly,
    send_all,
    turns,
)
from tunnel.errors import Code, LocalProtocolError, StreamReset
from tunnel.stream import Stream

CODES = [code for code in Code if code is not Code.OK]


def both_ways(pair: tuple[Stream, Stream]) -> tuple[tuple[Stream, Stream], tuple[Stream, Stream]]:
    near, far = pair
    return (near, far), (far, near)


def test_bytes_arrive_in_order_both_ways_at_once(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, far = await open_both()
            there, back = random_chunks(MIB, seed=1), random_chunks(MIB, seed=2)
            async with asyncio.TaskGroup() as group:
                group.create_task(send_all(near, there))
                group.create_task(send_all(far, back))
                arrived = group.create_task(receive_all(far))
                returned = group.create_task(receive_all(near))
            assert arrived.result() == b"".join(there)
            assert returned.result() == b"".join(back)

    run(body())


def test_a_large_block_is_sent_whole(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, far = await open_both()
            block = b"".join(random_chunks(2 * MIB, seed=3))
            async with asyncio.TaskGroup() as group:
                group.create_task(send_all(near, [block]))
                arrived = group.create_task(receive_all(far))
            assert arrived.result() == block

    run(body())


def test_at_most_256_kib_are_returned_at_once(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, far = await open_both()
            async with asyncio.TaskGroup() as group:
                group.create_task(send_all(near, [bytes(MIB)]))
                sizes = []
                while data := await far.receive():
                    sizes.append(len(data))
                    await turns(5)
            assert sum(sizes) == MIB
            assert max(sizes) <= 256 * KIB

    run(body())


def test_what_was_handed_over_may_change_afterwards(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, far = await open_both()
            block = bytearray(b"a" * 1000)
            await near.send(block)
            await near.send(memoryview(block)[:10])
            block[:] = b"b" * 1000
            assert await receive_exactly(far, 1010) == b"a" * 1010

    run(body())


def test_sending_nothing_is_not_an_end(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            for near, far in both_ways(await open_both()):
                await near.send(b"")
                await near.send(b"x")
                assert await far.receive() == b"x"

    run(body())


def test_the_other_half_lives_on_after_a_finish(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            for way in (0, 1):
                near, far = both_ways(await open_both())[way]
                await send_all(near, [b"request"])
                assert await receive_all(far) == b"request"
                await send_all(far, [b"answer", bytes(300 * KIB)][:1])
                assert await receive_all(near) == b"answer"

    run(body())


def test_the_end_is_told_as_often_as_it_is_asked_for(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, far = await open_both()
            await near.finish()
            assert [await far.receive(), await far.receive()] == [b"", b""]

    run(body())


def test_a_second_finish_does_nothing(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, far = await open_both()
            await near.finish()
            await near.finish()
            assert await far.receive() == b""

    run(body())


def test_sending_after_finish_is_our_own_fault(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, _ = await open_both()
            await near.finish()
            with pytest.raises(LocalProtocolError):
                await near.send(b"x")

    run(body())


def test_an_abort_after_both_ends_takes_nothing_away(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, far = await open_both()
            await far.finish()
            assert await near.receive() == b""
            await send_all(near, [b"x" * 100 * KIB])
            near.abort()
            assert await receive_all(far) == b"x" * 100 * KIB

    run(body())


def test_each_code_of_an_abort_arrives(
    run: Run[None], link: Link, request: pytest.FixtureRequest
) -> None:
    async def body() -> None:
        async with link() as open_both:
            for code in CODES:
                for way in (0, 1):
                    near, far = both_ways(await open_both())[way]
                    near.abort(code)
                    with pytest.raises(StreamReset) as cut:
                        await far.receive()
                    far.abort()
                    carries_codes = not re.search("tcp|direct", request.node.name)
                    assert cut.value.code is (code if carries_codes else Code.ABORTED)

    run(body())


def test_an_abort_never_looks_like_an_end(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, far = await open_both()
            await near.send(b"x" * 50 * KIB)
            near.abort()
            with pytest.raises(StreamReset):
                await receive_all(far)

    run(body())


def test_an_abort_reaches_a_peer_that_waits_to_receive(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            for way in (0, 1):
                near, far = both_ways(await open_both())[way]
                async with asyncio.TaskGroup() as group:
                    group.create_task(expect_cut(far.receive()))
                    await turns(3)
                    near.abort()

    run(body())


def test_an_abort_reaches_a_peer_that_waits_to_send(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            for way in (0, 1):
                near, far = both_ways(await open_both())[way]
                async with asyncio.TaskGroup() as group:
                    group.create_task(expect_cut(Flood(far).run(64 * MIB)))
                    await near.receive()
                    near.abort()

    run(body())


def test_an_abort_wakes_our_own_tasks(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, far = await open_both()
            async with asyncio.TaskGroup() as group:
                group.create_task(expect_cut(near.receive()))
                group.create_task(expect_cut(Flood(near).run(64 * MIB)))
                await far.receive()
                near.abort()

    run(body())


def test_an_abort_while_finishing_is_a_cut(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, far = await open_both()
            async with asyncio.TaskGroup() as group:
                group.create_task(expect_cut(send_all(near, [bytes(16 * MIB)])))
                await far.receive()
                near.abort()
            with pytest.raises(StreamReset):
                await receive_all(far)

    run(body())


def test_nothing_works_after_an_abort(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, _ = await open_both()
            near.abort()
            near.abort()
            for attempt in (near.receive(), near.send(b"x"), near.finish()):
                await expect_cut(attempt)

    run(body())


def test_a_cancelled_receive_loses_nothing(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, far = await open_both()
            received = bytearray()

            async def receive_once() -> None:
                received.extend(await far.receive())

            async with asyncio.TaskGroup() as group:
                for patience in range(40):
                    receiving = group.create_task(receive_once())
                    await turns(1)
                    await near.send(bytes([patience]))
                    await turns(patience)
                    receiving.cancel()
                    await turns(2)
            while len(received) < 40:
                await receive_once()
            assert received == bytes(range(40))

    run(body())


def test_an_unread_stream_stops_its_sender_until_it_is_read(run: Run[None], link: Link) -> None:
    async def body() -> None:
        async with link() as open_both:
            near, far = await open_both()
            neighbours = await open_both()
            flood = Flood(near)
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(flood.run(24 * MIB))
                await exchange(*neighbours, rounds=50)
                stopped_at = flood.sent
                await exchange(*neighbours, rounds=50)
                assert not sending.done()
                assert stopped_at < 16 * MIB
                assert len(await receive_all(far)) == 24 * MIB

    run(body())


async def expect_cut(attempt: object) -> None:
    with pytest.raises(StreamReset):
        await attempt  # type: ignore[misc]  # any awaitable
