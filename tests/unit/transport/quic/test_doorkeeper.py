"""What a listener answers to datagrams of no connection, and what it admits."""

import os

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # not in its __all__
from aioquic.quic.packet import QuicHeader, QuicPacketType, pull_quic_header

from tests.unit.transport.quic.wire import CERTIFICATE
from tunnel.tls.contexts import Trust
from tunnel.transport.options import TransportOptions
from tunnel.transport.quic.configuration import client_configuration
from tunnel.transport.quic.doorkeeper import (
    HARD_CAP,
    Admission,
    Doorkeeper,
    by_destination,
    destination_of,
)
from tunnel.transport.quic.engine import Engine
from tunnel.transport.quic.reset import RATE, is_reset, reset_token

KEY = b"k" * 32
CLIENT, OTHER = ("192.0.2.2", 5000), ("192.0.2.3", 5000)


def caller() -> Engine:
    """Return a client that has begun to dial."""
    engine = Engine(
        client_configuration(Trust("relay.test", pin=CERTIFICATE.pin), TransportOptions())
    )
    engine.connect(("192.0.2.1", 443), 0.0)
    return engine


def first_datagram(engine: Engine) -> bytes:
    return engine.datagrams_to_send(0.0)[0][0]


def header_of(datagram: bytes) -> QuicHeader:
    return pull_quic_header(Buffer(data=datagram), host_cid_length=8)


def doorkeeper() -> Doorkeeper:
    return Doorkeeper(KEY, half_open=2, now=0.0)


@pytest.mark.parametrize(
    ("payloads", "parts"),
    [
        ([b"\x40AAAAAAAA..", b"\x41AAAAAAAA."], [(b"A" * 8, 2)]),
        ([b"\x40AAAAAAAA", b"\x40BBBBBBBB", b"\x40BBBBBBBB"], [(b"A" * 8, 1), (b"B" * 8, 2)]),
        ([b"\x40AAAAAAAA", b"\x40short"], [(b"A" * 8, 1), (b"", 1)]),
        ([b"\xc0\0\0\0\1\x02CC...", b"\x40AAAAAAAA"], [(b"CC", 1), (b"A" * 8, 1)]),
        ([b"", b""], [(b"", 2)]),
    ],
)
def test_what_came_together_is_told_apart_by_destination(
    payloads: list[bytes], parts: list[tuple[bytes, int]]
) -> None:
    found = list(by_destination(payloads))
    assert [(destination, len(part)) for destination, part in found] == parts
    assert [payload for _, part in found for payload in part] == payloads


def test_a_first_packet_is_admitted() -> None:
    engine = caller()
    verdict = doorkeeper().judge(first_datagram(engine), CLIENT, 0, 0.0)
    assert verdict == Admission(engine.original_destination_connection_id, None)


def test_above_the_half_open_limit_the_client_has_to_prove_its_address() -> None:
    engine, door = caller(), doorkeeper()
    original = engine.original_destination_connection_id
    retry = door.judge(first_datagram(engine), CLIENT, 2, 0.0)
    assert isinstance(retry, bytes)
    assert header_of(retry).packet_type is QuicPacketType.RETRY
    engine.receive_datagram(retry, ("192.0.2.1", 443), 0.1)
    again = engine.datagrams_to_send(0.1)[0][0]
    assert door.judge(again, CLIENT, 2, 0.2) == Admission(original, destination_of(again))
    assert door.judge(again, OTHER, 2, 0.2) is None
    assert door.judge(again, CLIENT, 2, 60.0) is None
    assert door.judge(again, CLIENT, 2 * HARD_CAP, 0.2) is None


def test_an_unknown_version_is_answered_with_ours() -> None:
    first = first_datagram(caller())
    foreign = first[:1] + b"\x0a\x0a\x0a\x0a" + first[5:]
    answer = doorkeeper().judge(foreign, CLIENT, 0, 0.0)
    assert isinstance(answer, bytes)
    header = header_of(answer)
    assert (header.packet_type, header.supported_versions) == (
        QuicPacketType.VERSION_NEGOTIATION,
        [1],
    )


def test_a_version_negotiation_is_never_answered() -> None:
    first = first_datagram(caller())
    assert doorkeeper().judge(first[:1] + bytes(4) + first[5:], CLIENT, 0, 0.0) is None


def test_a_short_first_packet_is_dropped() -> None:
    door, first = doorkeeper(), first_datagram(caller())
    assert [size for size in range(1200) if door.judge(first[:size], CLIENT, 0, 0.0)] == []


@pytest.mark.parametrize("size", [0, 1, 8, 9, 21, 22, 100, 1350])
def test_a_packet_of_a_lost_connection_is_answered_by_a_shorter_reset(size: int) -> None:
    stray = (b"\x40" + b"c" * 8 + bytes(1350))[:size]
    answer = doorkeeper().judge(stray, CLIENT, 0, 0.0)
    if size < 22:
        assert answer is None
    else:
        assert isinstance(answer, bytes)
        assert len(answer) < size
        assert is_reset(answer, [reset_token(KEY, b"c" * 8)])


def test_resets_are_limited_in_rate() -> None:
    door, stray = doorkeeper(), b"\x40" + b"c" * 100
    answers = [door.judge(stray, CLIENT, 0, 1.0) for _ in range(int(RATE) + 50)]
    assert sum(answer is not None for answer in answers) == RATE
    assert door.judge(stray, CLIENT, 0, 1.5) is not None


def test_noise_is_dropped_or_answered_by_less_than_it_is() -> None:
    door = doorkeeper()
    for size in range(1500):
        noise = os.urandom(size)
        answer = door.judge(noise, CLIENT, 0, float(size))
        assert answer is None or isinstance(answer, Admission) or len(answer) < size


def test_a_reset_of_another_key_is_not_believed() -> None:
    answer = doorkeeper().judge(b"\x40" + b"c" * 100, CLIENT, 0, 0.0)
    assert isinstance(answer, bytes)
    assert not is_reset(answer, [reset_token(b"other" * 8, b"c" * 8)])
