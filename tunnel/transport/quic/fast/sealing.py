"""Protecting and opening 1-RTT packets with short headers, many at a time (RFC 9001 §5).

Ours have connection ids of 8 bytes and packet numbers of 2. The masks of header protection of a
whole batch are made by one call of the cipher.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from operator import add
from typing import NamedTuple

from aioquic.quic.crypto import CryptoContext
from cryptography.exceptions import InvalidTag

from tunnel.errors import LocalProtocolError
from tunnel.transport.quic.fast.codec import WHOLE_HEADER, alike, whole_headers
from tunnel.transport.quic.fast.records import Run
from tunnel.transport.quic.trains import Train, coupled, pieces

HEADER = struct.Struct(">B8sH")  # first byte, destination, packet number
HEADER_BYTES = HEADER.size
TAG_BYTES = 16
OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES
SAMPLE_START, SAMPLE_END = 13, 29  # 4 bytes after the packet number's begin (RFC 9001 §5.4.2)
PLAIN_LEAST_BYTES = 2  # or there is no whole sample
TRAIN_LEAST = 8  # packets that are worth being opened together
_MASK = struct.Struct(">BH13x")
_SHORT = 0x41  # fixed bit; packet number of 2 bytes
_FIRST_MASK = bytes(octet & 0x1F for octet in range(256))  # the bits that are protected
_NUMBERS = 1 << 16

Crypt = Callable[[bytes, bytes, bytes], bytes]


class Keys(NamedTuple):
    """What protects one direction: AES-GCM's `crypt` (nonce, bytes, header), AES-ECB's `masks`."""

    crypt: Crypt
    iv: int
    masks: Callable[[bytes], bytes]


def sealing_keys(context: CryptoContext) -> Keys:
    """Return the keys of what is sent."""
    aead, protection = context.aead, context.hp
    if aead is None or protection is None:
        raise LocalProtocolError("there are no keys to send with")
    return Keys(aead._aead.encrypt, aead._iv, protection._encryptor.update)  # noqa: SLF001 - its wrappers cost as much as AES


def opening_keys(context: CryptoContext) -> Keys:
    """Return the keys of what is received."""
    aead, protection = context.aead, context.hp
    if aead is None or protection is None:
        raise LocalProtocolError("there are no keys to receive with")
    return Keys(aead._aead.decrypt, aead._iv, protection._encryptor.update)  # noqa: SLF001 - as above


class Sealer:
    """Seals packets one after the other; `finish` returns them as datagrams."""

    __slots__ = ("_destination", "_first", "_headers", "_keys", "_sealed", "_sizes", "number")

    def __init__(self, keys: Keys, destination: bytes, number: int, *, phase: int, spin: bool):
        self._keys = keys
        self._destination = destination
        self._first = _SHORT | spin << 5 | phase << 2
        self._headers: list[bytes] = []
        self._sealed: list[bytes] = []
        self._sizes: list[tuple[int, int]] = []  # of datagrams, and how many follow each other
        self.number = number  # of the next packet

    @property
    def size(self) -> int:
        """Bytes of all datagrams so far."""
        return sum(size * count for size, count in self._sizes)

    def seal(self, plain: bytes) -> None:
        """Add a packet with these frames; it is padded if it is tiny."""
        number = self.number
        header = HEADER.pack(self._first, self._destination, number % _NUMBERS)
        if len(plain) < PLAIN_LEAST_BYTES:
            plain += bytes(PLAIN_LEAST_BYTES - len(plain))
        nonce = (self._keys.iv ^ number).to_bytes(12, "big")
        self._headers.append(header)
        self._sealed.append(self._keys.crypt(nonce, plain, header))
        self._sizes.append((len(plain) + OVERHEAD_BYTES, 1))
        self.number = number + 1

    def seal_run(self, run: Run, stream_id: int) -> None:
        """Add the packets of a run, whose first number has to be the next one."""
        size, count = run.size, run.count
        numbers = _numbers(run.packet_number, count)
        headers = _headers(self._first, self._destination, numbers)
        frames = whole_headers(stream_id, run.offset, size, count)
        stop = run.position + count * size
        bodies = pieces(memoryview(run.chunk)[run.position : stop], size)
        nonces = _nonces(self._keys.iv, numbers)
        plains = map(add, pieces(frames, WHOLE_HEADER.size), bodies)
        self._sealed += map(self._keys.crypt, nonces, plains, pieces(headers, HEADER_BYTES))
        self._headers.append(headers)
        self._sizes.append((size + WHOLE_HEADER.size + OVERHEAD_BYTES, count))
        self.number += count

    def finish(self) -> list[Train]:
        """Return the datagrams of all packets."""
        low, high = SAMPLE_START - HEADER_BYTES, SAMPLE_END - HEADER_BYTES
        if len(self._sealed) == 1:  # as most are that are no bulk: not worth the preparations
            (sealed,), (header,) = self._sealed, self._headers
            datagram = _mask_one(header, self._keys.masks(sealed[low:high])) + sealed
            return [Train(datagram, len(datagram))]
        masks = self._keys.masks(b"".join([sealed[low:high] for sealed in self._sealed]))
        headers = _mask(b"".join(self._headers), masks)
        parts = [b""] * (2 * len(self._sealed))
        parts[::2] = pieces(headers, HEADER_BYTES)
        parts[1::2] = self._sealed
        trains, start = [], 0
        for size, count in coupled(self._sizes):
            trains.append(Train(b"".join(parts[start : start + 2 * count]), size))
            start += 2 * count
        return trains


class Opened(NamedTuple):
    """Numbers and frames of authentic packets; how many datagrams were looked at; the spin bit."""

    numbers: Sequence[int]
    plains: Sequence[bytes]
    looked_at: int
    spin: bool
    is_train: bool = False  # all are numbered in sequence and equally long, but for the last


def open_burst(
    keys: Keys, destination: bytes, phase: int, payloads: Sequence[bytes], expected: int
) -> Opened:
    """Open datagrams up to the first that is not a packet of ours: of this key and destination.

    Each has at least SAMPLE_END bytes. What is not authentic is left out. `expected` is the next
    packet number (RFC 9000 §A.3).
    """
    crypt, iv, masks_of = keys
    wanted = _SHORT | phase << 2
    pack, unpack = HEADER.pack, HEADER.unpack_from
    numbers: list[int] = []
    plains: list[bytes] = []
    looked_at, newest = 0, 0
    masks = masks_of(b"".join([payload[SAMPLE_START:SAMPLE_END] for payload in payloads]))
    for payload, (mask_first, mask_number) in zip(payloads, _MASK.iter_unpack(masks), strict=True):
        first, named, number = unpack(payload)
        first ^= mask_first & 0x1F
        if first & 0xDF != wanted or named != destination:
            break
        looked_at += 1
        number = whole_number(number ^ mask_number, expected)
        header = pack(first, destination, number % _NUMBERS)
        try:
            plain = crypt((iv ^ number).to_bytes(12, "big"), payload[HEADER_BYTES:], header)
        except InvalidTag:
            continue
        numbers.append(number)
        plains.append(plain)
        if number >= expected:
            expected, newest = number + 1, first
    return Opened(numbers, plains, looked_at, bool(newest & 0x20))


def open_train(
    keys: Keys, destination: bytes, phase: int, train: Train, expected: int
) -> Opened | None:
    """Open the packets of a train that are ours and numbered one after the other, from its first.

    That is what bulk looks like, all of it where nothing was lost. None says nothing: they are few,
    or not authentic, and `open_burst` finds out. Each has at least SAMPLE_END bytes.
    """
    wanted = _SHORT | phase << 2
    masks = keys.masks(b"".join(train.columns(SAMPLE_START, SAMPLE_END)))
    headers = _mask(b"".join(train.columns(0, HEADER_BYTES)), masks)
    first, _, low = HEADER.unpack_from(headers)
    number = whole_number(low, expected)
    count = len(train)
    numbers = _numbers(number, count)
    ours = alike(headers, _headers(first, destination, numbers), HEADER_BYTES)
    if first & 0xDF != wanted or ours < min(count, TRAIN_LEAST):
        return None
    if ours < count:
        train, numbers = train.first(ours), numbers[: 12 * ours]
    nonces, bodies = _nonces(keys.iv, numbers), train.columns(HEADER_BYTES, train.size)
    try:
        plains = list(map(keys.crypt, nonces, bodies, pieces(headers, HEADER_BYTES)))
    except InvalidTag:
        return None
    numbered = range(number, number + len(plains))
    return Opened(numbered, plains, len(plains), bool(first & 0x20), is_train=True)


def whole_number(low: int, expected: int) -> int:
    """Return the packet number nearest to `expected` that ends in these 2 bytes (RFC 9000 §A.3)."""
    number = expected - expected % _NUMBERS | low
    if number <= expected - _NUMBERS // 2:
        return number + _NUMBERS
    if number > expected + _NUMBERS // 2 and number >= _NUMBERS:
        return number - _NUMBERS
    return number


def _numbers(start: int, count: int) -> bytes:
    """Return consecutive packet numbers of 12 bytes each, as nonces are made of them."""
    return struct.pack(">" + "4xQ" * count, *range(start, start + count))


def _nonces(iv: int, numbers: bytes) -> Iterator[bytes]:
    return pieces(_xor(iv.to_bytes(12, "big") * (len(numbers) // 12), numbers), 12)


def _headers(first: int, destination: bytes, numbers: bytes) -> bytes:
    """Return the headers of packets with these numbers, one behind the other."""
    headers = bytearray(HEADER.pack(first, destination, 0) * (len(numbers) // 12))
    headers[9::HEADER_BYTES], headers[10::HEADER_BYTES] = numbers[10::12], numbers[11::12]
    return bytes(headers)


def _mask(headers: bytes, masks: bytes) -> bytes:
    """Return headers with their protection, or without it if they had it."""
    cover = bytearray(len(headers))
    cover[::HEADER_BYTES] = masks[::16].translate(_FIRST_MASK)
    cover[9::HEADER_BYTES], cover[10::HEADER_BYTES] = masks[1::16], masks[2::16]
    return _xor(headers, cover)


def _mask_one(header: bytes, mask: bytes) -> bytes:
    first, destination, number = HEADER.unpack(header)
    mask_first, mask_number = _MASK.unpack(mask)
    return HEADER.pack(first ^ mask_first & 0x1F, destination, number ^ mask_number)


def _xor(one: bytes, other: bytes | bytearray) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(one), "big")
