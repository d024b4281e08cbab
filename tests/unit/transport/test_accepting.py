"""Listeners that survive what befalls them."""

import asyncio
import errno
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.limits import limited
from tests.unit.transport.loops import on_both_loops, run_on
from tunnel.errors import ConnectionLost
from tunnel.stream import Address
from tunnel.transport.accepting import DESCRIPTOR_SHARE, TcpListener, descriptor_limit

LOOPBACK = Address("127.0.0.1", 0)


@on_both_loops
def test_a_cancelled_accept_loses_no_connection(loop: str) -> None:
    async def body() -> None:
        listener = TcpListener(LOOPBACK)
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(listener.accept())
            await asyncio.sleep(0)
            plain = socket.create_connection(listener.address)
            await asyncio.sleep(0)
            accepting.cancel()
        sock = await listener.accept()
        assert sock.getpeername() == plain.getsockname()
        assert not sock.getblocking()
        for closing in (sock, plain, listener):
            closing.close()

    run_on(loop, body())


@on_both_loops
def test_closing_ends_a_waiting_accept(loop: str) -> None:
    async def body() -> None:
        listener = TcpListener(LOOPBACK)

        async def accept() -> None:
            with pytest.raises(ConnectionLost, match="listener closed"):
                await listener.accept()

        async with asyncio.TaskGroup() as group:
            group.create_task(accept())
            await asyncio.sleep(0)
            listener.close()
        await accept()

    run_on(loop, body())


@on_both_loops
def test_whoever_comes_while_nobody_accepts_keeps_no_loop_busy(loop: str) -> None:
    async def body() -> None:
        listener = TcpListener(LOOPBACK)
        callers = [await come_while_awaited(listener)]
        callers.append(socket.create_connection(listener.address))
        before = time.process_time()
        await asyncio.sleep(0.5)
        assert time.process_time() - before < 0.1
        (await listener.accept()).close()
        callers.append(await come_while_awaited(listener))
        for caller in callers:
            caller.close()
        listener.close()

    run_on(loop, body())


async def come_while_awaited(listener: TcpListener) -> socket.socket:
    """Return a connection that came when the listener waited for one already."""
    async with asyncio.TaskGroup() as group:
        accepting = group.create_task(listener.accept())
        await asyncio.sleep(0)
        caller = socket.create_connection(listener.address)
    accepting.result().close()
    return caller


@pytest.mark.alone  # what other tests have open counts
@on_both_loops
def test_accepting_pauses_while_descriptors_are_short(loop: str) -> None:
    async def body() -> None:
        listener = TcpListener(LOOPBACK)
        with few_descriptors():
            callers = [socket.create_connection(listener.address) for _ in range(40)]
            accepted: list[socket.socket] = []
            try:
                async with asyncio.timeout(0.3):
                    while True:
                        accepted.append(await listener.accept())
            except TimeoutError:
                pass  # as it must: there are too many of them
            assert max(sock.fileno() for sock in accepted) <= descriptor_limit()
            assert listener.starved > 0
            waiting = len(callers) - len(accepted)
            for sock in (*accepted, *callers[: len(accepted)]):
                sock.close()
            for _ in range(waiting):
                (await listener.accept()).close()
        for sock in callers:
            sock.close()
        listener.close()

    run_on(loop, body())


@on_both_loops
def test_a_connection_that_vanished_is_only_counted(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        listener = TcpListener(LOOPBACK)
        plain = socket.create_connection(listener.address)
        accept = listener._accept_now
        faults = iter([OSError(errno.ECONNABORTED, "gone"), OSError(errno.EMFILE, "no more")])

        def accept_at_last(most: int) -> list[tuple[socket.socket, Address]]:
            for fault in faults:
                raise fault
            return accept(most)

        monkeypatch.setattr(listener, "_accept_now", accept_at_last)
        (await listener.accept()).close()
        assert (listener.vanished, listener.starved) == (1, 1)
        plain.close()
        listener.close()

    run_on(loop, body())


def test_an_ipv6_listener_leaves_ipv4_alone() -> None:
    listener = TcpListener(Address("::1", 0))
    other = TcpListener(Address("127.0.0.1", listener.address.port))
    assert str(listener.address).startswith("[::1]:")
    listener.close()
    other.close()


@contextmanager
def few_descriptors() -> Iterator[None]:
    """Leave room for about 60 more descriptors, and for about 25 below the listener's mark."""
    with socket.socket() as probe:
        lowest = probe.fileno()
    limit = int((lowest + 65) / DESCRIPTOR_SHARE)
    with limited(resource.RLIMIT_NOFILE, limit):
        yield
