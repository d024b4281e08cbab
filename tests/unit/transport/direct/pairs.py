"""Sockets on loopback, two of them joined: `near` and `far` are the ends that a test holds."""

import asyncio
import ctypes
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tunnel.errors import Code
from tunnel.stream import Tally
from tunnel.transport.direct.joint import Joint, Terms
from tunnel.transport.direct.poller import poller
from tunnel.transport.tcp import reset

SO_ATTACH_FILTER = 26  # asm-generic/socket.h
RETURN = 0x06  # linux/bpf_common.h: BPF_RET | BPF_K


def connected() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for sock in (one, other):
        sock.setblocking(False)
    return one, other


@dataclass
class Ends:
    """The outer ends of a joined pair, and what is known of the joint."""

    near: socket.socket
    far: socket.socket
    joint: Joint
    ended: asyncio.Future[Code]
    tally: Tally = field(default_factory=Tally)


@asynccontextmanager
async def joined(terms: Terms | None = None) -> AsyncIterator[Ends]:
    """Join two connections for as long as this is entered."""
    loop = asyncio.get_running_loop()
    near, inner_near = connected()
    inner_far, far = connected()
    ended: asyncio.Future[Code] = loop.create_future()
    terms = terms or Terms()
    for sock in (inner_near, inner_far):
        poller().watch(sock, lambda _: None)
    joint = Joint(poller(), inner_near, inner_far, terms, ended.set_result)
    joint.start()
    try:
        yield Ends(near, far, joint, ended, terms.tally)
    finally:
        joint.cut()
        near.close()
        far.close()


def deafen(sock: socket.socket) -> None:
    """Let the kernel drop all that comes for a socket, and acknowledge nothing of it.

    To its far end it looks like a path that has gone without a word.
    """
    drop_all = struct.pack("=HBBI", RETURN, 0, 0, 0)  # one struct sock_filter
    with memoryview(bytearray(drop_all)) as program:
        address = ctypes.addressof(ctypes.c_char.from_buffer(program))
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, address))


async def feed(sock: socket.socket, content: bytes, dice: random.Random) -> None:
    """Send all, in pieces of random sizes with pauses of random length between, and finish."""
    loop = asyncio.get_running_loop()
    view, at = memoryview(content), 0
    while at < len(view):
        size = dice.choice((1, 100, 5_000, 70_000, 300_000))
        await loop.sock_sendall(sock, view[at : at + size])
        at += size
        await pause(dice)
    sock.shutdown(socket.SHUT_WR)


async def drink(sock: socket.socket, dice: random.Random) -> bytes:
    """Return all that comes until the end, read in random sizes with pauses between."""
    loop = asyncio.get_running_loop()
    pieces = []
    while piece := await loop.sock_recv(sock, dice.choice((1_000, 60_000, 400_000))):
        pieces.append(piece)
        await pause(dice)
    return b"".join(pieces)


async def pause(dice: random.Random) -> None:
    """Let the loop turn a few times, or many."""
    for _ in range(dice.choice((0, 0, 1, 30))):
        await asyncio.sleep(0)


def cut(sock: socket.socket) -> None:
    """Close with a reset."""
    reset(sock)
    sock.close()
