"""Packets that we seal and open, byte by byte against aioquic's own."""

from typing import cast

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # not in its __all__
from aioquic.quic.crypto import CryptoContext, CryptoPair
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion, decode_packet_number
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import CipherSuite
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import LocalProtocolError
from tunnel.transport.quic.fast.records import Run
from tunnel.transport.quic.fast.sealing import (
    HEADER_BYTES,
    Sealer,
    open_burst,
    opening_keys,
    sealing_keys,
    whole_number,
)
from tunnel.transport.quic.fast.sender import ChunkSender

CID = b"\x01\x02\x03\x04\x05\x06\x07\x08"
SUITES = [CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384]
PLAIN = st.binary(min_size=2, max_size=1300)


def context(suite: CipherSuite = SUITES[0]) -> CryptoContext:
    made = CryptoContext()
    size = 48 if suite is CipherSuite.AES_256_GCM_SHA384 else 32
    made.setup(cipher_suite=suite, secret=b"s" * size, version=QuicProtocolVersion.VERSION_1)
    return made


def sealer(number: int, suite: CipherSuite = SUITES[0], *, spin: bool = False) -> Sealer:
    return Sealer(sealing_keys(context(suite)), CID, number, phase=0, spin=spin)


@given(st.sampled_from(SUITES), st.integers(0, 1 << 40), st.lists(PLAIN, min_size=1, max_size=5))
def test_aioquic_opens_what_we_seal(suite: CipherSuite, number: int, plains: list[bytes]) -> None:
    sealing, theirs = sealer(number, suite), context(suite)
    for plain in plains:
        sealing.seal(plain)
    for datagram, plain in zip(sealing.finish(), plains, strict=True):
        _, found, found_number, _ = theirs.decrypt_packet(datagram, 9, number)
        assert (found, found_number) == (plain, number)
        number += 1


@given(st.integers(0, 1 << 40), st.binary(min_size=2, max_size=1200), st.booleans())
def test_our_packets_are_aioquics_bit_for_bit(number: int, plain: bytes, spin: bool) -> None:
    pair = CryptoPair()
    pair.send = pair.recv = context()
    builder = QuicPacketBuilder(
        host_cid=CID,
        peer_cid=CID,
        version=QuicProtocolVersion.VERSION_1,
        is_client=True,
        max_datagram_size=1350,
        packet_number=number,
        spin_bit=spin,
    )
    builder.start_packet(QuicPacketType.ONE_RTT, pair)
    builder.start_frame(0x01).push_bytes(plain)
    sealing = sealer(number, spin=spin)
    sealing.seal(b"\x01" + plain)
    assert sealing.finish() == builder.flush()[0]


def test_a_run_is_one_stream_frame_in_each_packet() -> None:
    chunk = bytes(range(256)) * 100
    run = Run(cast(ChunkSender, None), 65_530, 12, 0.0)
    run.carry(1 << 33, chunk, 77, 1000)
    sealing, theirs = sealer(65_530), context()
    sealing.seal_run(run, 4001)
    for index, datagram in enumerate(sealing.finish()):
        _, plain, number, _ = theirs.decrypt_packet(datagram, 9, 65_530 + index)
        buf = Buffer(data=plain)
        header = [buf.pull_uint_var() for _ in range(3)]
        assert (number, header) == (65_530 + index, [0x0C, 4001, (1 << 33) + 1000 * index])
        assert plain[buf.tell() :] == chunk[77 + 1000 * index : 1077 + 1000 * index]
    assert sealing.number == 65_542


def test_a_tiny_packet_is_padded_so_that_it_can_be_sampled() -> None:
    sealing = sealer(5)
    sealing.seal(b"\x01")
    assert context().decrypt_packet(sealing.finish()[0], 9, 5)[1] == b"\x01\x00"


@given(st.integers(0, 1 << 40), st.lists(PLAIN, min_size=1, max_size=5), st.booleans())
def test_we_open_what_aioquic_seals(number: int, plains: list[bytes], spin: bool) -> None:
    theirs, datagrams = context(), []
    for index, plain in enumerate(plains):
        low = ((number + index) % 65_536).to_bytes(2, "big")
        header = bytes((0x41 | spin << 5,)) + CID + low
        datagrams.append(theirs.encrypt_packet(header, plain, number + index))
    opened = open_burst(opening_keys(context()), CID, 0, datagrams, number)
    assert opened == (
        [(number + index, plain) for index, plain in enumerate(plains)],
        len(plains),
        spin,
    )


def sealed(count: int = 3) -> list[bytes]:
    sealing = sealer(100)
    for index in range(count):
        sealing.seal(b"frame %d" % index)
    return sealing.finish()


def test_what_is_not_authentic_is_left_out() -> None:
    good, bad, last = sealed()
    altered = bad[:-1] + bytes((bad[-1] ^ 1,))
    opened = open_burst(opening_keys(context()), CID, 0, [good, altered, last], 100)
    assert [number for number, _ in opened.packets] == [100, 102]
    assert opened.looked_at == 3


@pytest.mark.parametrize(
    "foreign",
    [
        b"\xc0" + bytes(60),  # a long header
        bytes((sealed()[1][0],)) + b"elsewher" + sealed()[1][9:],  # another destination
    ],
)
def test_opening_stops_before_what_is_aioquics(foreign: bytes) -> None:
    good, _, last = sealed()
    opened = open_burst(opening_keys(context()), CID, 0, [good, foreign, last], 100)
    assert (len(opened.packets), opened.looked_at) == (1, 1)


def test_opening_stops_before_a_packet_of_the_next_key() -> None:
    assert open_burst(opening_keys(context()), CID, 1, sealed(), 100).looked_at == 0


@given(st.integers(0, 65_535), st.integers(0, 1 << 40))
def test_packet_numbers_are_completed_as_aioquic_does(low: int, expected: int) -> None:
    assert whole_number(low, expected) == decode_packet_number(low, 16, expected)


def test_without_keys_nothing_is_sealed_or_opened() -> None:
    for keys_of in (sealing_keys, opening_keys):
        with pytest.raises(LocalProtocolError):
            keys_of(CryptoContext())


def test_the_header_is_as_long_as_it_says() -> None:
    assert len(sealed()[0]) == HEADER_BYTES + len(b"frame 0") + 16
