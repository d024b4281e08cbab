"""What one client or one address may use: rates, places and counts."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from tunnel.errors import Code, Refused
from tunnel.settings.values import GrantLimits
from tunnel.stream import Address

_BURST_SECONDS = 0.25  # how much of a rate may pass at once


class TokenBucket:
    """A byte rate: `take` says how long to wait so that the rate is kept.

    The bucket may go into debt: a chunk always passes, the next one waits for it.
    """

    __slots__ = ("_filled_at", "_level", "rate")

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self._level = rate * _BURST_SECONDS
        self._filled_at = now

    def take(self, size: int, now: float) -> float:
        """Take `size` bytes at `now` seconds; return the seconds to wait before passing them."""
        burst = self.rate * _BURST_SECONDS
        self._level = min(self._level + (now - self._filled_at) * self.rate, burst) - size
        self._filled_at = now
        return max(0.0, -self._level / self.rate)


@dataclass(slots=True)
class ClientUse:
    """What one key uses at this relay, over all its sessions."""

    limits: GrantLimits
    connections: int = 0
    streams: int = 0
    bucket: TokenBucket | None = None
    _free: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @asynccontextmanager
    async def stream_place(self, timeout: float) -> AsyncIterator[None]:
        """Hold one of the places for streams, waiting at most `timeout` seconds for it.

        Raises Refused(BUSY) if none came free.
        """
        if not self.has_place:
            await self._wait_for_place(timeout)
        with self.held_place():  # nobody else has run since it was seen free
            yield

    @property
    def has_place(self) -> bool:
        """Whether one more stream is allowed now."""
        return self.streams < self.limits.streams

    @contextmanager
    def held_place(self) -> Iterator[None]:
        """Hold a place that was seen free."""
        self.take_place()
        try:
            yield
        finally:
            self.release_place()

    def take_place(self) -> None:
        """Take a place that was seen free, until `release_place`."""
        self.streams += 1

    def release_place(self) -> None:
        """Give a place back."""
        self.streams -= 1
        self._free.set()

    def reconfigure(self, limits: GrantLimits, now: float) -> None:
        """Keep to other limits from now on; a stream that never had a rate gets none."""
        if limits == self.limits:
            return
        self.limits = limits
        if self.bucket is not None and limits.rate is not None:
            self.bucket.rate = limits.rate
        else:
            self.bucket = client_bucket(limits, now)
        self._free.set()

    async def _wait_for_place(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                while not self.has_place:
                    self._free.clear()
                    await self._free.wait()
        except TimeoutError:
            raise Refused(Code.BUSY, "the client has no place for one more stream") from None


def client_bucket(limits: GrantLimits, now: float) -> TokenBucket | None:
    """Return the bucket of a client with a rate limit, None without one."""
    return TokenBucket(limits.rate, now) if limits.rate is not None else None


@lru_cache(maxsize=4096)
def address_key(host: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return host


class AddressCounts:
    """How many of something each address holds, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._counts: Counter[str] = Counter()

    @contextmanager
    def place(self, address: Address) -> Iterator[None]:
        """Hold one place of the address; raises Refused(BUSY) if it has none left."""
        key = self.take(address)
        try:
            yield
        finally:
            self.release(key)

    def take(self, address: Address) -> str:
        """Take one place of the address and return what to `release`; raises as `place` does."""
        key = address_key(address.host)
        if self._counts[key] >= self.limit:
            raise Refused(Code.BUSY, f"{self.limit} connections from {key} already")
        self._counts[key] += 1
        return key

    def release(self, key: str) -> None:
        """Give a place back."""
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]
