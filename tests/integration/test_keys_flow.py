"""Keys that both programs have: two values of each, and two ends that behave differently.

What is looked at is a connection over loopback, one end of which has what the program hands to
its transports: the relay to its listeners, the client to its dialers.
"""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.tls import Epoch

from tests.contract.http2_pair import http2_pair
from tests.contract.quic_pair import quic_pair
from tests.integration.conftest import Run
from tests.integration.stage import relay_settings
from tests.unit.client.scenes import client_settings
from tunnel.client.client import Client
from tunnel.errors import Code, DialFailed, StreamReset
from tunnel.log import get_log
from tunnel.relay.server import Relay
from tunnel.runtime.logs import set_up_logs
from tunnel.settings.values import (
    KIB,
    MIB,
    ClientLimits,
    FlowSettings,
    LogSettings,
    QuicSettings,
    RelayLimits,
)
from tunnel.stream import Address, Connection, Stream
from tunnel.tls.contexts import Trust
from tunnel.transport.options import TransportOptions

PAIRS = {"quic": quic_pair, "h2": http2_pair}
PIECE = bytes(16 * KIB)
LOST = QuicSentPacket(
    Epoch.ONE_RTT,
    in_flight=True,
    is_ack_eliciting=True,
    is_crypto_packet=False,
    packet_number=0,
    packet_type=QuicPacketType.ONE_RTT,
    sent_time=1e9,
)
LOOKS, LOOK_INTERVAL = 20, 0.01  # after which a sender is believed to wait for its reader


@pytest.fixture(params=["relay", "client"])
def program(request: pytest.FixtureRequest) -> str:
    word: str = request.param
    return word


async def options_of(
    program: str,
    folder: Path,
    *,
    flow: FlowSettings | None = None,
    quic: QuicSettings | None = None,
    buffer_total: int = 64 * MIB,
) -> TransportOptions:
    """Return what a relay or a client on such settings tells its transports."""
    shared: dict[str, Any] = {"flow": flow or FlowSettings(), "quic": quic or QuicSettings()}
    if program == "relay":
        limits = RelayLimits(buffer_total=buffer_total)
        relay = Relay(relay_settings(folder, limits=limits, **shared))
        return relay._doors.options
    told: asyncio.Future[TransportOptions] = asyncio.get_running_loop().create_future()

    async def dial(_: Address, __: Trust, options: TransportOptions, ___: str | None) -> Connection:
        told.set_result(options)
        client.stop()
        raise DialFailed("seen enough")

    settings = client_settings(folder, limits=ClientLimits(buffer_total), **shared)
    settings = replace(settings, servers={"eu": replace(settings.servers["eu"], transport="quic")})
    client = Client(settings, dialers={"quic": dial})
    await client.run()
    return told.result()


