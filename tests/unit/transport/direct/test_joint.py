"""Two sockets joined in the kernel: every byte, every end, and nothing left behind."""

import asyncio
import os
import random
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fcntl import F_SETPIPE_SZ, fcntl

import pytest

from tests.unit.transport.direct.pairs import Ends, cut, drink, feed, joined
from tests.unit.transport.loops import on_both_loops, run_on, until
from tunnel.errors import Code
from tunnel.stream import TOLD_BYTES
from tunnel.transport.direct.joint import MESSAGES, Terms
from tunnel.transport.direct.pipes import PIPE_BYTES
from tunnel.transport.direct.poller import poller

MIB = 1 << 20

pytestmark = on_both_loops


async def exchange(ends: Ends, seed: int, size: int = 3 * MIB, counted: int = 0) -> None:
    """Send random bytes both ways at random paces, and compare them.

    `counted` bytes have passed each way before.
    """
    dice = random.Random(seed)
    there, back = dice.randbytes(dice.randrange(size)), dice.randbytes(dice.randrange(size))
    async with asyncio.TaskGroup() as group:
        group.create_task(feed(ends.near, there, random.Random(seed + 1)))
        group.create_task(feed(ends.far, back, random.Random(seed + 2)))
        arrived = group.create_task(drink(ends.far, random.Random(seed + 3)))
        returned = group.create_task(drink(ends.near, random.Random(seed + 4)))
    assert arrived.result() == there
    assert returned.result() == back
    assert await ends.ended is Code.OK
    tally = ends.tally
    assert (tally.forth, tally.back) == (counted + len(there), counted + len(back))


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


@pytest.mark.parametrize("first", ["near", "far"])
def test_a_finish_ends_one_direction_only(loop: str, first: str) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with joined() as ends:
            one, other = (ends.near, ends.far) if first == "near" else (ends.far, ends.near)
            one.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(other, 10) == b""
            await loop.sock_sendall(other, b"still here")
            assert await loop.sock_recv(one, 20) == b"still here"
            assert not ends.joint.is_over
            other.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(one, 20) == b""
            assert await ends.ended is Code.OK

    run_on(loop, body())


PHASES = (
    "at once",
    "after a message",
    "after many",
    "with the last of many",
    "within bulk",
    "after a finish",
    "after the other's finish",
)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("who", ["near", "far"])
def test_a_reset_cuts_both_and_never_looks_like_an_end(loop: str, who: str, phase: str) -> None:
    async def body() -> None:
        async with joined() as ends:
            one, other = (ends.near, ends.far) if who == "near" else (ends.far, ends.near)
            await reach(phase, one, other)
            cut(one)
            assert await ends.ended is Code.ABORTED
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await use_until_cut(other)

    run_on(loop, body())


async def use_until_cut(sock: socket.socket) -> None:
    """Read to the end, and write for ever: a cut shows in one or the other."""
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(sock, MIB):
        pass
    while True:
        await loop.sock_sendall(sock, b"x")


async def reach(phase: str, one: socket.socket, other: socket.socket) -> None:
    """Bring a pair as far as a phase says."""
    loop = asyncio.get_running_loop()
    if phase == "after a message":
        await loop.sock_sendall(one, b"hello")
        assert await loop.sock_recv(other, 10) == b"hello"
    elif phase == "after many":
        await converse(one, other)
    elif phase == "with the last of many":
        await converse(one, other)
        one.send(b"last")
    elif phase == "within bulk":
        for _ in range(8):
            await loop.sock_sendall(one, bytes(100_000))
    elif phase == "after a finish":
        one.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(other, 10) == b""
    elif phase == "after the other's finish":
        other.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(one, 10) == b""


# -- after many short messages


async def converse(one: socket.socket, other: socket.socket) -> None:
    """Ask and answer until the loop reads both sockets of the joint itself."""
    loop = asyncio.get_running_loop()
    for _ in range(MESSAGES):
        for speaker, listener in ((one, other), (other, one)):
            await loop.sock_sendall(speaker, b"word")
            assert await loop.sock_recv(listener, 10) == b"word"
    assert repr(poller()) == "<Poller 2 sockets, 2 of them read by the loop>"


@pytest.mark.parametrize("seed", range(6))
def test_every_byte_arrives_of_what_follows_many_messages(loop: str, seed: int) -> None:
    async def body() -> None:
        async with joined() as ends:
            await converse(ends.near, ends.far)
            words = len(b"word") * MESSAGES
            await exchange(ends, seed, counted=words)

    run_on(loop, body())


def test_one_who_has_talked_may_finish_and_the_other_still_be_heard(loop: str) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with joined() as ends:
            await converse(ends.near, ends.far)
            ends.near.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(ends.far, 10) == b""
            await loop.sock_sendall(ends.far, bytes(MIB))
            ends.far.shutdown(socket.SHUT_WR)
            assert len(await drink(ends.near, random.Random(0))) == MIB
            assert await ends.ended is Code.OK

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
            await reach(phase, ends.near, ends.far)
            sending = group.create_task(feed(ends.near, content, random.Random(1)))
            await until(lambda: ends.joint.forth.is_blocked)
            assert not sending.done()
            assert await drink(ends.far, random.Random(2)) == content

    run_on(loop, body())


def test_the_stalled_side_is_cut_when_its_far_side_resets(loop: str) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with joined() as ends:
            while not ends.joint.forth.is_blocked:
                await loop.sock_sendall(ends.near, bytes(MIB))
            cut(ends.near)
            assert await ends.ended is Code.ABORTED

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
            while not ending.joint.back.is_blocked:
                await loop.sock_sendall(ending.far, bytes(MIB // 16))
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


# -- without what it is used to


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let every new descriptor fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def no_more_pipes() -> Iterator[None]:
    """Use up what a user without privileges may have of pipes, and be one."""
    before = os.geteuid()
    with ExitStack() as opened:
        if before == 0:
            os.seteuid(65534)
            opened.callback(os.seteuid, before)
        try:
            while True:
                for descriptor in (ends := os.pipe()):
                    opened.callback(os.close, descriptor)
                fcntl(ends[0], F_SETPIPE_SZ, PIPE_BYTES)
        except PermissionError:
            yield


@pytest.mark.parametrize("shortage", [no_more_descriptors, no_more_pipes])
@pytest.mark.parametrize("seed", range(3))
def test_every_byte_arrives_though_there_is_no_pipe(loop: str, shortage: object, seed: int) -> None:
    async def body() -> None:
        async with joined() as ends:
            await converse(ends.near, ends.far)  # whatever the loop opens, it has opened
            with shortage():  # type: ignore[operator] # a context manager's function
                await exchange(ends, seed, size=8 * MIB, counted=len(b"word") * MESSAGES)

    run_on(loop, body())


def test_no_descriptor_is_left_and_no_pipe_with_foreign_bytes_is_used_again(loop: str) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        counts: list[int] = []
        for _ in range(5):
            async with joined() as ends:
                while not ends.joint.forth.is_blocked:
                    await loop.sock_sendall(ends.near, b"secret" * 50_000)
                cut(ends.near)
                await ends.ended
            async with joined() as ends:
                await exchange(ends, seed=1, size=MIB)
            counts.append(len(os.listdir("/proc/self/fd")))
        assert counts == counts[:1] * 5  # the loop's own are among the first
        assert repr(poller()) == "<Poller 0 sockets, 0 of them read by the loop>"

    run_on(loop, body())
