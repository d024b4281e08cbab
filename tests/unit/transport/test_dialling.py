"""Connecting to targets: every address of a name is tried, in time, and why it failed is said."""

import asyncio
import socket
import tempfile
from pathlib import Path

import pytest

from tests.unit.transport.loops import on_both_loops, run_on
from tunnel.errors import DialFailed
from tunnel.stream import Address
from tunnel.transport import dialling
from tunnel.transport.accepting import TcpListener
from tunnel.transport.direct.stream import connect

LOOPBACK = Address("127.0.0.1", 0)


@on_both_loops
def test_a_unix_socket_is_a_target_too(loop: str) -> None:
    async def body() -> None:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
            path = Path(folder) / "target"
            server.bind(str(path))
            server.listen()
            stream = await connect(path, timeout=5)
            plain, _ = server.accept()
            await stream.send(b"hello")
            await stream.finish()
            received = [await asyncio.to_thread(plain.recv, 10) for _ in range(2)]
            assert received == [b"hello", b""]
            stream.abort()
            plain.close()

    run_on(loop, body())


@on_both_loops
def test_why_a_target_cannot_be_reached_is_said(loop: str) -> None:
    async def body() -> None:
        with socket.socket() as unused:
            unused.bind(LOOPBACK)
            address = Address(*unused.getsockname())
            with pytest.raises(DialFailed, match=rf"{address}: connection refused"):
                await connect(address, timeout=5)
        with pytest.raises(DialFailed, match="/nowhere: no such file or directory"):
            await connect(Path("/nowhere"), timeout=5)

    run_on(loop, body())


@on_both_loops
def test_a_target_that_does_not_answer_is_given_up(loop: str) -> None:
    async def body() -> None:
        with socket.socket() as full:
            full.bind(LOOPBACK)
            full.listen(0)
            address = Address(*full.getsockname())
            with socket.create_connection(address), pytest.raises(DialFailed, match=r"0\.05 s"):
                await connect(address, timeout=0.05)

    run_on(loop, body())


@on_both_loops
def test_every_address_of_a_name_is_tried_though_one_never_answers(loop: str) -> None:
    async def body() -> None:
        listener, full = TcpListener(LOOPBACK), TcpListener(LOOPBACK, backlog=0)
        waiting = socket.create_connection(full.address)
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            names = [closed.getsockname(), full.address, listener.address]
            entries = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", name) for name in names]
            sock = await dialling._connect_any(entries, timeout=0.3)
            assert sock.getpeername() == listener.address
        listener.close()
        full.close()
        for each in (sock, waiting):
            each.close()

    run_on(loop, body())


@on_both_loops
def test_a_name_that_is_none_is_a_failed_dial(loop: str) -> None:
    async def body() -> None:
        address = Address("x" * 64 + ".test", 443)
        with pytest.raises(DialFailed, match="not a host name"):
            await connect(address, 1)

    run_on(loop, body())
