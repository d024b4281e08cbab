"""Messages between the head and one of its workers."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tests.unit.relay.scenes import in_loop
from tunnel.errors import ConnectionLost
from tunnel.runtime.workers.channel import Channel, Message


@dataclass
class End:
    """One end, and what it has heard; it answers every question with the number it was given."""

    heard: list[Message] = field(default_factory=list)
    is_lost: asyncio.Event = field(default_factory=asyncio.Event)
    is_deaf: bool = False

    def __post_init__(self) -> None:
        self.channel = Channel(self._hear, self.is_lost.set)

    def _hear(self, message: Message) -> None:
        self.heard.append(message)
        if "question" in message and not self.is_deaf:
            self.channel.answer(message, number=message["number"])


@asynccontextmanager
async def joined() -> AsyncIterator[tuple[End, End]]:
    ends = End(), End()
    for end, sock in zip(ends, socket.socketpair(), strict=True):
        await end.channel.open(sock)
    yield ends
    for end in ends:
        end.channel.close()
        await end.is_lost.wait()


@in_loop
async def test_what_is_told_arrives_in_order() -> None:
    async with joined() as (near, far):
        for number in range(100):
            near.channel.tell("note", number=number)
        await near.channel.ask("last", 5, number=100)
        assert [each["number"] for each in far.heard] == [*range(101)]


@in_loop
async def test_every_question_gets_its_own_answer() -> None:
    async with joined() as (near, _), asyncio.TaskGroup() as group:
        asking = [group.create_task(near.channel.ask("what", 5, number=n)) for n in range(10)]
        answers = await asyncio.gather(*asking)
        assert [each["number"] for each in answers] == [*range(10)]


@in_loop
async def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    async with joined() as (near, far):
        far.is_deaf = True
        with pytest.raises(TimeoutError):
            await near.channel.ask("what", 0.01, number=1)


@in_loop
async def test_whoever_asks_one_that_ends_is_told() -> None:
    async with joined() as (near, far), asyncio.TaskGroup() as group:
        far.is_deaf = True
        asking = group.create_task(fails(near.channel))
        await asyncio.sleep(0)
        far.channel.close()
        await asking
        await near.is_lost.wait()
        with pytest.raises(ConnectionLost):
            await near.channel.ask("what", 5)
        near.channel.tell("nobody")


@in_loop
async def test_what_cannot_be_read_ends_the_channel() -> None:
    near, (sock, other) = End(), socket.socketpair()
    await near.channel.open(sock)
    other.sendall(b"\0\0\0\4nope")
    async with asyncio.timeout(5):
        await near.is_lost.wait()
    other.close()


async def fails(channel: Channel) -> None:
    with pytest.raises(ConnectionLost):
        await channel.ask("what", 5, number=1)
