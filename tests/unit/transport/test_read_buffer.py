"""The buffer that sockets are read into: no thread sees what another one reads."""

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tunnel.stream import BULK_BYTES
from tunnel.transport import tcp
from tunnel.transport.direct import way
from tunnel.transport.direct.pipes import PipeShelf
from tunnel.transport.http2 import connection as http2
from tunnel.transport.options import TransportOptions
from tunnel.transport.quic.arrivals import Arrivals
from tunnel.transport.read_buffer import BUFFER_MAX_BYTES, read_buffer

DEADLINE = 10.0  # seconds


def of_a_tcp_stream() -> memoryview:
    return tcp.TcpStream().get_buffer(-1)


def of_an_http2_connection() -> memoryview:
    return http2.ClientConnection(TransportOptions()).get_buffer(-1)


def of_a_quic_endpoint() -> memoryview:
    return Arrivals().room


def of_a_direct_connection() -> memoryview:
    with socket.socket() as source, socket.socket() as sink:
        return way.Way(source, sink, PipeShelf())._buffer


USERS = (of_a_tcp_stream, of_an_http2_connection, of_a_quic_endpoint, of_a_direct_connection)


@pytest.mark.parametrize("user", USERS)
def test_loops_in_two_threads_do_not_see_each_others_bytes(user: Callable[[], memoryview]) -> None:
    both_have_read = threading.Barrier(2)

    async def read(octets: bytes) -> bytes:
        here = user()
        here[: len(octets)] = octets
        both_have_read.wait(DEADLINE)
        return bytes(here[: len(octets)])

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda octets: asyncio.run(read(octets)), (b"one", b"two"))
    assert (first, second) == (b"one", b"two")


def test_all_readers_of_a_thread_share_one_buffer() -> None:
    async def buffers() -> list[memoryview]:
        return [user() for user in USERS]

    shown = asyncio.run(buffers())
    for number, each in enumerate(shown):
        each[0] = number
        assert {other[0] for other in shown} == {number}


def test_a_buffer_is_as_large_as_was_asked_for() -> None:
    sizes = (1, BULK_BYTES, http2.READ_BYTES, BUFFER_MAX_BYTES)
    assert tuple(len(read_buffer(size)) for size in sizes) == sizes
