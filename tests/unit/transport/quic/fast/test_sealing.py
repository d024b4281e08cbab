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
    TRAIN_LEAST,
    Opened,
    Sealer,
    open_burst,
    open_train,
    opening_keys,
    sealing_keys,
    whole_number,
)
from tunnel.transport.quic.fast.sender import ChunkSender
from tunnel.transport.quic.trains import Train, trains_of

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


def datagrams_of(sealing: Sealer) -> list[bytes]:
    return [datagram for train in sealing.finish() for datagram in train]


@given(st.sampled_from(SUITES), st.integers(0, 1 << 40), st.lists(PLAIN, min_size=1, max_size=5))
def test_aioquic_opens_what_we_seal(suite: CipherSuite, number: int, plains: list[bytes]) -> None:
    sealing, theirs = sealer(number, suite), context(suite)
    for plain in plains:
        sealing.seal(plain)
    for datagram, plain in zip(datagrams_of(sealing), plains, strict=True):
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
    assert datagrams_of(sealing) == builder.flush()[0]


def test_a_run_is_one_stream_frame_in_each_packet() -> None:
    chunk = bytes(range(256)) * 100
    run = Run(cast(ChunkSender, None), 65_530, 12, 0.0)
    run.carry(1 << 33, chunk, 77, 1000)
    sealing, theirs = sealer(65_530), context()
    sealing.seal_run(run, 4001)
    for index, datagram in enumerate(datagrams_of(sealing)):
        _, plain, number, _ = theirs.decrypt_packet(datagram, 9, 65_530 + index)
        buf = Buffer(data=plain)
        header = [buf.pull_uint_var() for _ in range(3)]
        assert (number, header) == (65_530 + index, [0x0C, 4001, (1 << 33) + 1000 * index])
        assert plain[buf.tell() :] == chunk[77 + 1000 * index : 1077 + 1000 * index]
    assert sealing.number == 65_542


def test_a_tiny_packet_is_padded_so_that_it_can_be_sampled() -> None:
    sealing = sealer(5)
    sealing.seal(b"\x01")
    assert context().decrypt_packet(datagrams_of(sealing)[0], 9, 5)[1] == b"\x01\x00"


@given(st.integers(0, 1 << 40), st.lists(PLAIN, min_size=1, max_size=5), st.booleans())
def test_we_open_what_aioquic_seals(number: int, plains: list[bytes], spin: bool) -> None:
    theirs, datagrams = context(), []
    for index, plain in enumerate(plains):
        low = ((number + index) % 65_536).to_bytes(2, "big")
        header = bytes((0x41 | spin << 5,)) + CID + low
        datagrams.append(theirs.encrypt_packet(header, plain, number + index))
    opened = open_burst(opening_keys(context()), CID, 0, datagrams, number)
    numbers = list(range(number, number + len(plains)))
    assert opened == Opened(numbers, plains, len(plains), spin)


def sealed(count: int = 3) -> list[bytes]:
    sealing = sealer(100)
    for index in range(count):
        sealing.seal(b"frame %d" % index)
    return datagrams_of(sealing)


def test_what_is_not_authentic_is_left_out() -> None:
    good, bad, last = sealed()
    altered = bad[:-1] + bytes((bad[-1] ^ 1,))
    opened = open_burst(opening_keys(context()), CID, 0, [good, altered, last], 100)
    assert opened.numbers == [100, 102]
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
    assert (len(opened.plains), opened.looked_at) == (1, 1)


def test_opening_stops_before_a_packet_of_the_next_key() -> None:
    assert open_burst(opening_keys(context()), CID, 1, sealed(), 100).looked_at == 0


@given(st.integers(0, 1 << 40), st.integers(1, 60), st.integers(0, 300), st.booleans())
def test_a_train_is_opened_as_its_datagrams_are(
    number: int, count: int, shorter: int, spin: bool
) -> None:
    sealing = sealer(number, spin=spin)
    for index in range(count):
        size = 400 - shorter * (index == count - 1)
        sealing.seal(bytes((index,)) * size)
    (train,) = sealing.finish()
    keys = opening_keys(context())
    together, each = (
        open_train(keys, CID, 0, train, number),
        open_burst(keys, CID, 0, list(train), number),
    )
    assert together is not None
    assert (list(together.numbers), *together[1:4]) == each[:4]
    assert together.is_train


@pytest.mark.parametrize("before", [TRAIN_LEAST, 20])
def test_a_train_with_a_gap_is_opened_up_to_it(before: int) -> None:
    sealing = sealer(100)
    for index in range(30):
        sealing.seal(bytes((index,)) * 50)
    datagrams = datagrams_of(sealing)
    del datagrams[before]
    opened = open_train(opening_keys(context()), CID, 0, train_of(datagrams), 100)
    assert opened is not None
    assert list(opened.numbers) == list(range(100, 100 + before))
    assert [plain[0] for plain in opened.plains] == list(range(before))
    assert opened.looked_at == before


def train_of(datagrams: list[bytes]) -> Train:
    (train,) = trains_of(datagrams)
    return train


@pytest.mark.parametrize(
    "datagrams",
    [
        [*sealed()[:2], sealed()[2][:-1] + b"?"],  # not authentic
        [sealed()[1], sealed()[0], sealed()[2]],  # not in order
        [sealed()[0], sealed()[2]],
        [sealed()[0], sealed()[0]],
        [bytes((each[0],)) + b"elsewher" + each[9:] for each in sealed()],
        [bytes((each[0] | 0x80,)) + each[1:] for each in sealed()],
        [sealed()[0], bytes((sealed()[1][0] ^ 0x20,)) + sealed()[1][1:]],  # another spin bit
    ],
)
def test_a_train_of_anything_else_is_left_to_be_looked_at_one_by_one(
    datagrams: list[bytes],
) -> None:
    assert open_train(opening_keys(context()), CID, 0, train_of(datagrams), 100) is None


def test_a_train_under_the_next_key_is_not_opened() -> None:
    assert open_train(opening_keys(context()), CID, 1, train_of(sealed()), 100) is None


@given(st.integers(0, 65_535), st.integers(0, 1 << 40))
def test_packet_numbers_are_completed_as_aioquic_does(low: int, expected: int) -> None:
    assert whole_number(low, expected) == decode_packet_number(low, 16, expected)


def test_without_keys_nothing_is_sealed_or_opened() -> None:
    for keys_of in (sealing_keys, opening_keys):
        with pytest.raises(LocalProtocolError):
            keys_of(CryptoContext())


def test_the_header_is_as_long_as_it_says() -> None:
    assert len(sealed()[0]) == HEADER_BYTES + len(b"frame 0") + 16
