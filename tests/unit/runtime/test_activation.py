"""Sockets passed by a service manager: real ones, in a process of its own where numbers matter."""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tunnel.errors import ListenFailed
from tunnel.runtime.activation import InheritedSockets, inherited_sockets
from tunnel.settings.values import InheritedAddress

ROOT = Path(__file__).parents[3]
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bound(stack: ExitStack, kind: socket.SocketKind, host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = stack.enter_context(socket.socket(family, kind))
    sock.bind((host, 0))
    if kind == TCP:
        sock.listen()
    return sock


def place(sock: socket.socket) -> InheritedAddress:
    return InheritedAddress(*sock.getsockname()[:2])


def test_a_socket_is_found_by_its_type_and_address(stack: ExitStack) -> None:
    hosts = ["127.0.0.1", "127.0.0.2", "::1"]
    passed = [bound(stack, kind, host) for host in hosts for kind in (TCP, UDP)]
    sockets = InheritedSockets(passed)
    for sock in passed:
        with sockets.take(place(sock), sock.type) as taken:
            assert os.fstat(taken.fileno()).st_ino == os.fstat(sock.fileno()).st_ino
            assert not taken.getblocking()


def test_what_is_closed_may_be_taken_again(stack: ExitStack) -> None:
    sock = bound(stack, TCP)
    sockets = InheritedSockets([sock])
    sockets.take(place(sock), TCP).close()
    with sockets.take(place(sock), TCP) as taken:
        assert taken.getsockname() == sock.getsockname()


def test_a_missing_socket_is_named_and_so_is_what_was_passed(stack: ExitStack) -> None:
    one, other = bound(stack, TCP), bound(stack, UDP, "::1")
    expected = (
        f"no socket for udp 127.0.0.1:443 came from systemd, which passed "
        f"tcp 127.0.0.1:{one.getsockname()[1]}, udp [::1]:{other.getsockname()[1]}"
    )
    with pytest.raises(ListenFailed) as failed:
        InheritedSockets([one, other]).take(InheritedAddress("127.0.0.1", 443), UDP)
    assert str(failed.value) == expected


def test_a_start_without_systemd_is_told_that_nothing_was_passed() -> None:
    with pytest.raises(ListenFailed, match=r"which passed no socket at all$"):
        InheritedSockets().take(InheritedAddress("127.0.0.1", 443), TCP)


def test_a_connection_is_not_taken_for_a_listener(stack: ExitStack) -> None:
    listener = bound(stack, TCP)
    stack.enter_context(socket.create_connection(listener.getsockname()))
    accepted = stack.enter_context(listener.accept()[0])
    with pytest.raises(ListenFailed, match=r"passed a tcp socket that does not listen"):
        InheritedSockets([accepted]).take(place(accepted), TCP)


def test_a_unix_socket_is_named_as_one(stack: ExitStack) -> None:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    assert repr(InheritedSockets([sock])) == "<InheritedSockets a socket of AF_UNIX>"


def test_a_socket_in_no_listener_is_warned_of(
    stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, unwanted = bound(stack, TCP), bound(stack, UDP)
    sockets = InheritedSockets([wanted, unwanted])
    sockets.take(place(wanted), TCP).close()
    sockets.warn_of_unwanted()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert getattr(record, "fields", None) == {"socket": f"udp 127.0.0.1:{place(unwanted).port}"}


def test_what_was_passed_to_another_process_is_left_alone() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "HOME": "/"}
    assert repr(inherited_sockets(environment)) == "<InheritedSockets none>"
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize("count", ["", "-1", "many"])
def test_a_number_of_sockets_that_is_none_counts_as_none(count: str) -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}
    assert repr(inherited_sockets(environment)) == "<InheritedSockets none>"


# Puts its standard input in the place of the first descriptor that a manager passes.
PASSED = """
import json, os, socket, sys
from tunnel.errors import ListenFailed
from tunnel.runtime.activation import inherited_sockets
os.dup2(0, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="relay.socket")
try:
    inherited = inherited_sockets(os.environ)
    shown = [repr(inherited), os.get_inheritable(3)]
except ListenFailed as fault:
    shown = [str(fault)]
print(json.dumps([*shown, sorted(name for name in os.environ if name.startswith("LISTEN"))]))
"""


def shown_by(descriptor: int) -> list[object]:
    command = [sys.executable, "-c", PASSED]
    run = subprocess.run(
        command, stdin=descriptor, stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=15
    )
    shown: list[object] = json.loads(run.stdout)
    return shown


def test_descriptors_from_3_on_are_taken_over(stack: ExitStack) -> None:
    sock = bound(stack, TCP)
    inherited = f"<InheritedSockets tcp 127.0.0.1:{place(sock).port}>"
    assert shown_by(sock.fileno()) == [inherited, False, []]


def test_a_descriptor_that_is_no_socket_is_told() -> None:
    with Path(os.devnull).open("rb") as file:
        fault, left = shown_by(file.fileno())
    assert fault == "descriptor 3 that systemd passed is no socket: Socket operation on non-socket"
    assert left == []


def test_closing_what_was_taken_leaves_those_who_wait_to_whoever_comes_next(
    stack: ExitStack,
) -> None:
    manager = bound(stack, TCP)
    sockets = InheritedSockets([manager.dup()])
    taken = sockets.take(place(manager), TCP)
    visitor = stack.enter_context(socket.create_connection(manager.getsockname()))
    taken.close()
    sockets.close()
    later = stack.enter_context(socket.create_connection(manager.getsockname()))
    assert select.select([manager], [], [], 5)[0]
    peers = []
    for _ in range(2):
        accepted, peer = manager.accept()
        peers.append(peer)
        accepted.close()
    assert peers == [visitor.getsockname(), later.getsockname()]
