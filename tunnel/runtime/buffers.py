"""Whether the kernel grants UDP sockets the buffers that QUIC asks for."""

import socket

from tunnel.runtime.findings import Check, Finding
from tunnel.transport.options import SOCKET_BUFFER_BYTES

_OPTIONS = {"rmem_max": socket.SO_RCVBUF, "wmem_max": socket.SO_SNDBUF}  # of net.core

BUFFERS = Check("buffers", "kernel")


def granted_buffers() -> dict[str, int]:
    """Return by sysctl what a UDP socket is granted of what QUIC asks for, in bytes.

    A socket is asked, as a container may not see the sysctls.
    """
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        for option in _OPTIONS.values():
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        return {  # Linux reports the double
            sysctl: sock.getsockopt(socket.SOL_SOCKET, option) // 2
            for sysctl, option in _OPTIONS.items()
        }


def judge_buffers(granted: dict[str, int]) -> Finding:
    """Judge what a socket was granted."""
    sizes = ", ".join(f"{sysctl} {size}" for sysctl, size in granted.items())
    capped = [sysctl for sysctl, size in granted.items() if size < SOCKET_BUFFER_BYTES]
    if not capped:
        return BUFFERS.ok(f"{sizes}, as much as QUIC asks for")
    settings = " ".join(f"net.core.{sysctl}={SOCKET_BUFFER_BYTES}" for sysctl in capped)
    seen = f"{sizes}: bursts over QUIC may be dropped"
    return BUFFERS.warning(seen, f"sysctl -w {settings}, and in /etc/sysctl.d/")
