"""Whether the names of the settings lead here: those under each suffix, and the relay's own."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from tunnel.runtime.findings import Check, Finding
from tunnel.runtime.lookups import RESOLVER_ADVICE, Lookup, look_up
from tunnel.settings.values import RelaySettings
from tunnel.transport.tcp import family_of

LOOKUP_TIMEOUT = 5.0  # seconds, for each name
NAMES_MAX = 32  # that are looked up, all at once
SAMPLE = "0" * 32  # an id: what is asked for under a suffix, where a wildcard record answers

_LOCAL = ("localhost", ".localhost")  # never asked of a name server (RFC 6761 §6.3)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A name to be looked up, and the record that would make it resolve."""

    name: str
    record: str


@dataclass(frozen=True, slots=True)
class Led:
    """Where a name leads; `here` are those of its addresses that this machine has."""

    wanted: Wanted
    lookup: Lookup
    here: tuple[str, ...] = ()


def wanted_names(settings: RelaySettings) -> list[Wanted]:
    """Return the names that are to lead here, as many as are looked up."""
    return list(dict.fromkeys(_wanted(settings)))[:NAMES_MAX]


def _wanted(settings: RelaySettings) -> Iterator[Wanted]:
    for name in settings.certificate.names:
        yield Wanted(name, name)
    for suffix in settings.suffixes:
        yield Wanted(f"{SAMPLE}.{suffix}", f"*.{suffix}")


async def look_at_names(settings: RelaySettings) -> list[Led]:
    """Return where the names lead. Cancel-safe."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_look_at(each)) for each in wanted_names(settings)]
    return [task.result() for task in tasks]


async def _look_at(wanted: Wanted) -> Led:
    lookup = await look_up(wanted.name, LOOKUP_TIMEOUT)
    return Led(wanted, lookup, tuple(filter(is_here, lookup.addresses)))


def is_here(host: str) -> bool:
    """Say whether an IP address is one of this machine's."""
    try:
        with socket.socket(family_of(host), socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0))
    except OSError:
        return False
    return True


def judge_name(led: Led) -> Finding:
    """Judge where a name leads."""
    wanted, lookup = led.wanted, led.lookup
    check = Check("name", wanted.record)
    if wanted.name.endswith(_LOCAL):
        return check.skipped("it is this machine's own, for this machine alone")
    if lookup.is_missing:
        return check.failed(
            f"{wanted.name} does not resolve: {lookup.trouble}",
            f"add an A or AAAA record for {wanted.record} that points here",
        )
    if not lookup.addresses:
        return check.warning(
            f"{wanted.name} could not be looked up: {lookup.trouble}",
            RESOLVER_ADVICE,
        )
    where = ", ".join(lookup.addresses)
    if led.here:
        return check.ok(f"{where}, an address of this machine")
    return check.warning(
        f"{where}, which this machine does not have",
        "right if address translation or a balancer leads from there to here; else correct it",
    )
