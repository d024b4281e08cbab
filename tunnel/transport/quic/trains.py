"""Datagrams of one size in one piece, as the kernel joins and cuts them (udp(7)). Pure.

What is done to all of them at once costs a fraction of doing it to one after the other.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from struct import iter_unpack
from typing import Any, overload

TOGETHER = 16  # pieces that are cut by one step
SEGMENTS_MAX, SEGMENTS_BYTES_MAX = 64, 65_000  # of one system call; 65,507 fill a datagram


def pieces(joined: bytes | memoryview, size: int, pattern: str = "") -> Iterator[bytes]:
    """Return what is joined in pieces of `size` bytes, or what `pattern` (struct) takes of each.

    They are cut many at a time: one by one it takes twice as long.
    """
    pattern = pattern or f"{size}s"
    view, step = memoryview(joined), size * TOGETHER
    most = len(view) // step * step
    together = iter_unpack(pattern * TOGETHER, view[:most])
    return chain.from_iterable(chain(together, iter_unpack(pattern, view[most:])))


class Train(Sequence[bytes]):
    """Datagrams of `size` bytes, the last perhaps of fewer, one behind the other in `joined`."""

    __slots__ = ("_cut", "joined", "size")

    def __init__(self, joined: bytes, size: int) -> None:
        self.joined = joined
        self.size = size
        self._cut: list[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Train of {len(self)} datagrams, {self.size} bytes each>"

    def __len__(self) -> int:
        return (len(self.joined) + self.size - 1) // self.size

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if self._cut is None:
            self._cut = list(self.columns(0, self.size))
        return self._cut[index]

    @property
    def shortest(self) -> int:
        """Bytes of the last one."""
        return len(self.joined) % self.size or self.size

    def columns(self, start: int, stop: int) -> Iterator[bytes]:
        """Return the bytes from `start` to before `stop` (at most `size`) of each datagram."""
        whole = len(self.joined) // self.size * self.size
        pattern = f"{start}x{stop - start}s{self.size - stop}x"
        equal = pieces(memoryview(self.joined)[:whole], self.size, pattern)
        if whole == len(self.joined):
            return equal
        return chain(equal, (self.joined[whole + start : whole + stop],))

    def first(self, count: int) -> "Train":
        """Return the first datagrams, not more than there are."""
        return Train(self.joined[: count * self.size], self.size)

    def after(self, count: int) -> "Train":
        """Return all but the first datagrams."""
        return Train(self.joined[count * self.size :], self.size)

    def shared(self, start: int, stop: int) -> bytes | None:
        """Return the bytes from `start` to before `stop` if all have the same there."""
        if self.size < stop or self.shortest < stop:
            return None
        first, count = self.joined[start:stop], len(self)
        is_shared = all(
            self.every(position).count(octet) == count
            for position, octet in enumerate(first, start)
        )
        return first if is_shared else None

    def every(self, position: int) -> bytes:
        """Return the byte at a position of each datagram that has one there."""
        return self.joined[position :: self.size]


Datagram = tuple[bytes, Any]
"""What it holds, and the far end's address as Python gives it."""

Burst = tuple[Sequence[bytes], Any]
"""Datagrams that come or go one after the other, with the far end's address."""


def coupled(groups: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Return size and number of the datagrams of each train that these make, in their order.

    `groups` are sizes, and how many datagrams of each follow each other.
    """
    size = count = most = 0
    for octets, number in groups:
        left = number
        if number == 1 and octets < size and count < most:
            yield size, count + 1  # with a shorter one it is complete
            size = count = left = 0
        while left:
            if octets != size or count == most:
                if count:
                    yield size, count
                size, count = octets, 0
                most = max(1, min(SEGMENTS_MAX, SEGMENTS_BYTES_MAX // max(1, size)))
            added = min(left, most - count)
            count, left = count + added, left - added
    if count:
        yield size, count


def trains_of(datagrams: Sequence[bytes]) -> Iterator[Train]:
    """Couple datagrams of whatever sizes, in their order."""
    start = 0
    for size, count in coupled((len(each), 1) for each in datagrams):
        yield Train(b"".join(datagrams[start : start + count]), size)
        start += count


def shortest(datagrams: Sequence[bytes]) -> int:
    """Return the bytes of the shortest one."""
    return datagrams.shortest if isinstance(datagrams, Train) else min(map(len, datagrams))


def remaining(datagrams: Sequence[bytes], count: int) -> Sequence[bytes]:
    """Return all but the first datagrams, joined if they are a train."""
    return datagrams.after(count) if isinstance(datagrams, Train) else datagrams[count:]


def by_address(datagrams: Iterable[Datagram]) -> list[Burst]:
    """Return bursts of datagrams, in their order."""
    return [
        ([payload for payload, _ in group], address)
        for address, group in groupby(datagrams, itemgetter(1))
    ]
