"""Sockets on loopback, two of them joined: `near` and `far` are the ends that a test holds."""

import asyncio
import ctypes
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tunnel.errors import Code
from tunnel.stream import Tally
from tunnel.transport.direct.joint import MESSAGES, Joint, Terms
from tunnel.transport.direct.poller import poller
from tunnel.transport.direct.way import Way
from tunnel.transport.tcp import reset

MIB = 1 << 20
WORD = b"word"
WORDS_BYTES = len(WORD) * MESSAGES  # that `converse` sends each way
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

    def seen_from(self, who: str) -> tuple[socket.socket, socket.socket, Way]:
        """Return that end, the opposite one, and the way from one to the other."""
        if who == "near":
            return self.near, self.far, self.joint.forth
        return self.far, self.near, self.joint.back


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
    """Let the loop turn a few times, or many, and now and then a few milliseconds pass."""
    for _ in range(dice.choice((0, 0, 1, 30))):
        await asyncio.sleep(0)
    if dice.random() < 0.1:
        await asyncio.sleep(dice.uniform(0.001, 0.005))


def cut(sock: socket.socket) -> None:
    """Close with a reset."""
    reset(sock)
    sock.close()


async def send_until(sock: socket.socket, claim: Callable[[], bool]) -> bytes:
    """Send until the claim is true, and return what was sent.

    It waits for no room, of which there may be none left by then.
    """
    piece, sent = random.Random(4).randbytes(MIB), bytearray()
    while not claim():
        with suppress(BlockingIOError):
            sent += piece[: sock.send(piece)]
        await asyncio.sleep(0)
    return bytes(sent)


async def hear_until_cut(sock: socket.socket) -> bytes:
    """Return all that comes before a reset; fails where an end comes instead."""
    loop = asyncio.get_running_loop()
    pieces = []
    try:
        while piece := await loop.sock_recv(sock, MIB):
            pieces.append(piece)
    except ConnectionResetError:
        return b"".join(pieces)
    raise AssertionError("an end came")


async def converse(one: socket.socket, other: socket.socket) -> None:
    """Ask and answer until the loop reads both sockets of the joint itself."""
    loop = asyncio.get_running_loop()
    for _ in range(MESSAGES):
        for speaker, listener in ((one, other), (other, one)):
            await loop.sock_sendall(speaker, WORD)
            assert await loop.sock_recv(listener, 10) == WORD
    assert repr(poller()) == "<Poller 2 sockets, 2 of them read by the loop>"


async def exchange(ends: Ends, seed: int, size: int = 3 * MIB, counted: int = 0) -> None:
    """Send random bytes both ways at random paces, and compare them.

    `counted` bytes have passed each way before.
    """
    dice = random.Random(seed)
    there, back = dice.randbytes(dice.randrange(size)), dice.randbytes(dice.randrange(size))
    async with asyncio.TaskGroup() as group:
        group.create_task(feed(ends.near, there, random.Random(seed + 1)))
        group.create_task(feed(ends.far, back, random.Random(seed + 2)))
        arrived = group.create_task(drink(ends.far, random.Random(seed + 3)))
        returned = group.create_task(drink(ends.near, random.Random(seed + 4)))
    assert arrived.result() == there
    assert returned.result() == back
    assert await ends.ended is Code.OK
    tally = ends.tally
    assert (tally.forth, tally.back) == (counted + len(there), counted + len(back))
