"""Which processes have a port, as /proc says (proc(5)): sockets by port, processes by socket."""

import ipaddress
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunnel.stream import Address

LISTENING = {"tcp": "0A", "udp": "07"}  # TCP_LISTEN, TCP_CLOSE: a UDP socket that is not connected
COMMAND_SHOWN = 80  # characters of a command line

_SCRIPT = re.compile(r"[^-=][^=]*")
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Holder:
    """A socket that has a port, and who has that; `pids` is empty where it may not be seen."""

    address: Address
    uid: int
    pids: tuple[int, ...] = ()
    command: str = ""  # of the first of them

    def __str__(self) -> str:
        if not self.pids:
            return f"a process of user {self.uid}"
        more = f" and {len(self.pids) - 1} more" if len(self.pids) > 1 else ""
        return f"process {self.pids[0]}{more} ({self.command})"


def holders_of(layer: str, port: int) -> list[Holder]:
    """Return who listens on a TCP port, or has a UDP port, of any address of this machine."""
    rows = [row for row in _rows(layer) if row.address.port == port]
    owners = _owners({row.inode for row in rows}) if rows else {}
    return [_holder(row, owners.get(row.inode, ())) for row in rows]


@dataclass(frozen=True, slots=True)
class _Row:
    address: Address
    uid: int
    inode: int


def _rows(layer: str) -> Iterator[_Row]:
    for table in (layer, f"{layer}6"):
        with suppress(OSError):  # without IPv6 there is no table of it
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING[layer]:
                    yield _Row(address_in(fields[1]), int(fields[7]), int(fields[9]))


def address_in(text: str) -> Address:
    """Return an address of these tables: words of 32 bits in this machine's order, in hex."""
    host, _, port = text.partition(":")
    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return Address(str(ipaddress.ip_address(packed)), int(port, 16))


def _owners(inodes: set[int]) -> dict[int, tuple[int, ...]]:
    """Return the processes that have each socket, as far as this user may see them."""
    found: dict[int, tuple[int, ...]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            for inode in inodes & _sockets_of(entry):
                found[inode] = (*found.get(inode, ()), int(entry))
    return found


def _sockets_of(pid: str) -> set[int]:
    inodes: set[int] = set()
    with suppress(OSError):  # not ours, or gone
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                match = _SOCKET.fullmatch(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
                if match is not None:
                    inodes.add(int(match[1]))
    return inodes


def _holder(row: _Row, pids: tuple[int, ...]) -> Holder:
    ordered = tuple(sorted(pids))
    return Holder(row.address, row.uid, ordered, _command_of(ordered[0]) if ordered else "")


def _command_of(pid: int) -> str:
    """Return the program of a process, and its script; more of its words might be secret."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        if not words[0]:  # a thread of the kernel
            return Path(f"/proc/{pid}/comm").read_text().strip()
        return " ".join([words[0], *filter(_SCRIPT.fullmatch, words[1:2])])[:COMMAND_SHOWN]
    return "gone by now"
