"""Kinds of value that speak of the network: addresses, names, keys' fingerprints."""

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from tunnel.protocol.names import check_host_name, parse_fingerprint
from tunnel.settings.kinds import Expanded, Kind, Misfit, as_text, shown
from tunnel.settings.values import InheritedAddress, Target
from tunnel.stream import Address

AGENTS_PORT = 4433

_ADDRESS = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:/@\s]+)):([0-9]{1,5})")


def is_ip(host: str) -> bool:
    """Say whether `host` is an IPv4 or IPv6 literal."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_domain(name: str) -> bool:
    """Say whether `name` is a lower-case host name without trailing dot."""
    try:
        check_host_name(name)
    except ValueError:
        return False
    return True


def parse_address(value: object, default_port: int | None = None) -> Address:
    """Return ``host:port``, ``[v6]:port`` or (with a default port) ``host``; raises Misfit."""
    text = as_text(value)
    if default_port is not None and (is_ip(text) or is_domain(text.lower())):
        text = f"[{text}]:{default_port}" if ":" in text else f"{text}:{default_port}"
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise Misfit
    host = match[1] or match[2]
    if match[1] is not None and not (is_ip(host) and ":" in host):
        raise Misfit
    if not is_ip(host) and not is_domain(host.lower()):
        raise Misfit
    return Address(host.lower(), int(match[3]))


def _check_port(port: int, minimum: int = 1) -> None:
    if not minimum <= port <= 65535:
        raise Misfit(f"port {port} is out of range (expected {minimum} to 65535)")


def _read_listen(value: object, _folder: Path) -> object:
    return _parse_bound(value, as_text(value), minimum_port=0)


def _parse_bound(value: object, plain: str, minimum_port: int) -> Address:
    """Return the address that `plain`, all of `value` or its end, says; raises Misfit."""
    address = parse_address(plain)
    if not is_ip(address.host):
        raise Misfit(f"{shown(value)} has a host name (expected an IP address and port)")
    _check_port(address.port, minimum_port)
    return Address(str(ip_address(address.host)), address.port)


LISTEN = Kind("address", "an address", "host:port", _read_listen)
"""An IP address and a port to bind; port 0 lets the kernel choose."""


def _read_listener(value: object, folder: Path) -> object:
    plain = as_text(value)
    if not plain.startswith("fd:"):
        return _read_listen(value, folder)
    return InheritedAddress(*_parse_bound(value, plain.removeprefix("fd:"), minimum_port=1))


LISTENER = Kind("address", "an address", "host:port", _read_listener)
"""As LISTEN, or the same behind `fd:` for sockets that the service manager has bound there."""


def _read_server(value: object, _folder: Path) -> object:
    address = parse_address(value, AGENTS_PORT)
    _check_port(address.port)
    return address


SERVER = Kind("address", "an address", "host or host:port", _read_server)


def _read_target(value: object, _folder: Path) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        _check_port(value)
        return Target(address=Address("127.0.0.1", value))
    plain = as_text(value)
    if re.fullmatch(r"[0-9]{1,9}", plain):
        _check_port(int(plain))
        return Target(address=Address("127.0.0.1", int(plain)))
    if plain.startswith("unix:"):
        path = Path(plain.removeprefix("unix:"))
        if not path.is_absolute():
            raise Misfit(f"{shown(value)} is not absolute (expected unix:/run/app.sock)")
        return Target(path=path)
    address = parse_address(plain)
    _check_port(address.port)
    return Target(address=address)


TARGET = Kind("target", "a target", "3000, host:port or unix:/run/app.sock", _read_target)


def _read_network(value: object, _folder: Path) -> object:
    try:
        return ip_network(as_text(value))
    except ValueError as error:
        if "host bits" in str(error):
            wanted = ip_network(as_text(value), strict=False)
            raise Misfit(f'{shown(value)} has bits beyond its mask (expected "{wanted}")') from None
        raise Misfit from None


NETWORK = Kind("network", "a network", "192.0.2.0/24 or 2001:db8::/32", _read_network)


def _read_domain(value: object, _folder: Path) -> object:
    name = as_text(value)
    if name != name.lower() and is_domain(name.lower()):
        raise Misfit(f'{shown(value)} is not in lower case (expected "{name.lower()}")')
    if not is_domain(name):
        raise Misfit
    return str(name)


DOMAIN = Kind("name", "a domain name", "a name such as t.example.org", _read_domain)


def _read_qualified(value: object, folder: Path) -> object:
    name = _read_domain(value, folder)
    if "." not in str(name):
        raise Misfit
    return name


def _read_custom_name(value: object, folder: Path) -> object:
    if as_text(value).startswith("*."):
        wanted = "expected exact names: TLS-ALPN-01, RFC 8737, proves no other to an authority"
        raise Misfit(f"{shown(value)} is a wildcard ({wanted})")
    return _read_qualified(value, folder)


CUSTOM_NAME = Kind("name", "a domain name", "a name such as shop.example.com", _read_custom_name)


def _read_grant(value: object, folder: Path) -> object:
    pattern = as_text(value)
    if not pattern.startswith("*."):
        return _read_qualified(value, folder)
    parent = str(_read_qualified(pattern.removeprefix("*."), folder))
    return f"*.{parent}"


GRANT = Kind("name", "a domain name", "shop.example.com or *.shop.example.com", _read_grant)


def _read_host(value: object, _folder: Path) -> object:
    host = as_text(value).lower()
    if not is_ip(host) and not is_domain(host):
        raise Misfit
    return host


HOST = Kind("host name", "a host name", "a name or an IP address", _read_host)


def _read_hash(value: object, _folder: Path) -> object:
    try:
        return parse_fingerprint(as_text(value))
    except ValueError:
        raise Misfit from None


FINGERPRINT = Kind("fingerprint", "a fingerprint", "sha256: and 64 hexadecimal digits", _read_hash)

EXTENSION_LIMIT = 4096  # bytes; docs/protocol.md §3


def _read_hex(value: object, _folder: Path) -> object:
    digits = as_text(value)
    if len(digits) > 2 * EXTENSION_LIMIT:
        raise Misfit(f"is longer than {EXTENSION_LIMIT} bytes")
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", digits):
        raise Misfit
    return bytes.fromhex(digits)


HEX = Kind("hexadecimal bytes", "hexadecimal", "pairs of digits, such as deadbeef", _read_hex)


def _read_alpn(value: object, _folder: Path) -> object:
    word = as_text(value)
    if not word.isascii() or len(word) > 255:  # RFC 7301 §3.1
        raise Misfit
    if word == "acme-tls/1":
        raise Misfit('"acme-tls/1" belongs to certificate authorities (RFC 8737)')
    return str(word)


ALPN = Kind("protocol name", "a protocol name", '"http/1.1" or "h2"', _read_alpn)


def _read_id_bits(value: object, _folder: Path) -> object:
    if value not in (64, 128) or isinstance(value, float):
        raise Misfit
    return value


ID_BITS = Kind("64 or 128", "an id length", "64 or 128", _read_id_bits)

_PROXY_PORTS = {"http": 8080, "socks5": 1080}


def _read_proxy(value: object, _folder: Path) -> object:
    url = as_text(value)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _proxy_misfit() from None
    if parts.scheme not in _PROXY_PORTS:
        raise Misfit(f'"{parts.scheme}" is not a scheme of a proxy (expected http or socks5)')
    host = parts.hostname or ""
    if not port or parts.path.strip("/") or parts.query or not (is_ip(host) or is_domain(host)):
        raise _proxy_misfit()
    if parts.password and not _is_from_environment(value):
        raise Misfit("a password never stands in a file (expected ${VARIABLE} in its place)")
    return str(url)


def _proxy_misfit() -> Misfit:
    """Return the fault of a proxy; it does not repeat the value, which may hold a password."""
    return Misfit("is not a proxy (expected http://host:port or socks5://host:port)")


def _is_from_environment(value: object) -> bool:
    """Say whether the file says ``${…}`` where the password, or the whole URL, would stand."""
    if not isinstance(value, Expanded):
        return False
    try:
        inline = urlsplit(value.written).password
    except ValueError:  # brackets around a variable: whatever it is, it hides in the text
        return False
    return inline is None or "${" in inline


PROXY = Kind("URL", "a proxy", "http://host:port or socks5://host:port", _read_proxy)
