"""What becomes of a limit of the whole relay where several processes keep to it."""

import hashlib
import mmap
import secrets
from dataclasses import replace

from tunnel.errors import Code, Refused
from tunnel.relay.limits import AddressCounts, address_key
from tunnel.settings.values import GrantLimits, RelaySettings
from tunnel.stream import Address

CELLS = 1 << 18  # of each worker: addresses that share one are counted as one
CELL_BYTES = 4
SALT_BYTES = 8  # at the beginning: nobody may choose addresses that share a cell


def share_of(settings: RelaySettings, workers: int) -> RelaySettings:
    """Return the settings of one of so many workers.

    What strangers use up is spread evenly by chance, and so are its limits. Those of clients are
    kept by the head, and the one of each address is counted in a table that all share.
    """
    limits = settings.limits
    return replace(
        settings,
        limits=replace(
            limits,
            half_open=_part(limits.half_open, workers),
            buffer_total=_part(limits.buffer_total, workers),
        ),
    )


def share_of_client(limits: GrantLimits, workers: int) -> GrantLimits:
    """Return the limits of one client in each of the workers that it is connected to."""
    rate = None if limits.rate is None else _part(limits.rate, workers)
    return replace(limits, streams=_part(limits.streams, workers), rate=rate)


def _part(whole: int, parts: int) -> int:
    return -(-whole // max(1, parts))


def table_bytes(workers: int) -> int:
    """Return the size of an AddressTable."""
    return SALT_BYTES + workers * CELLS * CELL_BYTES


def new_table(descriptor: int, workers: int) -> None:
    """Make a table of a file in memory that is empty and has its size."""
    with mmap.mmap(descriptor, table_bytes(workers)) as table:
        table[:SALT_BYTES] = secrets.token_bytes(SALT_BYTES)


def clear_row(descriptor: int, workers: int, worker: int) -> None:
    """Forget whom a worker has counted that is no more."""
    row = CELLS * CELL_BYTES
    with mmap.mmap(descriptor, table_bytes(workers)) as table:
        start = SALT_BYTES + worker * row
        table[start : start + row] = bytes(row)


class AddressTable(AddressCounts):
    """Counts in memory that all workers map: each writes a row of its own, and adds up all rows.

    A place may be given twice where two workers look at once: `limit` may be passed by as many as
    there are workers, and for a moment.
    """

    def __init__(self, descriptor: int, workers: int, worker: int) -> None:
        super().__init__(0)
        table = memoryview(mmap.mmap(descriptor, table_bytes(workers)))
        self._salt = bytes(table[:SALT_BYTES])
        self._cells = table[SALT_BYTES:].cast("I")
        self._workers = workers
        self._row = worker * CELLS

    def take(self, address: Address) -> str:
        key = address_key(address.host)
        cell = self._cell(key)
        if sum(self._cells[cell + row * CELLS] for row in range(self._workers)) >= self.limit:
            raise Refused(Code.BUSY, f"{self.limit} connections from {key} already")
        self._cells[self._row + cell] += 1
        return key

    def release(self, key: str) -> None:
        self._cells[self._row + self._cell(key)] -= 1

    def _cell(self, key: str) -> int:
        digest = hashlib.blake2b(key.encode(), digest_size=8, key=self._salt).digest()
        return int.from_bytes(digest) % CELLS
