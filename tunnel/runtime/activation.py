"""Sockets that the service manager has bound before the process began (sd_listen_fds(3)).

They are told apart by what they are, not by their names: all sockets of one unit share a name.
"""

import os
import socket
from collections.abc import MutableMapping, Sequence

from tunnel.errors import ListenFailed
from tunnel.log import get_log
from tunnel.settings.values import InheritedAddress
from tunnel.stream import Address
from tunnel.transport.tcp import address_of

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_KINDS = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}

log = get_log(__name__)


class InheritedSockets:
    """What was passed, kept open until `close`: a listener that is closed may be opened again."""

    def __init__(self, passed: Sequence[socket.socket] = ()) -> None:
        self._passed = tuple(passed)
        self._wanted: set[socket.socket] = set()

    def __repr__(self) -> str:
        return f"<InheritedSockets {', '.join(map(described, self._passed)) or 'none'}>"

    def take(self, address: InheritedAddress, kind: socket.SocketKind) -> socket.socket:
        """Return a socket of the caller's own, non-blocking, for what was bound there.

        Raises ListenFailed where nothing was. To close it leaves the service manager's alone, and
        all who wait there to be accepted.
        """
        wanted = f"{_KINDS[kind]} {Address(*address)}"
        for sock in self._passed:
            if described(sock) == wanted:
                self._wanted.add(sock)
                taken = sock.dup()
                taken.setblocking(False)  # noqa: FBT003 - the standard library's signature
                return taken
        passed = ", ".join(map(described, self._passed)) or "no socket at all"
        raise ListenFailed(f"no socket for {wanted} came from systemd, which passed {passed}")

    def warn_of_unwanted(self) -> None:
        """Log each socket that nobody has taken: whoever connects there waits in vain."""
        for sock in self._passed:
            if sock not in self._wanted:
                log.warning("socket from systemd is in no listener", socket=described(sock))

    def close(self) -> None:
        """Let go of all of them."""
        for sock in self._passed:
            sock.close()


def inherited_sockets(environment: MutableMapping[str, str]) -> InheritedSockets:
    """Take over what was passed to this process; nothing is left in `environment` to tell of it."""
    given = {name: environment.pop(name, "") for name in _VARIABLES}
    if given["LISTEN_PID"] != str(os.getpid()) or not given["LISTEN_FDS"].isdecimal():
        return InheritedSockets()
    count = int(given["LISTEN_FDS"])
    return InheritedSockets(
        [_adopted(number) for number in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + count)]
    )


def _adopted(descriptor: int) -> socket.socket:
    """Return the socket that a descriptor is; raises ListenFailed for anything else."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as fault:
        message = f"descriptor {descriptor} that systemd passed is no socket: {fault.strerror}"
        raise ListenFailed(message) from fault
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - the standard library's signature
    return sock


def described(sock: socket.socket) -> str:
    """Return what a socket is in the words of settings: `tcp 0.0.0.0:443`, `udp [::]:4433`."""
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return f"a socket of {sock.family.name}"
    if sock.type == socket.SOCK_STREAM and not sock.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        return "a tcp socket that does not listen (Accept=yes?)"
    return f"{_KINDS.get(sock.type, sock.type.name)} {address_of(sock.getsockname())}"
