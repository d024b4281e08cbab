"""A visitor on a spare that has not answered yet: what it said is kept, and given to the next."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.unit.transport.direct.pairs import connected, cut, deafen
from tunnel.errors import Code
from tunnel.transport.direct.joint import Terms
from tunnel.transport.direct.poller import poller
from tunnel.transport.direct.trial import SAID_MAX_BYTES, TCP_USER_TIMEOUT, Outcome, Trial


@dataclass
class Scene:
    """A trial, and the two ends that a test holds."""

    trial: Trial
    visitor: socket.socket
    client: socket.socket
    inner: socket.socket  # the visitor's, as the relay has it
    settled: asyncio.Future[Outcome]


@asynccontextmanager
async def scene(
    silence_timeout: float = 5, *, is_deaf: bool = False, is_dead: bool = False
) -> AsyncIterator[Scene]:
    """Begin a trial with a header and a hello."""
    visitor, inner = connected()
    spare, client = connected()
    if is_deaf:
        deafen(client)
    if is_dead:
        cut(client)
    poller().watch(spare, lambda _: None)
    settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    trial = Trial(poller(), inner, spare, Terms(linger_timeout=5), settled.set_result)
    trial.begin(b"header", b"hello", silence_timeout)
    try:
        yield Scene(trial, visitor, client, inner, settled)
    finally:
        trial.cut(Code.ABORTED)
        for sock in (visitor, client, inner):
            sock.close()


async def read(sock: socket.socket, size: int) -> bytes:
    """Return exactly so many bytes."""
    loop, received = asyncio.get_running_loop(), b""
    while len(received) < size:
        piece = await loop.sock_recv(sock, size - len(received))
        assert piece
        received += piece
    return received


def test_header_and_hello_arrive_and_the_answer_joins_the_two() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with scene() as s:
            assert await read(s.client, 11) == b"headerhello"
            await loop.sock_sendall(s.visitor, b" and more")
            assert await read(s.client, 9) == b" and more"
            await loop.sock_sendall(s.client, b"answer")
            assert await read(s.visitor, 6) == b"answer"
            await loop.sock_sendall(s.visitor, b"question")
            assert await read(s.client, 8) == b"question"
            for one, other in ((s.client, s.visitor), (s.visitor, s.client)):
                one.shutdown(socket.SHUT_WR)
                assert await loop.sock_recv(other, 10) == b""
            assert await s.settled is Outcome.ANSWERED

    asyncio.run(body(), debug=True)


@pytest.mark.parametrize("end", ["finish", "reset"])
def test_a_spare_that_ends_unanswered_leaves_the_visitor_and_what_it_said(end: str) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with scene() as s:
            await loop.sock_sendall(s.visitor, b" and more")
            assert await read(s.client, 20) == b"headerhello and more"
            if end == "reset":
                cut(s.client)
            else:
                s.client.close()
            assert await s.settled is Outcome.LOST
            assert bytes(s.trial.said) == b"hello and more"
            await loop.sock_sendall(s.visitor, b" still here")
            assert await read(s.inner, 11) == b" still here"

    asyncio.run(body(), debug=True)


def test_a_spare_that_was_dead_already_leaves_the_visitor_alone() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with scene(is_dead=True) as s:
            await loop.sock_sendall(s.visitor, b" still here")
            assert await s.settled is Outcome.LOST
            assert bytes(s.trial.said) == b"hello"
            assert not poller().watch(s.inner, lambda _: None)  # nobody else does
            poller().forget(s.inner)
            assert await read(s.inner, 11) == b" still here"

    asyncio.run(body(), debug=True)


def test_a_spare_whose_far_end_acknowledges_nothing_is_lost_in_time() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with scene(0.3, is_deaf=True) as s:
            begun = loop.time()
            await loop.sock_sendall(s.visitor, b" and more")
            assert await s.settled is Outcome.SILENT
            assert 0.2 < loop.time() - begun < 3
            assert bytes(s.trial.said) == b"hello and more"

    asyncio.run(body(), debug=True)


class Failing(socket.socket):
    """A connection that the kernel says one thing of, whatever is sent."""

    error = 0

    def send(self, _content: object, _flags: int = 0) -> int:
        raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (errno.ETIMEDOUT, Outcome.SILENT),
        (errno.EHOSTUNREACH, Outcome.SILENT),
        (errno.ENETUNREACH, Outcome.SILENT),
        (errno.ECONNRESET, Outcome.LOST),
        (errno.ENOBUFS, Outcome.LOST),
        (errno.ENOMEM, Outcome.LOST),
        (errno.EPERM, Outcome.LOST),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else value.name.lower(),
)
def test_only_what_comes_of_a_silent_path_is_silence(error: int, outcome: Outcome) -> None:
    async def body() -> None:
        (visitor, inner), (plain, client) = connected(), connected()
        settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        with visitor, inner, client, Failing(fileno=plain.detach()) as spare:
            spare.error = error
            trial = Trial(poller(), inner, spare, Terms(), settled.set_result)
            trial.begin(b"header", b"hello", 5)
            assert await settled is outcome

    asyncio.run(body(), debug=True)


def test_a_spare_whose_far_end_takes_its_time_to_answer_is_kept() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with scene(0.1) as s:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await asyncio.shield(s.settled)
            await loop.sock_sendall(s.client, b"answer")
            assert await read(s.visitor, 6) == b"answer"

    asyncio.run(body(), debug=True)


def test_an_answer_that_comes_with_its_end_is_an_answer() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with scene() as s:
            s.client.send(b"alert")
            s.client.shutdown(socket.SHUT_WR)
            assert await read(s.visitor, 5) == b"alert"
            assert await loop.sock_recv(s.visitor, 10) == b""

    asyncio.run(body(), debug=True)


def test_a_visitor_that_leaves_unanswered_takes_the_spare_along() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with scene() as s:
            await read(s.client, 11)
            cut(s.visitor)
            assert await s.settled is Outcome.GONE
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(s.client, 10)

    asyncio.run(body(), debug=True)


def test_a_visitor_that_finishes_unanswered_still_gets_its_answer() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with scene() as s:
            s.visitor.shutdown(socket.SHUT_WR)
            assert await read(s.client, 11) == b"headerhello"
            assert await loop.sock_recv(s.client, 10) == b""
            await loop.sock_sendall(s.client, b"answer")
            assert await read(s.visitor, 6) == b"answer"

    asyncio.run(body(), debug=True)


def test_a_visitor_that_says_more_than_can_be_kept_stays_with_its_spare() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with scene() as s:
            async with asyncio.TaskGroup() as group:
                group.create_task(loop.sock_sendall(s.visitor, bytes(300_000)))
                await read(s.client, 11 + 300_000)
            assert len(s.trial.said) == 0 < SAID_MAX_BYTES
            s.client.close()
            assert await loop.sock_recv(s.visitor, 10) == b""

    asyncio.run(body(), debug=True)


def test_only_an_unanswered_trial_can_be_given_up() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with scene() as waiting, scene() as answered:
            await loop.sock_sendall(answered.client, b"answer")
            await read(answered.visitor, 6)
            for each in (waiting, answered):
                each.trial.give_up()
            assert await waiting.settled is Outcome.LOST
            assert not answered.settled.done()

    asyncio.run(body(), debug=True)


def test_silence_is_judged_before_the_answer_only() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with scene() as s:
            silence = (socket.IPPROTO_TCP, TCP_USER_TIMEOUT)
            assert s.trial.spare.getsockopt(*silence) == 5000
            await loop.sock_sendall(s.client, b"answer")
            await read(s.visitor, 6)
            assert s.trial.spare.getsockopt(*silence) == 0  # a reader may stall for hours

    asyncio.run(body(), debug=True)
