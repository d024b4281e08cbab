"""Every loop and every transport on which the contract of tunnel.stream has to hold."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import pytest
import uvloop

from tests.contract.http2_pair import http2_pair
from tests.contract.quic_pair import quic_pair
from tests.variants import Engines
from tunnel.stream import Address, Connection, Stream
from tunnel.transport import tcp
from tunnel.transport.accepting import TcpListener
from tunnel.transport.dialling import connect_socket
from tunnel.transport.direct import stream as direct
from tunnel.transport.memory import memory_pair
from tunnel.transport.options import TransportOptions

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
Opener = Callable[[], Awaitable[tuple[Stream, Stream]]]
Link = Callable[[], AbstractAsyncContextManager[Opener]]

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Pair(Protocol):
    """Joins a relay's and a client's end of one connection."""

    def __call__(
        self,
        options_relay: TransportOptions | None = None,
        options_client: TransportOptions | None = None,
    ) -> AbstractAsyncContextManager[tuple[Connection, Connection]]: ...


@asynccontextmanager
async def memory_ends(
    options_relay: TransportOptions | None = None, options_client: TransportOptions | None = None
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Join two ends in memory."""
    relay, client = memory_pair(options_relay, options_client)
    yield relay, client
    relay.close()


PAIRS: dict[str, Pair] = {
    "memory": memory_ends,
    "http2": http2_pair,
    "quic": partial(quic_pair, engines=Engines("fast", "fast")),
    "quic stock": partial(quic_pair, engines=Engines("stock", "stock")),
    "quic fast to stock": partial(quic_pair, engines=Engines("fast", "stock")),
    "quic stock to fast": partial(quic_pair, engines=Engines("stock", "fast")),
}
MIXED = [name for name in PAIRS if " to " in name]  # what each engine does is seen without them
PARAMS = [pytest.param(name, marks=[pytest.mark.slow] * (name in MIXED)) for name in PAIRS]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run[Any]:
    """Run a coroutine in debug mode; what the loop reports as unhandled is an error."""
    faults: list[str] = []
    marker = request.node.get_closest_marker("timeout")
    bound = marker.args[0] - 2 if marker else 58  # seconds; before pytest's, which says less

    async def watched(body: Coroutine[Any, Any, Any]) -> Any:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(repr(context)))
        async with asyncio.timeout(bound):
            return await body

    def runner(body: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(debug=True, loop_factory=LOOPS[request.param]) as loop:
            result = loop.run(watched(body))
        assert faults == []
        return result

    return runner


@pytest.fixture(params=PARAMS)
def pair(request: pytest.FixtureRequest) -> Pair:
    """The multiplexing transports."""
    return PAIRS[request.param]


@pytest.fixture(params=[*PARAMS, "tcp", "direct"])
def link(request: pytest.FixtureRequest) -> Link:
    """All transports, as a source of pairs of streams: the opener's end and the other."""
    sockets: dict[str, Link] = {"tcp": tcp_link, "direct": direct_link}
    return sockets.get(request.param) or (lambda: pair_link(PAIRS[request.param]))


@asynccontextmanager
async def pair_link(pair: Pair) -> AsyncIterator[Opener]:
    """Open streams on one connection, after its control stream."""
    async with pair() as (relay, client):

        async def open_both() -> tuple[Stream, Stream]:
            near = await relay.open_stream()
            await near.send(b"#")  # QUIC tells of a stream with its first byte
            far = await client.accept_stream()
            assert await far.receive() == b"#"
            return near, far

        await open_both()
        yield open_both


@asynccontextmanager
async def tcp_link() -> AsyncIterator[Opener]:
    """Open sockets on loopback; all are cut at the end."""

    async def connect(address: Address, timeout: float) -> Stream:
        return await tcp.wrap(await connect_socket(address, timeout))

    async with socket_link(connect, tcp.wrap) as opener:
        yield opener


@asynccontextmanager
async def direct_link() -> AsyncIterator[Opener]:
    """As `tcp_link`, with sockets that belong to the poller."""

    async def wrap(sock: socket.socket) -> Stream:
        return direct.DirectStream(sock)

    async with socket_link(direct.connect, wrap) as opener:
        yield opener


@asynccontextmanager
async def socket_link(
    connect: Callable[[Address, float], Awaitable[Stream]],
    wrap: Callable[[socket.socket], Awaitable[Stream]],
) -> AsyncIterator[Opener]:
    listener = TcpListener(Address("127.0.0.1", 0))
    streams: list[Stream] = []

    async def open_both() -> tuple[Stream, Stream]:
        near = await connect(listener.address, 5)
        far = await wrap(await listener.accept())
        streams.extend((near, far))
        return near, far

    yield open_both
    for stream in streams:
        stream.abort()
    listener.close()
