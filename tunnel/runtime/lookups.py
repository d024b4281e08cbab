"""Asking the system for the addresses of a name, and being back in time whatever it does.

The C library may wait for name servers for half a minute, and cannot be told to stop.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass

from tunnel.settings.network_kinds import is_ip
from tunnel.transport.tcp import reason_of

RESOLVER_ADVICE = "see /etc/resolv.conf: is a name server there that answers?"

# What getaddrinfo says where name servers have answered: there is no such name, or no address.
_MISSING = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


@dataclass(frozen=True, slots=True)
class Lookup:
    """What came of a look-up; `trouble` is in words and empty where there are addresses."""

    host: str
    addresses: tuple[str, ...] = ()  # IP addresses, in the system's order
    trouble: str = ""
    is_missing: bool = False  # we were told that there is none, so that asking again does not help

    @property
    def is_literal(self) -> bool:
        """Whether there was nothing to ask: the host is an IP address."""
        return is_ip(self.host)


async def look_up(host: str, timeout: float) -> Lookup:
    """Return the addresses of a host within `timeout` seconds; never raises. Cancel-safe."""
    if is_ip(host):
        return Lookup(host, (host,))
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Lookup] = loop.create_future()

    def settle(lookup: Lookup) -> None:
        if not answer.done():
            answer.set_result(lookup)

    def ask() -> None:
        lookup = _asked(host)
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(settle, lookup)

    # Not in the loop's executor, which is waited for at the end: a daemon thread is left behind.
    threading.Thread(target=ask, name=f"look up {host}", daemon=True).start()
    try:
        async with asyncio.timeout(timeout):
            return await answer
    except TimeoutError:
        return Lookup(host, trouble=f"no answer within {timeout:g} s")


def _asked(host: str) -> Lookup:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return Lookup(host, trouble=reason_of(error).lower(), is_missing=error.errno in _MISSING)
    except (OSError, UnicodeError) as error:
        return Lookup(host, trouble=reason_of(error))
    addresses = (str(name[0]).partition("%")[0] for *_, name in found)
    return Lookup(host, tuple(dict.fromkeys(addresses)))
