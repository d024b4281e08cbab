"""Whatever comes where a PROXY header is due, and every pair of addresses that may be written."""

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tunnel.errors import RemoteProtocolError
from tunnel.protocol.proxy import (
    V2_MAX_BYTES,
    V2_SIGNATURE,
    ProxyHeader,
    encode_proxy_v1,
    encode_proxy_v2,
    parse_proxy_header,
)

thoroughly = settings(max_examples=500, deadline=None)  # a busy machine is not a slow parser

End = tuple[str, int]
Encode = Callable[[End, End], bytes]


def outcome_of(data: bytes) -> ProxyHeader | str | None:
    """Parse; any exception that is not documented escapes."""
    try:
        return parse_proxy_header(data)
    except RemoteProtocolError as error:
        return str(error)


def plain(address: object) -> str:
    """Return an address as text, an IPv4-mapped one as IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


ends = st.tuples(st.ip_addresses().map(plain), st.integers(0, 65535))
lines = st.text("0123456789abcdef.: PROXYTCPUNKW%\r\n\xff", max_size=120)
anything = st.one_of(
    st.binary(max_size=300),
    lines.map(lambda line: b"PROXY " + line.encode("latin-1")),
    st.builds(
        lambda kind, ends, at, byte: b"PROXY %b %b\r\n" % (kind, ends[:at] + byte + ends[at:]),
        st.sampled_from([b"TCP4", b"TCP6"]),
        st.sampled_from([b"192.0.2.1 192.0.2.2 1 2", b"2001:db8::1 ::ffff:192.0.2.2 1 65535"]),
        st.integers(0, 40),
        st.binary(max_size=2),
    ),
    st.builds(
        lambda command, family, size, block: (
            V2_SIGNATURE + bytes((command, family)) + size.to_bytes(2) + block
        ),
        st.sampled_from([0x20, 0x21, 0x22, 0x11]),
        st.one_of(st.sampled_from([0x11, 0x21, 0x12, 0x31]), st.integers(0, 255)),
        st.one_of(st.integers(0, 60), st.integers(0, 65535)),
        st.binary(max_size=300),
    ),
)


@thoroughly
@given(anything, st.binary(max_size=50))
def test_an_answer_stands_whatever_follows(data: bytes, rest: bytes) -> None:
    outcome = outcome_of(data)
    assert outcome is None or outcome_of(data + rest) == outcome


@thoroughly
@given(anything)
def test_an_answer_comes_with_the_first_byte_that_settles_it(data: bytes) -> None:
    outcomes = [outcome_of(data[:end]) for end in range(len(data) + 1)]
    settled = [outcome for outcome in outcomes if outcome is not None]
    assert outcomes == [None] * (len(outcomes) - len(settled)) + settled
    assert all(outcome == outcome_of(data) for outcome in settled)


@thoroughly
@given(anything)
def test_a_header_is_within_the_bytes_and_names_both_ends_or_none(data: bytes) -> None:
    outcome = outcome_of(data)
    if isinstance(outcome, ProxyHeader):
        assert 0 < outcome.size <= min(len(data), V2_MAX_BYTES)
        assert (outcome.source is None) == (outcome.destination is None)
        for host, port in filter(None, (outcome.source, outcome.destination)):
            assert host == plain(ip_address(host))
            assert 0 <= port <= 65535


@settings(max_examples=100, deadline=None)
@given(anything)
def test_the_limit_is_always_enough_to_tell(data: bytes) -> None:
    assert outcome_of(data.ljust(V2_MAX_BYTES, b"\0")) is not None


@pytest.mark.parametrize("encode", [encode_proxy_v1, encode_proxy_v2])
@thoroughly
@given(ends, ends, st.binary(max_size=20))
@example(("0.0.0.0", 0), ("::", 65535), b"")  # noqa: S104 - an address in a header, not a bind
def test_what_is_written_is_read_again(
    encode: Encode, source: End, destination: End, rest: bytes
) -> None:
    header = encode(source, destination)
    assert parse_proxy_header(header + rest) == ProxyHeader(source, destination, len(header))
