"""The UDP socket: batches, segments, a full buffer and the network's complaints."""

import errno
import logging
import socket
from collections.abc import Sequence

import pytest

from tests.unit.transport.loops import on_both_loops, run_on, until
from tests.unit.transport.quic.places import run
from tunnel.transport.quic import endpoint as endpoint_module
from tunnel.transport.quic.endpoint import Endpoint, enlarge_buffers
from tunnel.transport.quic.trains import Burst


class FullSocket(socket.socket):
    """A UDP socket whose buffer is full until `room` is given."""

    room = 0
    refuses_segments = False

    def sendmsg(self, buffers, ancillary=(), flags=0, *address):  # type: ignore[no-untyped-def]
        if self.refuses_segments and ancillary:
            raise OSError(errno.EIO, "no checksum offload")
        if self.room <= 0:
            raise BlockingIOError
        self.room -= len(buffers)
        return super().sendmsg(buffers, ancillary, flags, *address)


def udp(kind: type[socket.socket] = socket.socket) -> socket.socket:
    sock = kind(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(("127.0.0.1", 0))
    return sock


def payloads_of(bursts: Sequence[Burst]) -> list[bytes]:
    return [payload for payloads, _ in bursts for payload in payloads]


def test_runs_of_equal_datagrams_arrive_one_by_one_and_in_order() -> None:
    async def main() -> None:
        got: list[bytes] = []
        receiver = Endpoint(udp(), lambda bursts: got.extend(payloads_of(bursts)))
        sender = Endpoint(udp(), lambda _: None)
        sizes = [900] * 60 + [700] + [900] * 3 + [1300] + [5, 5]
        sent = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
        sender.send([(sent, tuple(receiver.address))])
        await until(lambda: len(got) == len(sent))
        receiver.close()
        sender.close()
        assert got == sent

    run(main())


def test_segmentation_is_given_up_where_the_device_cannot() -> None:
    async def main() -> None:
        got: list[bytes] = []
        receiver = Endpoint(udp(), lambda bursts: got.extend(payloads_of(bursts)))
        sock = udp(FullSocket)
        assert isinstance(sock, FullSocket)
        sock.room, sock.refuses_segments = 1000, True
        sender = Endpoint(sock, lambda _: None)
        sender.send([([b"x" * 1200] * 10, tuple(receiver.address))])
        await until(lambda: len(got) == 10)
        receiver.close()
        sender.close()

    run(main())


def test_what_a_full_socket_refuses_is_kept_within_bounds_and_sent_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint_module, "BACKLOG_DATAGRAMS", 50)

    async def main() -> None:
        got: list[bytes] = []
        resumed: list[bool] = []
        receiver = Endpoint(udp(), lambda bursts: got.extend(payloads_of(bursts)))
        sock = udp(FullSocket)
        assert isinstance(sock, FullSocket)
        sender = Endpoint(sock, lambda _: None)
        target = tuple(receiver.address)
        sender.send([([b"%d" % number for number in range(70)], target)])
        assert sender.is_full
        sender.when_writable(lambda: resumed.append(True))
        sock.room = 1 << 30
        await until(lambda: bool(resumed))
        assert not sender.is_full
        await until(lambda: len(got) == 50)
        receiver.close()
        sender.close()

    run(main())


def test_one_wake_up_takes_a_bounded_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    # So few that a socket's usual buffer holds them.
    monkeypatch.setattr(endpoint_module, "BATCH_DATAGRAMS", 100)

    async def main() -> None:
        batches: list[list[bytes]] = []
        receiver = Endpoint(udp(), lambda bursts: batches.append(payloads_of(bursts)))
        with udp() as sock:
            for _ in range(endpoint_module.BATCH_DATAGRAMS + 10):
                sock.sendto(b"x", receiver.address)
        await until(lambda: len(batches) == 2)
        receiver.close()
        assert [len(batch) for batch in batches] == [endpoint_module.BATCH_DATAGRAMS, 10]

    run(main())


def test_datagrams_of_one_size_that_were_sent_together_arrive_together() -> None:
    async def main() -> None:
        batches: list[list[Burst]] = []
        receiver = Endpoint(udp(), lambda bursts: batches.append(list(bursts)))
        sender = Endpoint(udp(), lambda _: None)
        sent = [bytes([number]) * 1200 for number in range(40)] + [b"short"]
        sender.send([(sent, tuple(receiver.address))])
        await until(lambda: bool(batches))
        source = tuple(sender.address)
        receiver.close()
        sender.close()
        assert [[(list(train), whose) for train, whose in each] for each in batches] == [
            [(sent, source)]
        ]

    run(main())


def test_each_sender_has_its_own_burst_in_the_order_of_arrival() -> None:
    async def main() -> None:
        got: list[Burst] = []
        receiver = Endpoint(udp(), got.extend)
        with udp() as one, udp() as other:
            for sock, payload in ((one, b"a"), (one, b"bb"), (other, b"c"), (one, b"d")):
                sock.sendto(payload, receiver.address)
            names = one.getsockname(), other.getsockname()
        await until(lambda: len(got) == 3)
        receiver.close()
        assert got == [([b"a", b"bb"], names[0]), ([b"c"], names[1]), ([b"d"], names[0])]

    run(main())


def test_the_networks_complaint_is_reported() -> None:
    async def main() -> None:
        errors: list[OSError] = []
        with udp() as gone:
            address = gone.getsockname()
        sock = udp()
        sock.connect(address)
        endpoint = Endpoint(sock, lambda _: None, errors.append)
        endpoint.send([([b"x"], address)])
        await until(lambda: bool(errors))
        endpoint.close()
        assert isinstance(errors[0], ConnectionRefusedError)

    run(main())


def test_nothing_is_sent_by_a_closed_endpoint() -> None:
    async def main() -> None:
        endpoint = Endpoint(udp(), lambda _: None)
        endpoint.close()
        endpoint.close()
        endpoint.send([([b"x"], ("127.0.0.1", 9))])

    run(main())


def test_the_operator_is_told_once_what_caps_the_buffers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(endpoint_module, "SOCKET_BUFFER_BYTES", 1 << 30)
    monkeypatch.setattr(endpoint_module, "SO_RCVBUFFORCE", -1)
    monkeypatch.setattr(endpoint_module, "SO_SNDBUFFORCE", -1)
    monkeypatch.setattr(endpoint_module, "_told", set())
    caplog.set_level(logging.INFO)
    for _ in range(2):
        with udp() as sock:
            enlarge_buffers(sock)
    assert [record.__dict__["fields"]["advice"] for record in caplog.records] == [
        "sysctl -w net.core.rmem_max=1073741824",
        "sysctl -w net.core.wmem_max=1073741824",
    ]


@on_both_loops
def test_a_refusal_by_the_network_does_not_deafen_the_socket(loop: str) -> None:
    """libuv stops watching a descriptor that has reported an error."""

    async def main() -> None:
        got: list[bytes] = []
        refusals: list[OSError] = []
        far = udp()
        near = udp()
        near.connect(far.getsockname())
        far.close()  # nobody listens there now: the kernel answers with ICMP
        endpoint = Endpoint(near, lambda bursts: got.extend(payloads_of(bursts)), refusals.append)
        for _ in range(3):
            refused_before = len(refusals)
            endpoint.send([([b"anybody?"], near.getpeername())])
            await until(lambda: len(refusals) > refused_before)  # noqa: B023 - awaited right here
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as revived:
            revived.bind(near.getpeername())
            revived.sendto(b"back again", near.getsockname())
            await until(lambda: got == [b"back again"])
        endpoint.close()

    run_on(loop, main())
