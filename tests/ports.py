"""Ports of loopback for what a test is about to start.

A port that is free now may be somebody else's a moment later. So tests get theirs one after
another, all test processes of a user together, from below those that the kernel gives to whoever
asks for none: it is a long time before anybody is given the same one again.
"""

import fcntl
import os
import socket
import tempfile
from pathlib import Path

FIRST, LAST = 10_000, 32_767  # Linux gives those from 32768 on
_LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a port on which nobody is by TCP or UDP, and nobody else will be soon."""
    with _turn().open("a+") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        turn.seek(0)
        port = _next_free(int(turn.read() or LAST))
        turn.truncate(0)
        turn.write(str(port))
    return port


def _turn() -> Path:
    """Return the file with the port that was given last."""
    return Path(tempfile.gettempdir()) / f"quic-tunnel-tests-{os.getuid()}.port"


def _next_free(port: int) -> int:
    for _ in range(FIRST, LAST + 1):
        port = port + 1 if FIRST <= port < LAST else FIRST
        if _is_free(port):
            return port
    raise AssertionError(f"every port from {FIRST} to {LAST} is taken")


def _is_free(port: int) -> bool:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        try:
            tcp.bind((_LOOPBACK, port))
            udp.bind((_LOOPBACK, port))
        except OSError:
            return False
    return True
