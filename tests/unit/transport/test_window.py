"""The receiving side's account of one stream."""

import pytest

from tunnel.errors import RemoteProtocolError
from tunnel.transport.window import ReceiveWindow


def test_what_was_granted_may_be_sent() -> None:
    window = ReceiveWindow(100, 100)
    window.receive(100)
    assert window.parked == 100


def test_one_byte_more_than_granted_is_the_peers_fault() -> None:
    window = ReceiveWindow(100, 100)
    window.receive(100)
    with pytest.raises(RemoteProtocolError, match="101 bytes of 100"):
        window.receive(1)


def test_nothing_is_granted_on_receipt() -> None:
    window = ReceiveWindow(100, 100)
    window.receive(100)
    assert window.limit == 100


def test_credit_is_granted_by_quarter_windows() -> None:
    window = ReceiveWindow(100, 100)
    window.receive(50)
    assert [window.consume(24), window.consume(1)] == [0, 25]


def test_a_reader_that_keeps_up_gets_a_larger_window_up_to_the_maximum() -> None:
    window = ReceiveWindow(100, 350)
    sizes = []
    for _ in range(40):
        window.receive(25)
        window.consume(25)
        sizes.append(window.window)
    assert sorted(set(sizes)) == [100, 200, 350]
    assert window.limit == window.consumed + 350


def test_a_reader_that_lags_does_not_grow_the_window() -> None:
    window = ReceiveWindow(100, 400)
    window.receive(10)
    for _ in range(40):
        window.receive(25)
        window.consume(25)
    assert window.window == 100


def test_a_reader_that_leaves_a_whole_window_is_set_back() -> None:
    window = ReceiveWindow(100, 400)
    for _ in range(10):
        window.receive(50)
        window.consume(50)
    assert window.window == 400
    window.receive(window.limit - window.received)
    assert window.window == 100


def test_no_more_is_granted_than_the_peer_may_use_after_a_set_back() -> None:
    window = ReceiveWindow(100, 400)
    for _ in range(10):
        window.receive(50)
        window.consume(50)
    window.receive(window.limit - window.received)
    grants = [window.consume(50) for _ in range(8)]
    assert sum(grants) == window.limit - (window.received)
    assert all(grant >= 0 for grant in grants)
    assert window.limit == window.consumed + window.window