@asynccontextmanager
async def connected(
    program: str, transport: str, options: TransportOptions
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Join two ends of which the program's has the options; the control stream is open."""
    ends = (options, None) if program == "relay" else (None, options)
    async with PAIRS[transport](*ends) as (relay, client):
        await (await relay.open_stream()).send(b"#")
        await client.accept_stream()
        yield relay, client


async def towards(program: str, ends: tuple[Connection, Connection]) -> tuple[Stream, Stream]:
    """Return a new stream: the end that sends, and the program's, which is to receive."""
    relay, client = ends
    opened = await relay.open_stream()
    await opened.send(b"#")
    accepted = await client.accept_stream()
    assert await accepted.receive() == b"#"
    return (accepted, opened) if program == "relay" else (opened, accepted)


@asynccontextmanager
async def looking() -> AsyncIterator[None]:
    """Raise TimeoutError once the loop has run so often: on a busy machine that takes longer."""
    loop = asyncio.get_running_loop()
    with ExitStack() as pending:
        async with asyncio.timeout(None) as deadline:

            def look(left: int) -> None:
                if left:
                    pending.callback(loop.call_later(LOOK_INTERVAL, look, left - 1).cancel)
                else:
                    deadline.reschedule(loop.time())

            look(LOOKS)
            yield


async def fill(stream: Stream) -> int:
    """Send until the reader, who does not read, is waited for; return the bytes sent."""
    sent = 0
    with suppress(TimeoutError):
        while True:
            async with looking():
                await stream.send(PIECE)
            sent += len(PIECE)
    return sent


def flow(window: int, **changes: int) -> FlowSettings:
    """Return settings with windows that neither grow nor are in the way of each other."""
    return replace(FlowSettings(window, window, 32 * MIB), **changes)


# [flow]


def test_stream_window_is_what_may_be_sent_to_who_does_not_read(
    program: str, transport: str, run: Run, tmp_path: Path
) -> None:
    async def sent(window: int) -> int:
        options = await options_of(program, tmp_path, flow=flow(window))
        async with connected(program, transport, options) as ends:
            sender, _ = await towards(program, ends)
            return await fill(sender)

    async def body() -> None:
        difference = await sent(2 * MIB) - await sent(64 * KIB)
        assert MIB < difference < 3 * MIB

    run(body())


def test_stream_window_max_is_what_a_window_grows_to(
    program: str, transport: str, run: Run, tmp_path: Path
) -> None:
    async def sent(largest: int) -> int:
        """Return what may be sent unread once the reader has kept up for a while."""
        chosen = flow(64 * KIB, stream_window_max=largest)
        options = await options_of(program, tmp_path, flow=chosen)
        async with connected(program, transport, options) as ends:
            sender, receiver = await towards(program, ends)
            for _ in range(4 * MIB // len(PIECE)):
                await sender.send(PIECE)
                left = len(PIECE)
                while left:
                    left -= len(await receiver.receive())
            return await fill(sender)

    async def body() -> None:
        assert await sent(2 * MIB) - await sent(64 * KIB) > MIB // 2

    run(body())


def test_connection_window_is_what_all_streams_may_have_under_way(
    program: str, transport: str, run: Run, tmp_path: Path
) -> None:
    async def credit(window: int) -> int:
        """Return what the far end may send on the connection."""
        options = await options_of(program, tmp_path, flow=flow(MIB, connection_window=window))
        async with connected(program, transport, options) as (relay, client):
            far: Any = client if program == "relay" else relay
            if transport == "h2":
                return int(far.engine.outbound_flow_control_window)
            return int(far.engine._remote_max_data - far.engine._remote_max_data_used)

    async def body() -> None:
        assert await credit(8 * MIB) - await credit(2 * MIB) == 6 * MIB

    run(body())


async def why_the_first_is_cut(senders: list[Stream]) -> Code | None:
    """Return it once all were sent to and none was read; None if it is not cut."""
    for sender in senders:
        await fill(sender)
    try:
        async with looking():
            await senders[0].receive()
    except StreamReset as reset:
        return reset.code
    except TimeoutError:
        pass
    return None


def test_parked_max_is_what_one_connection_may_leave_unread(
    program: str, transport: str, run: Run, tmp_path: Path
) -> None:
    async def why(most: int) -> Code | None:
        chosen = flow(256 * KIB, connection_window=512 * KIB, parked_max=most)
        options = await options_of(program, tmp_path, flow=chosen)
        async with connected(program, transport, options) as ends:
            return await why_the_first_is_cut([(await towards(program, ends))[0] for _ in range(3)])

    async def body() -> None:
        assert await why(600 * KIB) is Code.BUSY
        assert await why(2 * MIB) is None

    run(body())


# [limits]


def test_buffer_total_is_what_all_connections_may_leave_unread(
    program: str, transport: str, run: Run, tmp_path: Path
) -> None:
    async def why(total: int) -> Code | None:
        options = await options_of(program, tmp_path, flow=flow(256 * KIB), buffer_total=total)
        async with (
            connected(program, transport, options) as one,
            connected(program, transport, options) as two,
        ):
            senders = [(await towards(program, each))[0] for each in (one, two)]
            return await why_the_first_is_cut(senders)

    async def body() -> None:
        assert await why(400 * KIB) is Code.BUSY
        assert await why(2 * MIB) is None

    run(body())


# [quic]


def test_congestion_is_how_a_loss_is_answered(program: str, run: Run, tmp_path: Path) -> None:
    async def left(word: str) -> float:
        """Return which part of its window this end keeps after a loss."""
        options = await options_of(program, tmp_path, quic=QuicSettings(congestion=word))
        async with connected(program, "quic", options) as (relay, client):
            ours: Any = relay if program == "relay" else client
            control = ours.engine._loss._cc
            control.bytes_in_flight = before = control.congestion_window
            control.on_packets_lost(now=1e9, packets=[LOST])
            return float(control.congestion_window / before)

    async def body() -> None:
        parts = [round(await left(word), 1) for word in ("bbr", "reno", "cubic")]
        assert parts == [1.0, 0.5, 0.7]  # RFC 9002 §7.3.2, RFC 9438 §4.6

    run(body())


# [log]


@pytest.fixture
def root_log() -> Iterator[logging.Logger]:
    """Return the root logger, which is as before afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(**chosen: str) -> list[str]:
    """Return what a program on these settings writes of one line at each level."""
    written = io.StringIO()
    set_up_logs(LogSettings(**chosen), written)
    log = get_log("tunnel.test")
    for tell in (log.debug, log.info, log.warning, log.error):
        tell("told", name="x y")
    return written.getvalue().splitlines()


@pytest.mark.usefixtures("root_log")
def test_level_is_the_least_that_is_written() -> None:
    lines = {word: len(logged(level=word)) for word in ("debug", "info", "warning", "error")}
    assert lines == {"debug": 4, "info": 3, "warning": 2, "error": 1}


@pytest.mark.usefixtures("root_log")
def test_format_is_how_a_line_looks() -> None:
    as_text, as_json = (logged(level="error", format=word)[0] for word in ("text", "json"))
    assert as_text.endswith('ERROR test told name="x y"')
    assert json.loads(as_json)["name"] == "x y"
