"""Socket options of direct connections, and what the kernel tells of one."""

import socket
import struct
from contextlib import suppress

KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES = 30, 10, 3  # seconds; most NATs forget later
TCP_CONGESTION = getattr(socket, "TCP_CONGESTION", 13)
_LOSS_TOLERANT = b"bbr"
_TCP_INFO = struct.Struct("=100xI52xI")  # linux/tcp.h: total_retrans, data_segs_out


def tune_spare(sock: socket.socket) -> None:
    """Set what a spare has: no Nagle delay, and keep-alive that holds a NAT's entry open."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tune_accepted_spare(sock)


def tune_accepted_spare(sock: socket.socket) -> None:
    """Do so for one that has the rest from its listener (`tunnel.transport.tcp.tune`)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def ask_for_bbr(sock: socket.socket) -> bool:
    """Use BBR, which random loss does not slow down; return whether the kernel has it."""
    with suppress(OSError):  # no such module, or not for users without privileges
        sock.setsockopt(socket.IPPROTO_TCP, TCP_CONGESTION, _LOSS_TOLERANT)
        return True
    return False


def segments_of(sock: socket.socket) -> tuple[int, int]:
    """Return how many segments with data were sent, and how many of them again.

    An old kernel, which does not tell, has sent none.
    """
    told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    if len(told) < _TCP_INFO.size:
        return 0, 0
    resent, sent = _TCP_INFO.unpack(told)
    return sent, resent
