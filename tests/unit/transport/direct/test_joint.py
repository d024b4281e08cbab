"""Two sockets joined in the kernel: every byte, every end, and nothing left behind."""

import asyncio
import os
import random
import socket

import pytest

from tests.unit.transport.direct.pairs import (
    MIB,
    WORDS_BYTES,
    Ends,
    converse,
    cut,
    drink,
    exchange,
    feed,
    hear_until_cut,
    joined,
    send_until,
)
from tests.unit.transport.loops import on_both_loops, run_on, until
from tunnel.errors import Code
from tunnel.stream import TOLD_BYTES
from tunnel.transport.direct.joint import Terms
from tunnel.transport.direct.poller import poller

pytestmark = on_both_loops


@pytest.mark.parametrize("seed", range(12))
def test_every_byte_arrives_whatever_the_sizes_and_pauses(loop: str, seed: int) -> None:
    async def body() -> None:
        async with joined() as ends:
            await exchange(ends, seed)

    run_on(loop, body())


def test_bulk_is_spliced_and_short_messages_are_copied(loop: str) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with joined() as ends, asyncio.TaskGroup() as group:
            sending = group.create_task(feed(ends.near, bytes(8 * MIB), random.Random(0)))
            received, was_bulk = 0, False
            while received < 8 * MIB:
                received += len(await loop.sock_recv(ends.far, MIB))
                was_bulk |= ends.joint.forth.is_bulk
            await sending
            assert was_bulk
            for _ in range(2):  # one wake-up to notice, one to be sure
                await loop.sock_sendall(ends.far, b"pong")
                assert await loop.sock_recv(ends.near, 10) == b"pong"
            assert not ends.joint.back.is_bulk

    run_on(loop, body())


# -- ends and cuts, in every phase


PHASES = (
    "at once",
    "after a message",
    "after many",
    "with the last of many",
    "within bulk",
    "while blocked",
    "after a finish",
    "after the other's finish",
)
# Where an end that finishes leaves both finished, and where it had finished already.
BOTH_FINISHED = {("after a finish", "the reader"), ("after the other's finish", "the sender")}
FINISHED_BEFORE = {("after a finish", "the sender"), ("after the other's finish", "the reader")}
in_every_phase = pytest.mark.parametrize("phase", PHASES)
from_either_side = pytest.mark.parametrize("who", ["near", "far"])


async def reach(phase: str, ends: Ends, who: str = "near") -> bytes:
    """Bring a pair as far as a phase says; return what this end has sent and nobody has read."""
    loop = asyncio.get_running_loop()
    one, other, way = ends.seen_from(who)
    under_way = b""
    if phase == "after a message":
        await loop.sock_sendall(one, b"hello")
        assert await loop.sock_recv(other, 10) == b"hello"
    elif phase == "after many":
        await converse(one, other)
    elif phase == "with the last of many":
        await converse(one, other)
        under_way = b"last"
        one.send(under_way)
    elif phase == "within bulk":
        under_way = await send_until(one, lambda: way.is_bulk)
        more = random.Random(5).randbytes(100_000)
        await loop.sock_sendall(one, more)  # in one go: none of it has been moved yet
        under_way += more
    elif phase == "while blocked":
        under_way = await send_until(one, lambda: way.is_blocked)
    elif phase == "after a finish":
        one.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(other, 10) == b""
    elif phase == "after the other's finish":
        other.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(one, 10) == b""
    return under_way


async def bring(
    phase: str, ends: Ends, who: str, by: str
) -> tuple[socket.socket, socket.socket, dict[socket.socket, bytes]]:
    """Do so; return the end that acts next, the other one, and what each has sent unread."""
    one, other, _ = ends.seen_from(who)
    unread = {one: await reach(phase, ends, who), other: b""}
    return (one, other, unread) if by == "the sender" else (other, one, unread)


@in_every_phase
@pytest.mark.parametrize("by", ["the sender", "the reader"])
@from_either_side
def test_a_finish_ends_one_direction_only_and_loses_nothing(
    loop: str, who: str, by: str, phase: str
) -> None:
    async def body() -> None:
        dice = random.Random(6)
        async with joined() as ends:
            first, second, unread = await bring(phase, ends, who, by)
            first.shutdown(socket.SHUT_WR)
            assert await drink(second, dice) == unread[first]
            if (phase, by) not in BOTH_FINISHED:
                assert not ends.joint.is_over
                more = dice.randbytes(200_000)
                async with asyncio.TaskGroup() as group:
                    group.create_task(feed(second, more, dice))
                    assert await drink(first, dice) == unread[second] + more
            assert await ends.ended is Code.OK

    run_on(loop, body())


