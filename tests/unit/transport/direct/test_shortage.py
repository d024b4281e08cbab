"""Sockets that are joined where descriptors or pipes are short: nothing is lost."""

import asyncio
import os
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from fcntl import F_GETPIPE_SZ, F_SETPIPE_SZ, fcntl

import pytest

from tests.limits import limited
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
from tunnel.transport.direct.pipes import PIPE_BYTES, SMALLEST_BYTES, PipeShelf
from tunnel.transport.direct.poller import poller

Shortage = Callable[[], AbstractContextManager[None]]

pytestmark = [on_both_loops, pytest.mark.alone]  # others need pipes and descriptors, too


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let every new descriptor fail."""
    lowest = os.dup(0)
    os.close(lowest)
    with limited(resource.RLIMIT_NOFILE, lowest):
        yield


@contextmanager
def no_large_pipes() -> Iterator[None]:
    """Use up what a user without privileges may have of large pipes, and be one."""
    before = os.geteuid()
    with ExitStack() as opened:
        if before == 0:
            os.seteuid(65534)
            opened.callback(os.seteuid, before)
        with suppress(PermissionError):
            while True:
                fcntl(one_more(opened), F_SETPIPE_SZ, PIPE_BYTES)
        yield


@contextmanager
def no_more_pipes() -> Iterator[None]:
    """Use up all pipes of such a user: each further one holds next to nothing."""
    with no_large_pipes(), ExitStack() as opened:
        while fcntl(one_more(opened), F_GETPIPE_SZ) >= SMALLEST_BYTES:
            pass
        yield


def one_more(opened: ExitStack) -> int:
    """Open a pipe, which is closed later, and return an end of it."""
    ends = os.pipe()
    for descriptor in ends:
        opened.callback(os.close, descriptor)
    return ends[0]


SHORTAGES = (no_more_descriptors, no_large_pipes, no_more_pipes)
in_every_shortage = pytest.mark.parametrize("shortage", SHORTAGES)
young_and_old = pytest.mark.parametrize("counted", [0, WORDS_BYTES], ids=["at once", "after many"])


async def grow_old(ends: Ends, counted: int) -> None:
    """Bring a pair to where it has passed on so many bytes each way."""
    if counted:
        await converse(ends.near, ends.far)


@pytest.mark.parametrize(
    ("shortage", "size"),
    [(no_more_descriptors, 0), (no_large_pipes, SMALLEST_BYTES), (no_more_pipes, 0)],
)
def test_a_shortage_leaves_pipes_of_this_size(loop: str, shortage: Shortage, size: int) -> None:
    pipes = PipeShelf()
    with shortage():
        pipe = pipes.take()
        assert (pipe.capacity if pipe is not None else 0) == size
        if pipe is not None:
            pipes.put(pipe)
    pipes.close()


@in_every_shortage
@young_and_old
@pytest.mark.parametrize("seed", range(2))
def test_every_byte_arrives_though_there_is_no_pipe(
    loop: str, shortage: Shortage, counted: int, seed: int
) -> None:
    async def body() -> None:
        async with joined() as ends:
            await grow_old(ends, counted)
            with shortage():
                await exchange(ends, seed, size=6 * MIB, counted=counted)

    run_on(loop, body())


@in_every_shortage
@young_and_old
@pytest.mark.parametrize("by", ["the sender", "the reader"])
def test_a_reset_is_one_though_there_is_no_pipe(
    loop: str, shortage: Shortage, counted: int, by: str
) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        content = random.Random(8).randbytes(8 * MIB)
        async with joined() as ends, asyncio.TaskGroup() as group:
            await grow_old(ends, counted)
            with shortage():
                sending = group.create_task(loop.sock_sendall(ends.near, content))
                heard = b""
                while len(heard) < 3 * MIB:
                    heard += await loop.sock_recv(ends.far, MIB)
                sending.cancel()
                near, far = ends.near, ends.far
                first, second = (near, far) if by == "the sender" else (far, near)
                cut(first)
                assert await ends.ended is Code.ABORTED
                heard += await hear_until_cut(second)
            assert content.startswith(heard)

    run_on(loop, body())


def test_who_finds_the_only_pipe_in_use_copies_and_loses_nothing(loop: str) -> None:
    async def body() -> None:
        content = random.Random(9).randbytes(24 * MIB)
        pipes = poller().pipes = PipeShelf(pipes_max=1)
        async with joined() as stalled, joined() as other, asyncio.TaskGroup() as group:
            group.create_task(feed(stalled.near, content, random.Random(1)))
            await until(lambda: stalled.joint.forth.is_blocked)
            assert pipes.take() is None
            await exchange(other, seed=2)
            assert await drink(stalled.far, random.Random(3)) == content
            assert repr(pipes) == "<PipeShelf 1 idle>"

    run_on(loop, body())


def test_a_cut_with_the_only_pipe_in_use_makes_room_for_another(loop: str) -> None:
    async def body() -> None:
        pipes = poller().pipes = PipeShelf(pipes_max=1)
        async with joined() as stalled:
            await send_until(stalled.near, lambda: stalled.joint.forth.is_blocked)
            assert pipes.take() is None
            cut(stalled.near)
            assert await stalled.ended is Code.ABORTED
        pipe = pipes.take()
        assert pipe is not None
        pipe.close()

    run_on(loop, body())
