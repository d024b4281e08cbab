"""Reaching a relay through somebody's HTTP or SOCKS5 proxy (RFC 9110 §9.3.6, RFC 1928, RFC 1929).

The dialogues are sans-I/O: generators that yield what to send and get what came back. The proxy
resolves host names, and no byte beyond its last answer is read: what follows is TLS.
"""

import asyncio
import base64
import ipaddress
import socket
from collections.abc import Generator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tunnel.errors import ConnectionLost, DialFailed, RemoteProtocolError
from tunnel.stream import Address
from tunnel.transport.demux import Peeker
from tunnel.transport.dialling import connect_socket
from tunnel.transport.tcp import reason_of

RESPONSE_MAX_BYTES = 16 * 1024
DEFAULT_PORTS = {"http": 3128, "socks5": 1080}
SOCKS_REFUSALS = (
    *("", "general failure", "not allowed by its rules", "network unreachable"),
    *("host unreachable", "connection refused", "time to live expired"),
    *("command not supported", "address type not supported"),
)

Dialogue = Generator["Step", bytes, None]


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes to send, then how many to read: a count, or up to and with a delimiter."""

    send: bytes
    read: int | bytes


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy listens, what it speaks (`http` or `socks5`) and how to log in."""

    kind: str
    address: Address
    username: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> "Proxy":
        """Return the proxy of a URL such as socks5://user:pass@host:1080; raises DialFailed."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise DialFailed(f"proxy URL cannot be read: {error}") from error
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise DialFailed("proxy URL must begin with http:// or socks5:// and name a host")
        return cls(
            parts.scheme,
            Address(parts.hostname, port or DEFAULT_PORTS[parts.scheme]),
            unquote(parts.username or ""),
            unquote(parts.password or ""),
        )

    def dialogue(self, target: Address) -> Dialogue:
        """Return what to say so that the proxy connects to `target`; raises DialFailed."""
        talk = http_dialogue if self.kind == "http" else socks_dialogue
        return talk(self, target)


def http_dialogue(proxy: Proxy, target: Address) -> Dialogue:
    """CONNECT, with Basic credentials (RFC 7617) if there are any."""
    request = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.username:
        credentials = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        request.append(f"Proxy-Authorization: Basic {credentials}")
    answer = yield Step("\r\n".join([*request, "", ""]).encode(), b"\r\n\r\n")
    status = answer.split(b"\r\n", 1)[0].decode("latin-1")
    version, _, rest = status.partition(" ")
    if not version.startswith("HTTP/1."):
        raise DialFailed(f"answered {status[:64]!r} instead of HTTP")
    if not rest.startswith("2"):
        raise DialFailed(f"answered {rest[:64]!r}")


def socks_dialogue(proxy: Proxy, target: Address) -> Dialogue:
    """Method, perhaps credentials, then CONNECT (RFC 1928 §3, §4; RFC 1929 §2)."""
    method = 2 if proxy.username else 0
    answer = yield Step(bytes((5, 1, method)), 2)
    if answer != bytes((5, method)):
        raise DialFailed(_method_refusal(answer))
    if proxy.username:
        login = b"\x01" + _counted(proxy.username.encode()) + _counted(proxy.password.encode())
        if (yield Step(login, 2))[1]:
            raise DialFailed("refused the username and password")
    request = b"\x05\x01\x00" + _socks_address(target.host) + target.port.to_bytes(2)
    answer = yield Step(request, 5)
    if answer[0] != 5 or answer[1]:
        raise DialFailed(_refusal(answer[1]))
    # The bound address says nothing to us; its fifth byte is already read.
    sizes = {1: 4 - 1, 3: answer[4], 4: 16 - 1}
    if answer[3] not in sizes:
        raise DialFailed("answered with an unknown address type")
    yield Step(b"", sizes[answer[3]] + 2)


async def connect_through(proxy: Proxy, target: Address, timeout: float) -> socket.socket:
    """Return a non-blocking socket that the proxy has joined to `target`.

    Raises DialFailed. Cancel-safe.
    """
    try:
        async with asyncio.timeout(timeout):
            sock = await connect_socket(proxy.address, timeout)
            try:
                await _run(proxy.dialogue(target), sock)
            except BaseException:
                sock.close()
                raise
            return sock
    except TimeoutError as error:
        raise DialFailed(f"proxy {proxy.address}: no answer within {timeout:g} s") from error
    except OSError as error:
        raise DialFailed(f"proxy {proxy.address}: {reason_of(error)}") from error
    except DialFailed as error:
        raise DialFailed(f"proxy {proxy.address}: {error}") from error


async def _run(dialogue: Dialogue, sock: socket.socket) -> None:
    step = next(dialogue)
    while True:
        if step.send:
            await asyncio.get_running_loop().sock_sendall(sock, step.send)
        answer = await _read(sock, step.read)
        try:
            step = dialogue.send(answer)
        except StopIteration:
            return


async def _read(sock: socket.socket, wanted: int | bytes) -> bytes:
    """Read a count of bytes, or up to and with a delimiter, and not one more."""

    def measure(answer: bytes) -> int | None:
        if isinstance(wanted, int):
            return wanted if len(answer) >= wanted else None
        begins = answer.find(wanted)
        return begins + len(wanted) if begins >= 0 else None

    peeker = Peeker(sock)
    try:
        return peeker.consume(await peeker.until(measure, RESPONSE_MAX_BYTES))
    except ConnectionLost as error:
        raise DialFailed("closed the connection instead of answering") from error
    except RemoteProtocolError as error:
        raise DialFailed(f"answered with more than {RESPONSE_MAX_BYTES} bytes") from error


def _socks_address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return b"\x03" + _counted(_name_of(host))
    return (b"\x01" if address.version == 4 else b"\x04") + address.packed


def _name_of(host: str) -> bytes:
    try:
        return host.encode("idna")
    except UnicodeError as error:
        raise DialFailed(f"cannot ask for {host!r}: not a host name") from error


def _counted(text: bytes) -> bytes:
    if len(text) > 255:
        raise DialFailed("username, password and host name may have 255 bytes each")
    return bytes((len(text),)) + text


def _method_refusal(answer: bytes) -> str:
    if answer[0] != 5:
        return "does not speak SOCKS5"
    return "asks for another way to log in" if answer[1] == 0xFF else "chose an unknown login"


def _refusal(reply: int) -> str:
    known = 0 < reply < len(SOCKS_REFUSALS)
    return SOCKS_REFUSALS[reply] if known else f"refused with reply {reply}"
