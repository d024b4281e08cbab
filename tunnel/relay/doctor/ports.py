"""Whether the ports of the settings are free, or held by whom, and may be listened on."""

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunnel.relay.doctor.holders import Holder, holders_of
from tunnel.relay.listening import KINDS, WITHOUT_IPV6
from tunnel.runtime.findings import Check, Finding
from tunnel.settings.reload import sockets_of
from tunnel.settings.tree import KeyPath, dotted
from tunnel.settings.values import InheritedAddress, RelaySettings
from tunnel.stream import Address
from tunnel.transport.tcp import family_of

SERVICE_MANAGER = 1  # the process that binds `fd:` addresses
CAP_NET_BIND_SERVICE = 10  # linux/capability.h
UNPRIVILEGED_START = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
USUAL_START = 1024


@dataclass(frozen=True, slots=True)
class Own:
    """The relay that runs on these settings, and what it says that it listens on."""

    pid: int
    listening: frozenset[tuple[str, str]]  # protocol and address


@dataclass(frozen=True, slots=True)
class Port:
    """One socket that the settings ask for: the error of trying it, and who has such a port."""

    wanted_by: KeyPath  # the key of the settings that asks for it
    layer: str  # tcp | udp
    address: Address
    error: int | None = None  # errno; None: it is free
    holders: tuple[Holder, ...] = ()

    @property
    def check(self) -> Check:
        """What it is listed as."""
        return Check("port", f"{self.layer} {self.address}")


def look_at_ports(settings: RelaySettings) -> list[Port]:
    """Return every socket that the settings ask for, each tried and given back."""
    ports = [
        _look_at(("listeners", listener.name, "listen"), layer, address)
        for (layer, address, _), listener in sockets_of(settings.listeners.values()).items()
    ]
    if settings.admin.metrics is not None:
        ports.append(_look_at(("admin", "metrics"), "tcp", settings.admin.metrics))
    return ports


def _look_at(wanted_by: KeyPath, layer: str, address: Address) -> Port:
    if address.port == 0:
        return Port(wanted_by, layer, address)
    holders = holders_of(layer, address.port)
    certain = tuple(each for each in holders if each.address.overlaps(address))
    if isinstance(address, InheritedAddress):
        return Port(wanted_by, layer, address, None, certain)
    if certain:  # not tried: a relay that starts just now must not find us in its way
        return Port(wanted_by, layer, address, errno.EADDRINUSE, certain)
    error = try_to_bind(layer, address)
    # What has [::] may have IPv4 with it; only the attempt tells.
    others = tuple(each for each in holders if each.address.host == "::")
    return Port(wanted_by, layer, address, error, others if error == errno.EADDRINUSE else ())


def try_to_bind(layer: str, address: Address) -> int | None:
    """Return the error number of binding an address as a relay does; None if it can be bound."""
    family = family_of(address.host)
    try:
        with socket.socket(family, KINDS[layer]) as sock:
            if layer == "tcp":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address.host, address.port))
    except OSError as error:
        return error.errno
    return None


def judge_port(port: Port, own: Own | None) -> Finding:
    """Judge one socket, beside what the running relay says of itself."""
    check = port.check
    if own is not None and _is_own(port, own):
        return check.ok(f"held by this relay, process {own.pid}")
    if isinstance(port.address, InheritedAddress):
        return _judge_inherited(port)
    if port.error is None:
        return check.ok("free" if port.address.port else "any port that is free")
    if port.error == errno.EADDRINUSE:
        return _judge_taken(port)
    return _judge_error(port, port.error)


def _is_own(port: Port, own: Own) -> bool:
    """Say whether the running relay has the port; nobody else can then.

    It tells of its listeners; the metrics address is known to be its own by whose socket it is.
    """
    is_told = (port.layer, str(Address(*port.address))) in own.listening
    return is_told or any(own.pid in holder.pids for holder in port.holders)


def _judge_error(port: Port, error: int) -> Finding:
    check, where = port.check, dotted(port.wanted_by)
    if error in (errno.EACCES, errno.EPERM):
        return check.skipped("this user may not listen there: see privileges")
    if port.address.host == "::" and error in WITHOUT_IPV6:
        return check.warning("there is no IPv6 on this machine", "without it, IPv4 alone is served")
    if error == errno.EADDRNOTAVAIL:
        seen = f"this machine does not have the address {port.address.host}"
        return check.failed(seen, f"correct {where}: see `ip address`")
    return check.failed(os.strerror(error).lower(), f"correct {where}")


def _judge_inherited(port: Port) -> Finding:
    check, unit = port.check, "tunnel-relay.socket"
    if not port.holders:
        return check.failed(
            "nobody has bound it for the relay", f"systemctl enable --now {unit}, see its addresses"
        )
    strangers = [each for each in port.holders if each.pids and SERVICE_MANAGER not in each.pids]
    if strangers:
        return check.failed(f"held by {strangers[0]}", f"stop that, then start {unit}")
    return check.ok(f"bound by {port.holders[0]}")


def _judge_taken(port: Port) -> Finding:
    if not port.holders:
        return port.check.failed(
            "it is taken, by a process that cannot be seen", "see `ss -lntup` as root"
        )
    holder = port.holders[0]
    if not holder.pids:
        return port.check.warning(
            f"held by {holder}", "ask as root which that is: it may be this relay"
        )
    return port.check.failed(
        f"held by {holder}",
        f"stop that, or take another port in {dotted(port.wanted_by)}",
    )


@dataclass(frozen=True, slots=True)
class Privileges:
    """What this process may listen on."""

    user: int
    has_capability: bool  # CAP_NET_BIND_SERVICE
    first_free: int  # ports from this one on are for everybody


def own_privileges() -> Privileges:
    """Return what the kernel says of this process."""
    start = USUAL_START
    with suppress(OSError, ValueError):
        start = int(UNPRIVILEGED_START.read_text())
    effective = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    return Privileges(os.geteuid(), bool(effective >> CAP_NET_BIND_SERVICE & 1), start)


def judge_privileges(ports: Sequence[Port], privileges: Privileges, own: Own | None) -> Finding:
    """Judge whether the low ones among the ports may be listened on."""
    check = Check("privileges", "ports")
    low = _low(ports, privileges.first_free)
    shown = ", ".join(map(str, low))
    if not low:
        return check.ok(f"no port below {privileges.first_free} is asked for")
    if own is not None and all(_is_own(port, own) for port in ports if port.address.port in low):
        return check.ok(f"the running relay listens on {shown}")
    if privileges.has_capability:
        return check.ok(f"this user ({privileges.user}) may listen on {shown}")
    return check.failed(
        f"this user ({privileges.user}) may not listen on {shown}",
        "run it by config/systemd (AmbientCapabilities=CAP_NET_BIND_SERVICE), or "
        f"sysctl -w net.ipv4.ip_unprivileged_port_start={low[0]}",
    )


def _low(ports: Iterable[Port], first_free: int) -> list[int]:
    """Return the ports that need a privilege; those that systemd binds need none."""
    wanted = (port.address for port in ports if not isinstance(port.address, InheritedAddress))
    return sorted({address.port for address in wanted if 0 < address.port < first_free})
