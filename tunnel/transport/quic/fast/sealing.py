"""Protecting and opening 1-RTT packets with short headers, many at a time (RFC 9001 §5).

Ours have connection ids of 8 bytes and packet numbers of 2. The masks of header protection of a
whole batch are made by one call of the cipher.
"""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aioquic.quic.crypto import CryptoContext
from cryptography.exceptions import InvalidTag

from tunnel.errors import LocalProtocolError
from tunnel.transport.quic.fast.codec import VARINT_4, VARINT_8, WHOLE, WHOLE_HEADER
from tunnel.transport.quic.fast.records import Run

HEADER = struct.Struct(">B8sH")  # first byte, destination, packet number
HEADER_BYTES = HEADER.size
TAG_BYTES = 16
OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES
SAMPLE_START, SAMPLE_END = 13, 29  # 4 bytes after the packet number's begin (RFC 9001 §5.4.2)
PLAIN_LEAST_BYTES = 2  # or there is no whole sample
_MASK = struct.Struct(">BH13x")
_SHORT = 0x41  # fixed bit; packet number of 2 bytes
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

    __slots__ = ("_destination", "_first", "_keys", "_sealed", "_start", "number")

    def __init__(self, keys: Keys, destination: bytes, number: int, *, phase: int, spin: bool):
        self._keys = keys
        self._destination = destination
        self._first = _SHORT | spin << 5 | phase << 2
        self._sealed: list[bytes] = []
        self._start = number
        self.number = number  # of the next packet

    def seal(self, plain: bytes) -> None:
        """Add a packet with these frames; it is padded if it is tiny."""
        number = self.number
        header = HEADER.pack(self._first, self._destination, number % _NUMBERS)
        if len(plain) < PLAIN_LEAST_BYTES:
            plain += bytes(PLAIN_LEAST_BYTES - len(plain))
        nonce = (self._keys.iv ^ number).to_bytes(12, "big")
        self._sealed.append(self._keys.crypt(nonce, plain, header))
        self.number = number + 1

    def seal_run(self, run: Run, stream_id: int) -> None:
        """Add the packets of a run, whose first number has to be the next one."""
        crypt, iv, _ = self._keys
        pack, first, destination = HEADER.pack, self._first, self._destination
        frame = WHOLE_HEADER.pack
        identifier, chunk, size = stream_id | VARINT_4, run.chunk, run.size
        position, offset = run.position, run.offset | VARINT_8
        keep = self._sealed.append
        for number in range(run.packet_number, run.packet_number + run.count):
            plain = frame(WHOLE, identifier, offset) + chunk[position : position + size]
            header = pack(first, destination, number % _NUMBERS)
            keep(crypt((iv ^ number).to_bytes(12, "big"), plain, header))
            position += size
            offset += size
        self.number += run.count

    def finish(self) -> list[bytes]:
        """Return the datagrams of all packets."""
        low, high = SAMPLE_START - HEADER_BYTES, SAMPLE_END - HEADER_BYTES
        masks = self._keys.masks(b"".join([sealed[low:high] for sealed in self._sealed]))
        pack, first, destination = HEADER.pack, self._first, self._destination
        number = self._start
        datagrams = []
        for sealed, (mask_first, mask_number) in zip(
            self._sealed, _MASK.iter_unpack(masks), strict=True
        ):
            header = pack(first ^ mask_first & 0x1F, destination, number % _NUMBERS ^ mask_number)
            datagrams.append(header + sealed)
            number += 1
        return datagrams


class Opened(NamedTuple):
    """Authentic packets, as number and frames; how many datagrams were looked at; the spin bit."""

    packets: list[tuple[int, bytes]]
    looked_at: int
    spin: bool


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
    packets: list[tuple[int, bytes]] = []
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
        packets.append((number, plain))
        if number >= expected:
            expected, newest = number + 1, first
    return Opened(packets, looked_at, bool(newest & 0x20))


def whole_number(low: int, expected: int) -> int:
    """Return the packet number nearest to `expected` that ends in these 2 bytes (RFC 9000 §A.3)."""
    number = expected - expected % _NUMBERS | low
    if number <= expected - _NUMBERS // 2:
        return number + _NUMBERS
    if number > expected + _NUMBERS // 2 and number >= _NUMBERS:
        return number - _NUMBERS
    return number
