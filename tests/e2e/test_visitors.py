"""The clock of the visitors: a service that is late, or excuses itself, has not served in time."""

import socket
import time

import pytest

from tests.e2e.targets import sockets
from tests.e2e.visitors import served_again
from tests.e2e.world import World

LATENESS = 0.6  # seconds


def answer_late(visitor: socket.socket) -> None:
    visitor.recv(1 << 16)
    time.sleep(LATENESS)
    visitor.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def test_served_in_time_is_told_in_seconds(world: World) -> None:
    with sockets(answer_late) as target:
        relay = world.relay()
        client = world.client(relay, target=target)
        assert client.host
        assert LATENESS < served_again(relay, client, within=LATENESS + 5) < LATENESS + 5


def test_served_late_is_a_failure(world: World) -> None:
    with sockets(answer_late) as target:
        relay = world.relay()
        client = world.client(relay, target=target)
        assert client.host
        with pytest.raises(AssertionError, match=r"served after \d\.\d s, not within 0\.3 s"):
            served_again(relay, client, within=LATENESS / 2)


def test_an_excuse_is_not_being_served(world: World) -> None:
    relay = world.relay()
    client = world.client(relay, target="127.0.0.1:9")
    assert client.host
    with pytest.raises(AssertionError, match=r"nobody served within 0\.5 s: status 502"):
        served_again(relay, client, within=0.5)
