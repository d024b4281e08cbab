"""PROXY protocol headers of both versions, read and written."""

from collections.abc import Callable

import pytest

from tunnel.errors import LocalProtocolError, RemoteProtocolError
from tunnel.protocol.proxy import (
    V2_MAX_BYTES,
    ProxyHeader,
    encode_proxy_v1,
    encode_proxy_v2,
    parse_proxy_header,
)

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
V4 = bytes.fromhex("c0000201 c6336402 dc04 01bb")  # 192.0.2.1:56324 to 198.51.100.2:443
V6 = bytes.fromhex("20010db8000000000000000000000001 20010db8000000000000000000000002 dc04 01bb")
SOURCE4, DESTINATION4 = ("192.0.2.1", 56324), ("198.51.100.2", 443)
SOURCE6, DESTINATION6 = ("2001:db8::1", 56324), ("2001:db8::2", 443)
NOBODY = (None, None)

Ends = tuple[tuple[str, int] | None, tuple[str, int] | None]
Encode = Callable[[tuple[str, int], tuple[str, int]], bytes]


def v2(command: int, family: int, block: bytes, length: int | None = None) -> bytes:
    size = len(block) if length is None else length
    return SIGNATURE + bytes((command, family)) + size.to_bytes(2) + block


GOOD: dict[str, tuple[bytes, Ends]] = {
    "TCP4": (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", (SOURCE4, DESTINATION4)),
    "TCP6": (b"PROXY TCP6 2001:db8::1 2001:DB8:0::2 56324 443\r\n", (SOURCE6, DESTINATION6)),
    "TCP6 in full": (
        b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n",
        (((":ffff" * 8)[1:], 65535), ((":ffff" * 8)[1:], 65535)),
    ),
    "TCP6, mapped": (
        b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c633:6402 56324 443\r\n",
        (SOURCE4, DESTINATION4),
    ),
    "port 0": (
        b"PROXY TCP4 192.0.2.1 198.51.100.2 0 0\r\n",
        (("192.0.2.1", 0), ("198.51.100.2", 0)),
    ),
    "UNKNOWN": (b"PROXY UNKNOWN\r\n", NOBODY),
    "UNKNOWN, at length": (b"PROXY UNKNOWN" + b" \r\xff" * 30 + b"xx\r\n", NOBODY),
    "v2 TCP over IPv4": (v2(0x21, 0x11, V4), (SOURCE4, DESTINATION4)),
    "v2 TCP over IPv6": (v2(0x21, 0x21, V6), (SOURCE6, DESTINATION6)),
    "v2 mapped": (
        v2(0x21, 0x21, bytes(10) + b"\xff\xff" + V4[:4] + bytes(10) + b"\xff\xff" + V4[4:]),
        (SOURCE4, DESTINATION4),
    ),
    "v2 with TLVs": (v2(0x21, 0x11, V4 + b"\1\0\2h2\4\0\0"), (SOURCE4, DESTINATION4)),
    "v2 with as many TLVs as fit": (
        v2(0x21, 0x11, V4 + bytes(V2_MAX_BYTES - 28)),
        (SOURCE4, DESTINATION4),
    ),
    "v2 LOCAL": (v2(0x20, 0x00, b""), NOBODY),
    "v2 LOCAL with addresses": (v2(0x20, 0x11, V4), NOBODY),
    "v2 LOCAL of no known family": (v2(0x20, 0xFF, b"\1"), NOBODY),
    "v2 of no family": (v2(0x21, 0x00, b"\1\2\3"), NOBODY),
    "v2 UDP": (v2(0x21, 0x12, V4), NOBODY),
    "v2 Unix socket": (v2(0x21, 0x31, bytes(216)), NOBODY),
}

every_header = pytest.mark.parametrize(("header", "ends"), GOOD.values(), ids=GOOD)


@every_header
def test_a_header_tells_both_ends(header: bytes, ends: Ends) -> None:
    assert parse_proxy_header(header) == ProxyHeader(*ends, len(header))


@every_header
def test_every_beginning_of_a_header_asks_for_more(header: bytes, ends: Ends) -> None:
    assert [end for end in range(len(header)) if parse_proxy_header(header[:end])] == []


@every_header
@pytest.mark.parametrize("rest", [b"\x16\3\1", b"\r\n", b"PROXY UNKNOWN\r\n", SIGNATURE])
def test_what_follows_a_header_changes_nothing(header: bytes, ends: Ends, rest: bytes) -> None:
    assert parse_proxy_header(header + rest) == ProxyHeader(*ends, len(header))


@pytest.mark.parametrize(
    "header",
    [
        b"\x16",
        b"G",
        b"PROXX",
        b"proxy ",
        b"PROXY\t",
        SIGNATURE[:11] + b"\r",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.2 56324 443\r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 0443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 +443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 44\xb2\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.2 56324 443\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.2 56324 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 56324 443\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8::2 56324 443\r\n",
        b"PROXY TCP6 localhost 2001:db8::2 56324 443\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 56324 443\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN" + b" " * 93 + b"\r\n",  # 108 bytes
        b"PROXY UNKNOWN" + b" " * 94,  # no end in 107 bytes
        v2(0x31, 0x11, V4),
        v2(0x11, 0x11, V4),
        v2(0x22, 0x11, V4),
        v2(0x21, 0x13, V4),
        v2(0x21, 0x41, V4),
        v2(0x21, 0x11, V4[:-1]),
        v2(0x21, 0x21, V6[:-1]),
        v2(0x21, 0x11, b"", length=11),
        v2(0x21, 0x11, b"", length=V2_MAX_BYTES - 15),
        v2(0x20, 0x00, b"", length=0xFFFF),
    ],
)
def test_anything_else_is_refused_without_more_bytes(header: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_proxy_header(header)


# Written


def test_a_line_names_both_ends() -> None:
    line = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
    assert encode_proxy_v1(SOURCE4, DESTINATION4) == line


def test_a_line_of_ipv6_addresses_says_so() -> None:
    line = b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n"
    assert encode_proxy_v1(SOURCE6, DESTINATION6) == line


def test_a_binary_header_holds_both_ends() -> None:
    assert encode_proxy_v2(SOURCE4, DESTINATION4) == v2(0x21, 0x11, V4)


def test_a_binary_header_of_ipv6_addresses_says_so() -> None:
    assert encode_proxy_v2(SOURCE6, DESTINATION6) == v2(0x21, 0x21, V6)


both_versions = pytest.mark.parametrize("encode", [encode_proxy_v1, encode_proxy_v2])


@both_versions
@pytest.mark.parametrize("source", [SOURCE4, SOURCE6])
@pytest.mark.parametrize("destination", [DESTINATION4, DESTINATION6])
def test_what_is_written_is_read_again_also_across_families(
    encode: Encode, source: tuple[str, int], destination: tuple[str, int]
) -> None:
    header = encode(source, destination)
    assert parse_proxy_header(header) == ProxyHeader(source, destination, len(header))


def test_an_ipv4_address_beside_an_ipv6_one_is_mapped() -> None:
    family_and_source = encode_proxy_v2(SOURCE4, DESTINATION6)[13:32]
    assert family_and_source == b"\x21\0\x24" + bytes(10) + b"\xff\xff" + V4[:4]


@both_versions
def test_a_mapped_address_is_written_as_ipv4(encode: Encode) -> None:
    mapped = ("::ffff:192.0.2.1", 56324)
    assert encode(mapped, DESTINATION4) == encode(SOURCE4, DESTINATION4)


@both_versions
def test_a_zone_is_left_out(encode: Encode) -> None:
    zoned, plain = ("fe80::1%eth0", 1), ("fe80::1", 1)
    assert encode(zoned, DESTINATION6) == encode(plain, DESTINATION6)


@both_versions
@pytest.mark.parametrize(
    "end", [("a.example", 443), ("", 443), ("192.0.2.1", 65536), ("192.0.2.1", -1)]
)
def test_only_addresses_are_written(encode: Encode, end: tuple[str, int]) -> None:
    with pytest.raises(LocalProtocolError):
        encode(end, DESTINATION4)
    with pytest.raises(LocalProtocolError):
        encode(SOURCE4, end)
