"""What becomes of limits where several processes keep to them."""

import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tunnel.errors import Refused
from tunnel.relay.workers.shares import (
    AddressTable,
    clear_row,
    new_table,
    share_of,
    share_of_client,
    table_bytes,
)
from tunnel.settings.values import GrantLimits, RelayLimits, RelaySettings
from tunnel.stream import Address

WORKERS = 3
HERE, THERE = Address("192.0.2.1", 1), Address("192.0.2.2", 1)
SETTINGS = RelaySettings("eu1", Path("/nowhere"), {}, {}, workers=WORKERS)


@pytest.fixture
def table() -> Iterator[int]:
    descriptor = os.memfd_create("addresses")
    os.ftruncate(descriptor, table_bytes(WORKERS))
    new_table(descriptor, WORKERS)
    yield descriptor
    os.close(descriptor)


def tables(descriptor: int, limit: int) -> list[AddressTable]:
    """Return the table as each worker has it."""
    made = [AddressTable(descriptor, WORKERS, worker) for worker in range(WORKERS)]
    for each in made:
        each.limit = limit
    return made


def test_what_strangers_use_up_is_divided_and_rounded_up() -> None:
    settings = replace(SETTINGS, limits=RelayLimits(half_open=100, buffer_total=1000))
    limits = share_of(settings, WORKERS).limits
    assert (limits.half_open, limits.buffer_total) == (34, 334)
    assert (limits.connections, limits.visitors_per_address) == (20_000, 256)


def test_a_client_of_one_worker_has_all_that_is_its_own() -> None:
    limits = GrantLimits(streams=10, connections=4, rate=1000)
    assert share_of_client(limits, 1) == limits


def test_a_client_of_several_has_a_part_in_each() -> None:
    limits = share_of_client(GrantLimits(streams=10, connections=4, rate=1000), 3)
    assert limits == GrantLimits(streams=4, connections=4, rate=334)
    assert share_of_client(GrantLimits(), 2).rate is None


def test_visitors_of_one_address_are_counted_over_all_workers(table: int) -> None:
    first, second, third = tables(table, limit=3)
    with ExitStack() as places:
        places.enter_context(first.place(HERE))
        places.enter_context(second.place(HERE))
        places.enter_context(second.place(HERE))
        with pytest.raises(Refused, match="busy"), third.place(HERE):
            pass
        places.enter_context(third.place(THERE))
    with third.place(HERE):
        pass


def test_whom_a_worker_has_counted_that_is_gone_is_forgotten(table: int) -> None:
    first, second, _ = tables(table, limit=1)
    with second.place(HERE):
        with pytest.raises(Refused), first.place(HERE):
            pass
        clear_row(table, WORKERS, 1)
        with first.place(HERE):
            pass
        # What follows is of the test alone: a worker that is gone leaves no place.
        with mmap.mmap(table, table_bytes(WORKERS)) as content:
            content[:] = content[:8] + bytes(b"\1\0\0\0" * ((len(content) - 8) // 4))
