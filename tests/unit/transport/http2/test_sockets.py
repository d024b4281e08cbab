"""What a pool's sockets are told."""

import asyncio
import logging
import socket
from pathlib import Path

import pytest

from tests.contract.http2_pair import http2_pair
from tunnel.transport.http2.connection import Http2Connection
from tunnel.transport.http2.handshake import CONGESTION, ask_for_congestion
from tunnel.transport.tcp import TCP_NOTSENT_LOWAT

AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


def pool_sockets(option: int, size: int) -> list[bytes]:
    """Return what an option of TCP is at either end of a pool's connection."""

    async def main() -> list[bytes]:
        async with http2_pair() as ends:
            connections = [end for end in ends if isinstance(end, Http2Connection)]
            sockets = [each._transport.get_extra_info("socket") for each in connections]
            return [each.getsockopt(socket.IPPROTO_TCP, option, size) for each in sockets]

    return asyncio.run(main())


def congestion_of(sock: socket.socket) -> str:
    value = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return value.rstrip(b"\0").decode()


def test_control_never_waits_behind_more_than_128_kib_in_the_kernel() -> None:
    sizes = [int.from_bytes(each, "little") for each in pool_sockets(TCP_NOTSENT_LOWAT, 4)]
    assert sizes == [128 * 1024] * 2


def test_a_pool_sends_by_bbr_where_the_kernel_has_it_and_else_as_the_system_does() -> None:
    with socket.socket() as other:
        usual = congestion_of(other)
    expected = CONGESTION if CONGESTION in AVAILABLE.read_text().split() else usual
    used = [each.rstrip(b"\0").decode() for each in pool_sockets(socket.TCP_CONGESTION, 16)]
    assert used == [expected] * 2


def test_a_congestion_control_that_no_kernel_has_leaves_the_systems_own() -> None:
    with socket.socket() as sock:
        usual = congestion_of(sock)
        assert ask_for_congestion(sock, "no-such-thing") == usual
        assert congestion_of(sock) == usual


def test_the_log_says_by_what_a_pool_sends(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "tunnel.transport.http2.handshake"):
        [used, _] = pool_sockets(socket.TCP_CONGESTION, 16)
    said = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert said == [{"congestion": used.rstrip(b"\0").decode()}] * 2
