"""Sockets that a worker has of the head."""

import asyncio
import socket

from tests.unit.relay.scenes import in_loop
from tunnel.relay.workers.given import PassedSockets
from tunnel.relay.workers.parcels import HandedListener

KEY = "tcp 127.0.0.1:443 "


@in_loop
async def test_a_socket_that_is_on_its_way_is_waited_for() -> None:
    sockets, sock = PassedSockets(), socket.socket()
    sockets.announce(1, [KEY])
    async with asyncio.TaskGroup() as group:
        taking = group.create_task(sockets.take(KEY))
        await asyncio.sleep(0)
        sockets.put(HandedListener(KEY, 1), sock)
    assert taking.result() is sock
    sock.close()


@in_loop
async def test_what_was_not_announced_is_not_listened_on() -> None:
    sockets = PassedSockets()
    sockets.announce(1, [])
    assert await sockets.take(KEY) is None


@in_loop
async def test_what_comes_before_it_is_announced_is_kept() -> None:
    sockets, sock = PassedSockets(), socket.socket()
    sockets.announce(1, [])
    sockets.put(HandedListener(KEY, 2), sock)
    sockets.announce(2, [KEY])
    assert await sockets.take(KEY) is sock
    sock.close()


@in_loop
async def test_nothing_is_held_for_a_reload_that_came_to_nothing() -> None:
    sockets, early, late = PassedSockets(), socket.socket(), socket.socket()
    sockets.announce(2, [KEY])
    sockets.put(HandedListener(KEY, 2), early)
    sockets.forsake()
    sockets.put(HandedListener(KEY, 2), late)
    assert (early.fileno(), late.fileno()) == (-1, -1)


@in_loop
async def test_what_was_for_a_worker_before_this_one_is_closed() -> None:
    sockets, sock = PassedSockets(), socket.socket()
    sockets.announce(5, [KEY])
    sockets.put(HandedListener(KEY, 4), sock)
    assert sock.fileno() == -1
