"""A socket goes on to a target that has to be connected to first."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.unit.transport.direct.pairs import connected
from tunnel.errors import Code, DialFailed
from tunnel.transport.direct.crossing import Crossing, Place
from tunnel.transport.direct.joint import Terms
from tunnel.transport.direct.poller import poller

LOOPBACK = ("127.0.0.1", 0)


@dataclass
class Traveller:
    """Notes what it is told."""

    told: asyncio.Future[Code | DialFailed] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def unreached(self, failure: DialFailed) -> None:
        self.told.set_result(failure)

    def ended(self, code: Code) -> None:
        self.told.set_result(code)


@dataclass
class Scene:
    """A crossing that has begun, and the end of its near socket that a test holds."""

    crossing: Crossing
    visitor: socket.socket
    told: asyncio.Future[Code | DialFailed]

    async def hear(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.visitor, 100)


@asynccontextmanager
async def crossing(
    place: Place, preface: bytes = b"", timeout: float = 5.0
) -> AsyncIterator[Scene]:
    """Begin a crossing to a place; in the end it is cut."""
    traveller = Traveller()
    visitor, near = connected()
    made = Crossing(poller(), near, Terms(linger_timeout=5.0), traveller)
    made.begin(place, preface, timeout)
    try:
        yield Scene(made, visitor, traveller.told)
    finally:
        made.cut()
        visitor.close()


@contextmanager
def listening(folder: Path | None = None) -> Iterator[tuple[socket.socket, Place]]:
    """Yield a listener, on a Unix socket in the folder if there is one, and where it is."""
    family = socket.AF_INET if folder is None else socket.AF_UNIX
    with socket.socket(family) as listener:
        listener.bind(LOOPBACK if folder is None else str(folder / "target"))
        listener.listen()
        listener.setblocking(False)
        yield listener, Place(family, listener.getsockname())


@pytest.mark.parametrize("is_unix", [False, True])
def test_the_target_hears_the_preface_first_and_then_the_visitor(
    tmp_path: Path, is_unix: bool
) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        with listening(tmp_path if is_unix else None) as (listener, place):
            async with crossing(place, b"preface ") as s:
                s.visitor.send(b"hello")
                target, _ = await loop.sock_accept(listener)
                heard = b""
                while len(heard) < len(b"preface hello"):
                    heard += await loop.sock_recv(target, 100)
                assert heard == b"preface hello"
                await loop.sock_sendall(target, b"answer")
                assert await s.hear() == b"answer"
                for end in (target, s.visitor):
                    end.shutdown(socket.SHUT_WR)
                assert await s.told is Code.OK
                target.close()

    asyncio.run(body(), debug=True)


def test_who_cannot_be_reached_is_told_of_and_the_visitor_cut() -> None:
    async def body() -> None:
        with listening() as (_, place):
            pass
        async with crossing(place) as s:
            failure = await s.told
            assert isinstance(failure, DialFailed)
            assert str(failure).endswith("connection refused")
            with pytest.raises(ConnectionResetError):
                await s.hear()

    asyncio.run(body(), debug=True)


def test_a_target_that_never_answers_is_given_up() -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            place = Place(socket.AF_INET, listener.getsockname())
            waiting = [socket.socket() for _ in range(4)]  # more than its queue holds
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(place.name)
            async with crossing(place, timeout=0.05) as s:
                assert str(await s.told).endswith("no answer within 0.05 s")
            for sock in waiting:
                sock.close()

    asyncio.run(body(), debug=True)


def test_what_is_cut_on_its_way_leaves_nobody_behind() -> None:
    async def body() -> None:
        with listening() as (listener, place):
            async with crossing(place) as s:
                s.crossing.cut()
                assert await s.told is Code.ABORTED
                with pytest.raises(ConnectionResetError):
                    await s.hear()
            target, _ = await asyncio.get_running_loop().sock_accept(listener)
            assert not await asyncio.get_running_loop().sock_recv(target, 1)
            target.close()

    asyncio.run(body(), debug=True)
