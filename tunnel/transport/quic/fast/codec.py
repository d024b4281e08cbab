"""The frames that the fast engine writes and reads itself (RFC 9000 §16, §19). Pure.

A reader raises IndexError where the bytes end too early.
"""

import struct
from collections.abc import Sequence

VARINT_4, VARINT_8 = 0x8000_0000, 0xC << 60  # the length bits of varints of fixed width
ACK_RANGES_MAX = 32  # of what is told in one frame: the newest; older ones were told before

PADDING, PING, ACK = 0x00, 0x01, 0x02
RESET_STREAM, STOP_SENDING = 0x04, 0x05
STREAM, STREAM_FIN, STREAM_LENGTH, STREAM_OFFSET = 0x08, 0x01, 0x02, 0x04
MAX_STREAM_DATA = 0x11

WHOLE = STREAM | STREAM_OFFSET
"""The type of a STREAM frame that fills its packet to the end, as bulk does."""

WHOLE_HEADER = struct.Struct(">BIQ")
"""Type, stream id as a varint of 4 bytes, offset as one of 8."""

SIZED_HEADER = struct.Struct(">BIQH")
"""The same with a length of 2 bytes."""


def push_varint(value: int) -> bytes:
    """Return a varint of the least width."""
    if value < 0x40:
        return bytes((value,))
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | VARINT_4).to_bytes(4, "big")
    return (value | VARINT_8).to_bytes(8, "big")


def pull_varint(plain: bytes, at: int) -> tuple[int, int]:
    """Return the varint that begins there, and where the next byte is."""
    first = plain[at]
    if first < 0x40:
        return first, at + 1
    if first < 0x80:
        return (first & 0x3F) << 8 | plain[at + 1], at + 2
    size = 4 if first < 0xC0 else 8
    after = at + size
    if after > len(plain):
        raise IndexError
    return int.from_bytes(plain[at:after], "big") & ((1 << (8 * size - 2)) - 1), after


def alike(one: bytes, other: bytes, size: int) -> int:
    """Return how many pieces of `size` bytes are the same in both before the first that is not.

    Both are of one length, a multiple of `size`.
    """
    if one == other:
        return len(one) // size
    difference = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return (len(one) - (difference.bit_length() + 7) // 8) // size


def whole_headers(stream_id: int, offset: int, size: int, count: int) -> bytes:
    """Return the beginnings of packets that hold nothing but bytes of one stream.

    There are `count` of them, of `size` bytes each (not 0), one behind the other.
    """
    start = offset | VARINT_8
    offsets = range(start, start + count * size, size)
    headers = bytearray(struct.pack(">" + "5xQ" * count, *offsets))
    beginning = WHOLE_HEADER.pack(WHOLE, stream_id | VARINT_4, 0)[:5]
    for position, octet in enumerate(beginning):
        headers[position :: WHOLE_HEADER.size] = bytes((octet,)) * count
    return bytes(headers)


def sized_header(stream_id: int, offset: int, size: int, *, fin: bool) -> bytes:
    """Return the header of a STREAM frame of less than 2^14 bytes that others may follow."""
    kind = WHOLE | STREAM_LENGTH | fin
    return SIZED_HEADER.pack(kind, stream_id | VARINT_4, offset | VARINT_8, size | 0x4000)


def ack_frame(ranges: Sequence[range], delay: int) -> bytes:
    """Return the ACK frame of the newest of these ranges (ascending), `delay` as it is encoded."""
    told = ranges[-ACK_RANGES_MAX:]
    newest = told[-1]
    numbers = [newest.stop - 1, delay, len(told) - 1, newest.stop - 1 - newest.start]
    start = newest.start
    for each in reversed(told[:-1]):
        numbers += (start - each.stop - 1, each.stop - each.start - 1)
        start = each.start
    return b"\x02" + b"".join(map(push_varint, numbers))


def pull_ack(plain: bytes, at: int) -> tuple[list[range], int, int]:
    """Return an ACK frame's ranges (ascending), its delay as encoded, and where the next byte is.

    `at` is where its type stands. Raises ValueError for a negative packet number.
    """
    largest, at = pull_varint(plain, at + 1)
    delay, at = pull_varint(plain, at)
    more, at = pull_varint(plain, at)
    length, at = pull_varint(plain, at)
    start = largest - length
    ranges = [range(start, largest + 1)]
    for _ in range(more):
        gap, at = pull_varint(plain, at)
        length, at = pull_varint(plain, at)
        stop = start - gap - 1
        start = stop - 1 - length
        ranges.append(range(start, stop))
    if start < 0:
        raise ValueError("an ACK range contains a negative packet number")
    ranges.reverse()
    return ranges, delay, at
