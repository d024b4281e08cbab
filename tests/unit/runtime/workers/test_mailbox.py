"""Sockets on their way to another process."""

import asyncio
import socket

import pytest

from tests.unit.relay.scenes import in_loop
from tunnel.errors import Refused, RemoteProtocolError
from tunnel.runtime.workers.mailbox import Mailbox, Tray, drop, new_mailbox


async def taken(mailbox: Mailbox, count: int) -> list[tuple[bytes, socket.socket]]:
    """Return what is in the mailbox."""
    got: list[tuple[bytes, socket.socket]] = []
    enough = asyncio.Event()

    def take(note: bytes, sock: socket.socket) -> None:
        got.append((note, sock))
        if len(got) == count:
            enough.set()

    tray = Tray(mailbox.tray, lambda note: note, take)
    async with asyncio.timeout(5):
        await enough.wait()
    tray.close()
    return got


def fill(mailbox: Mailbox, sock: socket.socket) -> None:
    """Drop more in than anybody could take out."""
    for _ in range(100_000):
        drop(mailbox.slot, b"x" * 1000, sock)


@in_loop
async def test_a_socket_arrives_with_its_note_and_all_that_is_unread_in_it() -> None:
    mailbox, (near, far) = new_mailbox(), socket.socketpair()
    far.send(b"hello")
    drop(mailbox.slot, b"whose it is", near)
    near.close()
    [(note, sock)] = await taken(mailbox, 1)
    assert (note, sock.recv(10)) == (b"whose it is", b"hello")
    sock.send(b"back")
    assert far.recv(10) == b"back"
    for each in (*mailbox, far, sock):
        each.close()


@in_loop
async def test_what_was_dropped_in_is_there_for_the_next_owner() -> None:
    mailbox, sock = new_mailbox(), socket.socket()
    former = mailbox.tray.dup()
    for number in range(100):
        drop(mailbox.slot, b"%d" % number, sock)
    former.close()
    got = await taken(mailbox, 100)
    assert [note for note, _ in got] == [b"%d" % number for number in range(100)]
    for each in (*mailbox, sock, *(each for _, each in got)):
        each.close()


@in_loop
async def test_a_full_mailbox_refuses_and_nobody_waits() -> None:
    mailbox, sock = new_mailbox(), socket.socket()
    with pytest.raises(Refused, match="not handed over"):
        fill(mailbox, sock)
    for each in (*mailbox, sock):
        each.close()


@in_loop
async def test_a_socket_whose_note_means_nothing_is_closed() -> None:
    mailbox, (near, far) = new_mailbox(), socket.socketpair()

    def read(note: bytes) -> bytes:
        raise RemoteProtocolError("means nothing")

    tray = Tray(mailbox.tray, read, lambda _note, _sock: pytest.fail("taken"))
    drop(mailbox.slot, b"?", near)
    near.close()
    far.settimeout(5)
    assert await asyncio.to_thread(far.recv, 1) == b""
    tray.close()
    for each in (*mailbox, far):
        each.close()