@in_every_phase
@pytest.mark.parametrize("by", ["the sender", "the reader"])
@from_either_side
def test_a_reset_cuts_both_and_never_looks_like_an_end(
    loop: str, who: str, by: str, phase: str
) -> None:
    async def body() -> None:
        async with joined() as ends:
            first, second, unread = await bring(phase, ends, who, by)
            cut(first)
            assert await ends.ended is Code.ABORTED
            if (phase, by) in FINISHED_BEFORE:
                with pytest.raises((ConnectionResetError, BrokenPipeError)):
                    await write_until_cut(second)
            else:
                assert unread[first].startswith(await hear_until_cut(second))

    run_on(loop, body())


async def write_until_cut(sock: socket.socket) -> None:
    """Write for ever: whoever has heard an end before hears of nothing else."""
    while True:
        await asyncio.get_running_loop().sock_sendall(sock, b"x")


# -- after many short messages


@pytest.mark.parametrize("seed", range(6))
def test_every_byte_arrives_of_what_follows_many_messages(loop: str, seed: int) -> None:
    async def body() -> None:
        async with joined() as ends:
            await converse(ends.near, ends.far)
            await exchange(ends, seed, counted=WORDS_BYTES)

    run_on(loop, body())


def test_a_conversation_is_not_idle_and_silence_after_it_is(loop: str) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with joined(Terms(idle_timeout=0.6)) as ends:
            await converse(ends.near, ends.far)
            start = loop.time()
            while loop.time() < start + 1.0:
                await loop.sock_sendall(ends.near, b"word")
                assert await loop.sock_recv(ends.far, 10) == b"word"
            assert await ends.ended is Code.TIMEOUT

    run_on(loop, body())


def test_a_conversation_is_counted_while_it_goes_on(loop: str) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with joined() as ends:
            await converse(ends.near, ends.far)
            while not ends.tally.forth:
                await loop.sock_sendall(ends.near, bytes(1000))
                assert await loop.sock_recv(ends.far, MIB)
            assert 2 * TOLD_BYTES > ends.tally.forth >= TOLD_BYTES

    run_on(loop, body())


# -- who stands still


@pytest.mark.parametrize("phase", ["at once", "after many"])
def test_a_reader_that_stands_still_stops_the_sender_and_loses_nothing(
    loop: str, phase: str
) -> None:
    async def body() -> None:
        content = random.Random(7).randbytes(24 * MIB)
        async with joined() as ends, asyncio.TaskGroup() as group:
            await reach(phase, ends)
            sending = group.create_task(feed(ends.near, content, random.Random(1)))
            await until(lambda: ends.joint.forth.is_blocked)
            assert not sending.done()
            assert await drink(ends.far, random.Random(2)) == content

    run_on(loop, body())


def test_a_pair_that_lingers_after_one_end_is_cut(loop: str) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with joined(Terms(linger_timeout=0.05)) as ends:
            ends.near.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(ends.far, 10) == b""
            assert await ends.ended is Code.TIMEOUT

    run_on(loop, body())


def test_a_pair_that_is_idle_is_cut(loop: str) -> None:
    async def body() -> None:
        async with joined(Terms(idle_timeout=0.05)) as ends:
            assert await ends.ended is Code.TIMEOUT

    run_on(loop, body())


def test_only_a_pair_with_nothing_left_but_last_bytes_outlives_its_session(loop: str) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with joined() as running, joined() as ending:
            await send_until(ending.far, lambda: ending.joint.back.is_blocked)
            ending.far.shutdown(socket.SHUT_WR)
            await until(lambda: ending.joint.back.is_ending)
            ending.near.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(ending.far, 10) == b""
            for each in (running, ending):
                each.joint.cut_unfinished(Code.REVOKED)
            assert await running.ended is Code.REVOKED
            assert not ending.ended.done()
            await drink(ending.near, random.Random(3))
            assert await ending.ended is Code.OK

    run_on(loop, body())


# -- what is left behind


def test_no_descriptor_is_left_and_no_pipe_with_foreign_bytes_is_used_again(loop: str) -> None:
    async def body() -> None:
        counts: list[int] = []
        for _ in range(5):
            async with joined() as ends:
                await send_until(ends.near, lambda: ends.joint.forth.is_blocked)
                cut(ends.near)
                await ends.ended
            async with joined() as ends:
                await exchange(ends, seed=1, size=MIB)
            counts.append(len(os.listdir("/proc/self/fd")))
        assert counts == counts[:1] * 5  # the loop's own are among the first
        assert repr(poller()) == "<Poller 0 sockets, 0 of them read by the loop>"

    run_on(loop, body())
