"""The PROXY protocol, versions 1 and 2: who a connection really came from.

Follows HAProxy's "The PROXY protocol", §2.1 and §2.2. Whether a peer may be believed is not
decided here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from tunnel.errors import LocalProtocolError, RemoteProtocolError
from tunnel.protocol.fields import SocketAddress

IPAddress = IPv4Address | IPv6Address

V1_START: Final = b"PROXY "
V1_MAX_BYTES: Final = 107  # CR LF included
V1_FAMILIES: Final[Mapping[str, type[IPAddress]]] = {"TCP4": IPv4Address, "TCP6": IPv6Address}
V1_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")

V2_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
V2_PREFIX_BYTES: Final = 16  # signature, version and command, family and protocol, length
V2_MAX_BYTES: Final = 4096  # addresses take at most 216; the rest are TLVs, which are skipped
V2_LOCAL: Final = 0x20
V2_PROXY: Final = 0x21
V2_TCP4: Final = 0x11
V2_TCP6: Final = 0x21
V2_ADDRESS_BYTES: Final = {V2_TCP4: 4, V2_TCP6: 16}  # of one address


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a balancer says of the connection it passes on.

    `source` and `destination` are both None where the balancer speaks for itself (LOCAL) or for
    something other than TCP over IP: then the connection's own addresses hold. `size` is the
    length of the header in bytes; the visitor's own follow.
    """

    source: SocketAddress | None
    destination: SocketAddress | None
    size: int


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """Return the header of version 1 or 2 that `data` begins with, or None while it is incomplete.

    Reads at most V2_MAX_BYTES. Raises RemoteProtocolError on anything else.
    """
    for start, parse in ((V1_START, _parse_v1), (V2_SIGNATURE, _parse_v2)):
        if data.startswith(start):
            return parse(data)
        if start.startswith(data):
            return None
    raise RemoteProtocolError("no PROXY protocol header")


def encode_proxy_v1(source: SocketAddress, destination: SocketAddress) -> bytes:
    """Return the line that tells a service who came; an IPv4 address beside an IPv6 one is mapped.

    Raises LocalProtocolError on what is not an IP address and a port; a zone is left out.
    """
    first, second = _in_one_family(_to_ip(source), _to_ip(destination))
    words = (f"PROXY TCP{first.version}", first, second, source[1], destination[1])
    return " ".join(map(str, words)).encode() + b"\r\n"


def encode_proxy_v2(source: SocketAddress, destination: SocketAddress) -> bytes:
    """Return the binary header; the same contract as `encode_proxy_v1`."""
    first, second = _in_one_family(_to_ip(source), _to_ip(destination))
    family = V2_TCP4 if first.version == 4 else V2_TCP6
    ports = source[1].to_bytes(2) + destination[1].to_bytes(2)
    block = first.packed + second.packed + ports
    return V2_SIGNATURE + bytes((V2_PROXY, family)) + len(block).to_bytes(2) + block


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, V1_MAX_BYTES)
    if end < 0:
        if len(data) < V1_MAX_BYTES:
            return None
        raise RemoteProtocolError(f"no end of the PROXY line in {V1_MAX_BYTES} bytes")
    family, *fields = data[len(V1_START) : end].decode("latin-1").split(" ")
    size = end + 2
    if family == "UNKNOWN":  # "the receiver must ignore anything presented before the CRLF"
        return ProxyHeader(None, None, size)
    if family not in V1_FAMILIES or len(fields) != 4:
        raise RemoteProtocolError("malformed PROXY line")
    hosts = [_parse_v1_host(text, V1_FAMILIES[family]) for text in fields[:2]]
    ports = [_parse_v1_port(text) for text in fields[2:]]
    return ProxyHeader((hosts[0], ports[0]), (hosts[1], ports[1]), size)


def _parse_v1_host(text: str, family: type[IPAddress]) -> str:
    if "%" in text:  # a zone, which ipaddress would accept
        raise RemoteProtocolError("an address with a zone in the PROXY line")
    try:
        return _to_host(family(text))
    except ValueError as error:
        raise RemoteProtocolError("malformed address in the PROXY line") from error


def _parse_v1_port(text: str) -> int:
    if not V1_PORT.fullmatch(text) or int(text) > 65535:
        raise RemoteProtocolError("malformed port in the PROXY line")
    return int(text)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < V2_PREFIX_BYTES:
        return None
    command, family = data[12], data[13]
    size = V2_PREFIX_BYTES + int.from_bytes(data[14:V2_PREFIX_BYTES])
    if command not in (V2_LOCAL, V2_PROXY):
        raise RemoteProtocolError("unknown version or command of the PROXY protocol")
    if size > V2_MAX_BYTES:
        raise RemoteProtocolError(f"a PROXY header of {size} bytes, at most {V2_MAX_BYTES} allowed")
    if command == V2_PROXY:
        _check_v2_family(family, size)
    if len(data) < size:
        return None
    if command == V2_LOCAL or family not in V2_ADDRESS_BYTES:
        return ProxyHeader(None, None, size)
    return _parse_v2_addresses(data, V2_ADDRESS_BYTES[family], size)


def _check_v2_family(family: int, size: int) -> None:
    if family >> 4 > 3 or family & 15 > 2:
        raise RemoteProtocolError("unknown family or protocol in the PROXY header")
    width = V2_ADDRESS_BYTES.get(family)
    if width is not None and size < V2_PREFIX_BYTES + 2 * width + 4:
        raise RemoteProtocolError("the PROXY header is too short for its addresses")


def _parse_v2_addresses(data: bytes, width: int, size: int) -> ProxyHeader:
    """Return the header of a TCP connection whose addresses take `width` bytes each."""
    middle = V2_PREFIX_BYTES + width
    end = middle + width
    hosts = [
        _to_host(ip_address(part)) for part in (data[V2_PREFIX_BYTES:middle], data[middle:end])
    ]
    ports = [int.from_bytes(data[at : at + 2]) for at in (end, end + 2)]
    return ProxyHeader((hosts[0], ports[0]), (hosts[1], ports[1]), size)


def _to_host(address: IPAddress) -> str:
    return str(_unmap(address))


def _unmap(address: IPAddress) -> IPAddress:
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(address.packed)  # without its zone
    return address


def _to_ip(end: SocketAddress) -> IPAddress:
    host, port = end
    try:
        address = ip_address(host)
    except ValueError as error:
        raise LocalProtocolError(f"{host!r:.128} is no IP address") from error
    if not 0 <= port <= 65535:
        raise LocalProtocolError(f"{port} is no port")
    return _unmap(address)


def _in_one_family(first: IPAddress, second: IPAddress) -> tuple[IPAddress, IPAddress]:
    if first.version == second.version:
        return first, second
    return _map(first), _map(second)


def _map(address: IPAddress) -> IPv6Address:
    """Return an address as IPv6, IPv4 in its mapped form (RFC 4291 §2.5.5.2)."""
    return IPv6Address(address.packed.rjust(6, b"\xff").rjust(16, b"\0"))
