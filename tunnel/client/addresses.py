"""From a relay's address to a connection: every address of both families is tried.

Nothing here sets a deadline over all: the caller has one for the whole registration.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import chain, zip_longest

from tunnel.errors import DialFailed, TunnelError
from tunnel.settings.network_kinds import is_ip
from tunnel.stream import Address, Connection
from tunnel.transport.tcp import reason_of

STAGGER = 0.25  # seconds between two attempts, RFC 8305 §5


async def resolve(address: Address) -> list[Address]:
    """Return all addresses of a relay, families in turn (RFC 8305 §4); raises DialFailed."""
    if is_ip(address.host):
        return [address]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        cause = reason_of(error) if isinstance(error, OSError) else str(error)
        raise DialFailed(f"cannot resolve {address.host}: {cause}") from error
    return interleaved([Address(*name[:2]) for *_, name in found])


def interleaved(addresses: Sequence[Address]) -> list[Address]:
    """Return the addresses, each once, with the families in turn, beginning with the first one's.

    The order within a family stays: the resolver has put the best first (RFC 6724).
    """
    unique = list(dict.fromkeys(addresses))
    leads_with_6 = ":" in unique[0].host if unique else False
    first = [address for address in unique if (":" in address.host) is leads_with_6]
    second = [address for address in unique if address not in first]
    turns = chain.from_iterable(zip_longest(first, second))
    return [address for address in turns if address is not None]


async def dial_any(
    addresses: Sequence[Address],
    dial: Callable[[Address], Awaitable[Connection]],
    stagger: float = STAGGER,
) -> Connection:
    """Return the first connection made; each next address is begun `stagger` seconds later.

    It is begun at once when an attempt fails. Raises DialFailed, with every cause, if none
    succeeds. Cancel-safe as far as `dial` is.
    """
    if not addresses:
        raise DialFailed("the name has no address")
    if len(addresses) == 1:
        return await dial(addresses[0])
    return await _Attempts(dial, stagger).run(addresses)


class _Attempts:
    """Attempts that overlap; the first to succeed ends the others."""

    def __init__(self, dial: Callable[[Address], Awaitable[Connection]], stagger: float) -> None:
        self._dial = dial
        self._stagger = stagger
        self._failures: list[str] = []
        self._winner: Connection | None = None
        self._news = asyncio.Event()

    async def run(self, addresses: Sequence[Address]) -> Connection:
        try:
            async with asyncio.TaskGroup() as group:
                await self._race(addresses, group)
        except BaseException:
            if self._winner is not None:
                self._winner.close()
            raise
        if self._winner is None:
            raise DialFailed("; ".join(self._failures))
        return self._winner

    async def _race(self, addresses: Sequence[Address], group: asyncio.TaskGroup) -> None:
        attempts = []
        for address in addresses:
            attempts.append(group.create_task(self._attempt(address), name=f"dial {address}"))
            await self._await_news(self._stagger)
            if self._winner is not None:
                break
        while self._winner is None and len(self._failures) < len(attempts):
            await self._await_news(None)
        for attempt in attempts:
            attempt.cancel()

    async def _attempt(self, address: Address) -> None:
        try:
            connection = await self._dial(address)
        except TunnelError as failure:
            self._failures.append(str(failure))
        else:
            if self._winner is not None:  # both came in the same turn of the loop
                connection.close()
                return
            self._winner = connection
        self._news.set()

    async def _await_news(self, timeout: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._news.wait()
        self._news.clear()
