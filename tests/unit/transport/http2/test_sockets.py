"""What a pool's sockets are told."""

import asyncio
import socket

from tests.contract.http2_pair import http2_pair
from tunnel.transport.http2.connection import Http2Connection
from tunnel.transport.tcp import TCP_NOTSENT_LOWAT


def test_control_never_waits_behind_more_than_128_kib_in_the_kernel() -> None:
    async def main() -> list[int]:
        async with http2_pair() as ends:
            connections = [end for end in ends if isinstance(end, Http2Connection)]
            sockets = [each._transport.get_extra_info("socket") for each in connections]
            return [each.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) for each in sockets]

    assert asyncio.run(main()) == [128 * 1024] * 2
