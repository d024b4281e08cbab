"""What the kernel tells of a connection, by which a path is judged."""

import socket
import time

from tests.unit.transport.direct.pairs import connected, deafen
from tunnel.transport.direct.options import segments_of

MESSAGES = 7


def test_segments_are_those_with_data_that_were_sent() -> None:
    near, far = connected()
    with near, far:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.setblocking(True)
        for _ in range(MESSAGES):
            near.send(b"x")
            assert far.recv(2) == b"x"
        assert segments_of(near) == (MESSAGES, 0)
        assert segments_of(far) == (0, 0)


def test_what_nobody_has_heard_is_sent_again_and_counted_so() -> None:
    near, far = connected()
    with near, far:
        deafen(far)
        near.send(b"x")
        sent, resent = segments_of(near)
        while not resent:  # after 0.2 s; the test's deadline is the bound
            time.sleep(0.01)
            sent, resent = segments_of(near)
        assert sent == 1 + resent
