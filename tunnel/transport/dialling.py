"""Connecting a plain socket: to a Unix socket, or over TCP to whichever address answers.

Nothing is read or written here: what the socket is for, its caller decides.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunnel.errors import DialFailed
from tunnel.stream import Address
from tunnel.transport.tcp import reason_of


async def connect_socket(address: Address, timeout: float) -> socket.socket:
    """Return a connected non-blocking socket to a TCP address, or to any that its name has.

    Raises DialFailed. Cancel-safe.
    """
    loop, family = asyncio.get_running_loop(), family_of_literal(address.host)
    try:
        if family is not None:
            return await _connect_to((family, socket.SOCK_STREAM, 0, "", address), timeout)
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            return await _connect_any(found, timeout)
    except TimeoutError as error:
        raise DialFailed(f"cannot connect to {address}: no answer within {timeout:g} s") from error
    except (OSError, UnicodeError) as error:  # IDNA takes some names for no names
        raise DialFailed(f"cannot connect to {address}: {reason_of(error)}") from error


async def connect_unix_socket(path: Path, timeout: float) -> socket.socket:
    """Return a non-blocking socket connected to a Unix socket; raises DialFailed. Cancel-safe."""
    try:
        return await _connect_to((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", str(path)), timeout)
    except TimeoutError as error:
        raise DialFailed(f"cannot connect to {path}: no answer within {timeout:g} s") from error
    except OSError as error:
        raise DialFailed(f"cannot connect to {path}: {reason_of(error)}") from error


@lru_cache(maxsize=256)
def family_of_literal(host: str) -> socket.AddressFamily | None:
    """Return the family of an IP address as text, None for a name: that needs a thread to look up.

    An address with a zone is left to the resolver as well.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return family
    return None


async def _connect_any(found: Sequence[tuple[Any, ...]], timeout: float) -> socket.socket:
    """Try one address after another, each for its share of the time; raises the last OSError."""
    *others, last = found
    share = timeout / len(found)
    for entry in others:
        with suppress(OSError):
            return await _connect_to(entry, share)
    return await _connect_to(last, timeout)


async def _connect_to(entry: tuple[Any, ...], timeout: float) -> socket.socket:
    family, kind, protocol, _, name = entry
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        await _connect(sock, name, timeout)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(sock: socket.socket, name: Any, timeout: float) -> None:
    """Do as the loop's own: uvloop's has a thread look up the address, even one in digits."""
    number = sock.connect_ex(name)
    if number == errno.EINPROGRESS and _is_connected(sock):
        number = 0
    elif number == errno.EINPROGRESS:
        async with asyncio.timeout(timeout):
            await _writable(sock)
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _is_connected(sock: socket.socket) -> bool:
    """Say whether that took no time, as on loopback: an event of the loop costs much more."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


async def _writable(sock: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock.fileno())
