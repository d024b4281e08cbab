"""The control stream in use."""

import asyncio
from dataclasses import dataclass, field

import pytest

from tests.unit.client.scenes import now, run_in_no_time
from tunnel.errors import Code, ConnectionLost, RemoteProtocolError
from tunnel.protocol.frames import frame
from tunnel.protocol.heartbeat import Action
from tunnel.protocol.messages import Ping, Pong, encode
from tunnel.protocol.registration import ClientRegistration, State
from tunnel.runtime.control import PARTING_TIMEOUT, ControlChannel, keep_alive, part
from tunnel.runtime.supervision import first_of
from tunnel.stream import Stream
from tunnel.transport.memory import MemoryConnection, memory_pair


@dataclass
class Scene:
    """A client that was welcomed, and the relay's bare end of its control stream."""

    relay: MemoryConnection
    client: MemoryConnection
    far: Stream
    registration: ClientRegistration
    channel: ControlChannel  # type: ignore[type-arg] # of any events
    judged: list[Action] = field(default_factory=list)


async def welcomed() -> Scene:
    relay, client = memory_pair()
    far = await relay.open_stream()
    near = await client.accept_stream()
    registration = ClientRegistration("memory", bytes(32))
    registration.state = State.WELCOMED
    return Scene(relay, client, far, registration, ControlChannel(near, registration))


def test_messages_come_one_by_one() -> None:
    async def main() -> None:
        scene = await welcomed()
        await scene.far.send(frame(encode(Ping(1))) + frame(encode(Ping(2))))
        assert [await scene.channel.receive(), await scene.channel.receive()] == [Ping(1), Ping(2)]

    run_in_no_time(main())


def test_the_round_trip_is_that_of_the_last_ping_that_was_answered() -> None:
    async def main() -> None:
        scene = await welcomed()
        await scene.channel.send(Ping(7))
        await asyncio.sleep(0.25)
        for seq in (6, 7):
            await scene.far.send(frame(encode(Pong(seq))))
            await scene.channel.receive()
            assert scene.channel.round_trip == (0.25 if seq == 7 else None)

    run_in_no_time(main())


def test_an_end_without_a_last_word_breaks_the_protocol() -> None:
    async def main() -> None:
        scene = await welcomed()
        await scene.far.finish()
        with pytest.raises(RemoteProtocolError, match="without a last word"):
            await scene.channel.receive()

    run_in_no_time(main())


def test_a_cut_control_stream_is_a_lost_connection() -> None:
    async def main() -> None:
        scene = await welcomed()
        scene.far.abort(Code.DRAINING)
        with pytest.raises(ConnectionLost) as caught:
            await scene.channel.receive()
        assert caught.value.code is Code.DRAINING

    run_in_no_time(main())


def test_after_the_last_word_nothing_is_sent() -> None:
    async def main() -> bytes:
        scene = await welcomed()
        await scene.channel.leave(Code.OK)
        await scene.channel.send(Ping(1))
        said = b""
        while data := await scene.far.receive():
            said += data
        return said

    assert run_in_no_time(main()).count(b'"type"') == 1


def test_a_peer_that_does_not_close_is_closed_after_a_second() -> None:
    async def main() -> float:
        scene = await welcomed()
        began = now()
        await part(scene.client, scene.channel, Code.DRAINING, "going")
        assert scene.client.is_closed
        return now() - began

    assert run_in_no_time(main()) == pytest.approx(PARTING_TIMEOUT, abs=0.01)


def test_a_peer_that_closes_is_not_waited_for() -> None:
    async def main() -> float:
        scene = await welcomed()
        began = now()

        async def close_when_told() -> None:
            while b"bye" not in await scene.far.receive():
                pass
            scene.relay.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(close_when_told())
            await part(scene.client, scene.channel, Code.OK)
        return now() - began

    assert run_in_no_time(main()) == 0


def test_silence_is_suspected_first_and_the_end_at_last() -> None:
    async def main() -> tuple[list[Action], float, Code]:
        scene = await welcomed()
        began = now()
        with pytest.raises(ConnectionLost) as caught:
            await keep_alive(scene.client, scene.channel, 5.0, scene.judged.append)
        return scene.judged, now() - began, caught.value.code

    judged, took, code = run_in_no_time(main())
    assert (judged[0], code) == (Action.SUSPECT, Code.TIMEOUT)
    assert 10 <= took <= 12


def test_who_is_heard_again_is_restored_at_once() -> None:
    async def main() -> float:
        scene = await welcomed()
        suspected, restored = asyncio.Event(), asyncio.Event()
        events = {Action.SUSPECT: suspected, Action.RESTORE: restored}

        async def keep() -> None:
            await keep_alive(scene.client, scene.channel, 5.0, lambda action: events[action].set())

        async def answer_late() -> None:
            await suspected.wait()
            await asyncio.sleep(0.1)
            await scene.far.send(frame(encode(Ping(7))))
            began = now()
            await restored.wait()
            delays.append(now() - began)

        delays: list[float] = []
        await first_of(keep, answer_late)
        return delays[0]

    assert run_in_no_time(main()) < 0.5
