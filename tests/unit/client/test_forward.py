"""A visitor's stream from its header to the service and back."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.client.scenes import run_in_no_time
from tests.unit.tls.wire import CERTIFICATE, NAME, NOW, Visitor, Wire, visitor_context
from tunnel.client.challenges import Challenges
from tunnel.client.endpoints import Endpoint, Keypair
from tunnel.client.forward import Forwarder
from tunnel.errors import Code, StreamReset
from tunnel.protocol.frames import HEADER_LIMIT, frame
from tunnel.protocol.messages import StreamHeader, StreamKind, encode
from tunnel.settings.values import EndpointSettings, Target
from tunnel.stream import Address, Stream
from tunnel.tls.identity import generate
from tunnel.transport.memory import memory_pair

HEADER = StreamHeader(
    StreamKind.VISITOR, "v1", NAME, ("192.0.2.7", 5555), ("198.51.100.1", 443), ()
)
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass(eq=False)
class Service:
    """A TCP service as a script; `address` is where it listens."""

    address: Address
    heard: bytes = b""
    was_cut: bool = False
    called: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def was_called(self) -> bool:
        return self.called.is_set()


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Service], Coroutine[Any, Any, None]]


async def echo(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: Service
) -> None:
    """Hear all that comes, then send it back."""
    service.heard = await reader.read()
    writer.write(service.heard)
    await writer.drain()


async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: Service) -> None:
    """Send a little, then reset the connection."""
    service.heard = await reader.read(1)
    writer.write(b"par")
    await writer.drain()
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


def endpoint(target: Target, *, with_tls: bool, **changes: Any) -> Endpoint:
    identity = generate()
    keypair = Keypair("key", identity, bytes(32), "0" * 32)
    source = {"certificate": "self-signed" if with_tls else "passthrough", "names": (NAME,)}
    settings = EndpointSettings("web", "key", "t.test", target, **source | changes)
    made = Endpoint(settings, keypair, NOW)
    if made.settings.certificate == "self-signed":
        made.install(NAME, CERTIFICATE)
    return made


@dataclass(eq=False)
class Journey:
    """One stream on its way through a forwarder."""

    far: Stream  # the relay's end
    service: Service

    def visitor(self, *alpn: str) -> Visitor:
        end = cast(Wire, self.far)  # of which a visitor uses what every stream has
        return Visitor(end, visitor_context(*alpn))


def travel(
    script: Callable[[Journey], Coroutine[Any, Any, Any]],
    answer: Answer = echo,
    *,
    with_tls: bool = False,
    header: StreamHeader | None = HEADER,
    runner: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run,
    challenges: Challenges | None = None,
    **changes: Any,
) -> tuple[Any, Service]:
    """Let one stream with `header` arrive, and return what `script` did at the relay's end."""

    async def main() -> tuple[Any, Service]:
        service = Service(Address("127.0.0.1", 1))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            service.called.set()
            try:
                await answer(reader, writer, service)
            except ConnectionError:
                service.was_cut = True
            writer.close()
            service.over.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        service.address = Address(*server.sockets[0].getsockname())
        target = changes.pop("target", Target(service.address))
        web = endpoint(target, with_tls=with_tls, **changes)
        forwarder = Forwarder({NAME: web}, 300.0, challenges or Challenges())
        relay, client = memory_pair()
        far, near = await relay.open_stream(), await client.accept_stream()
        if header is not None:
            await far.send(frame(encode(header)))
        async with server:
            async with asyncio.TaskGroup() as group:
                group.create_task(forwarder.forward(near))
                result = await script(Journey(far, service))
            if service.was_called:
                await service.over.wait()
        return result, service

    result: tuple[Any, Service] = runner(main())
    return result


async def read_all(end: Stream) -> bytes:
    parts = []
    while data := await end.receive():
        parts.append(data)
    return b"".join(parts)


async def cut_of(end: Stream) -> Code:
    with pytest.raises(StreamReset) as reset:
        await read_all(end)
    return reset.value.code


def test_what_follows_the_header_reaches_the_service_and_its_answer_comes_back() -> None:
    async def script(journey: Journey) -> bytes:
        await journey.far.send(b"hello ")
        await journey.far.send(b"there")
        await journey.far.finish()
        return await read_all(journey.far)

    answer, service = travel(script)
    assert (answer, service.heard) == (b"hello there", b"hello there")


def test_bytes_in_one_go_with_the_header_are_not_lost() -> None:
    async def script(journey: Journey) -> bytes:
        await journey.far.send(frame(encode(HEADER)) + b"early")
        await journey.far.finish()
        return await read_all(journey.far)

    assert travel(script, header=None)[0] == b"early"


def test_a_header_in_small_pieces_is_put_together() -> None:
    async def script(journey: Journey) -> bytes:
        for byte in frame(encode(HEADER)) + b"x":
            await journey.far.send(bytes([byte]))
        await journey.far.finish()
        return await read_all(journey.far)

    assert travel(script, header=None)[0] == b"x"


def test_tls_ends_here() -> None:
    async def script(journey: Journey) -> tuple[bytes, str | None]:
        visitor = journey.visitor("http/1.1")
        await visitor.handshake()
        await visitor.write(b"secret")
        await visitor.close_notify()
        await journey.far.finish()
        return await visitor.read_all(), visitor.tls.selected_alpn_protocol()

    (answer, alpn), service = travel(script, with_tls=True)
    assert (answer, alpn, service.heard) == (b"secret", "http/1.1", b"secret")


def test_a_visitor_may_close_only_once_it_has_the_answer() -> None:
    async def script(journey: Journey) -> bytes:
        visitor = journey.visitor()
        await visitor.handshake()
        await visitor.write(b"secret")
        await visitor.close_notify()
        await journey.service.over.wait()
        answer = await visitor.read_all()
        assert await journey.far.receive() == b""
        await journey.far.finish()
        return answer

    assert travel(script, with_tls=True)[0] == b"secret"


def test_a_visitor_who_ends_without_close_notify_is_cut_at_the_service() -> None:
    async def script(journey: Journey) -> None:
        visitor = journey.visitor()
        await visitor.handshake()
        await visitor.write(b"half a req")
        await journey.far.finish()
        await cut_of(journey.far)

    assert travel(script, with_tls=True)[1].was_cut


def test_a_visitor_who_is_cut_is_cut_at_the_service() -> None:
    async def script(journey: Journey) -> None:
        await journey.far.send(b"x")
        await journey.service.called.wait()
        journey.far.abort()

    assert travel(script)[1].was_cut


def test_a_service_that_resets_cuts_the_visitor() -> None:
    async def script(journey: Journey) -> Code:
        await journey.far.send(b"x")
        return await cut_of(journey.far)

    assert travel(script, cut)[0] is Code.ABORTED


@pytest.mark.parametrize(
    "header",
    [replace(HEADER, name="other.t.test"), replace(HEADER, kind=StreamKind.CHALLENGE)],
    ids=["another name", "a challenge"],
)
def test_what_is_not_served_here_is_sent_elsewhere(header: StreamHeader) -> None:
    async def script(journey: Journey) -> Code:
        return await cut_of(journey.far)

    code, service = travel(script, header=header)
    assert (code, service.was_called) == (Code.NOT_SERVING, False)


@pytest.mark.parametrize(
    "raw",
    [b"\x00\x00\x00\x02{}", (HEADER_LIMIT + 1).to_bytes(4, "big"), b"\x00\x00\x00\x01["],
    ids=["incomplete", "too long", "no JSON"],
)
def test_a_stream_without_a_header_is_refused(raw: bytes) -> None:
    async def script(journey: Journey) -> Code:
        await journey.far.send(raw)
        return await cut_of(journey.far)

    assert travel(script, header=None)[0] is Code.PROTOCOL


def test_a_stream_that_ends_in_its_header_is_refused() -> None:
    async def script(journey: Journey) -> Code:
        await journey.far.send(frame(encode(HEADER))[:-1])
        await journey.far.finish()
        return await cut_of(journey.far)

    assert travel(script, header=None)[0] is Code.PROTOCOL


def test_a_header_has_five_seconds() -> None:
    async def script(journey: Journey) -> tuple[Code, float]:
        begin = asyncio.get_running_loop().time()
        code = await cut_of(journey.far)
        return code, asyncio.get_running_loop().time() - begin

    assert travel(script, header=None, runner=run_in_no_time)[0] == (Code.TIMEOUT, 5.0)


@pytest.mark.parametrize(
    ("rules", "is_let_in"),
    [
        ({"allow": (ip_network("192.0.2.0/24"),)}, True),
        ({"allow": (ip_network("2001:db8::/32"),)}, False),
        ({"deny": (ip_network("192.0.2.7/32"),)}, False),
        ({"deny": (ip_network("192.0.2.8/32"),)}, True),
        ({"allow": (ip_network("192.0.2.0/24"),), "deny": (ip_network("192.0.2.7/32"),)}, False),
    ],
    ids=["allowed", "not allowed", "denied", "not denied", "deny beats allow"],
)
def test_visitors_are_admitted_by_their_address(rules: dict[str, Any], is_let_in: bool) -> None:
    async def script(journey: Journey) -> Code | None:
        try:
            await journey.far.finish()
            await read_all(journey.far)
        except StreamReset as reset:
            return reset.code
        return None

    code, service = travel(script, **rules)
    assert (code, service.was_called) == ((None, True) if is_let_in else (Code.ABORTED, False))


def test_the_service_is_told_the_visitors_address_in_version_1() -> None:
    async def script(journey: Journey) -> bytes:
        await journey.far.finish()
        return await read_all(journey.far)

    line = b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 443\r\n"
    assert travel(script, proxy_protocol="v1")[0] == line


def test_the_service_is_told_the_visitors_address_in_version_2() -> None:
    async def script(journey: Journey) -> bytes:
        await journey.far.finish()
        return await read_all(journey.far)

    answer = travel(script, proxy_protocol="v2")[0]
    assert answer.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c" + bytes([192, 0, 2, 7]))


NOBODY = Target(path=Path("/nonexistent/service.sock"))


def test_a_visitor_of_http_gets_a_page_when_the_service_is_down() -> None:
    async def script(journey: Journey) -> bytes:
        visitor = journey.visitor("http/1.1")
        await visitor.handshake()
        await visitor.write(REQUEST)
        page = await visitor.read_all()
        await visitor.close_notify()
        await journey.far.finish()
        return page

    head, _, body = travel(script, with_tls=True, target=NOBODY)[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"Connection: close" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"did not answer" in body


def test_a_head_request_gets_the_head_of_that_page_alone() -> None:
    async def script(journey: Journey) -> bytes:
        visitor = journey.visitor()
        await visitor.handshake()
        await visitor.write(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        page = await visitor.read_all()
        await visitor.close_notify()
        await journey.far.finish()
        return page

    page = travel(script, with_tls=True, target=NOBODY)[0]
    assert page.endswith(b"\r\n\r\n")
    assert b"Content-Length: 0" not in page


def test_the_page_waits_for_the_whole_request_head() -> None:
    async def script(journey: Journey) -> bytes:
        visitor = journey.visitor()
        await visitor.handshake()
        for byte in REQUEST:
            await visitor.write(bytes([byte]))
        page = await visitor.read_all()
        await visitor.close_notify()
        await journey.far.finish()
        return page

    assert travel(script, with_tls=True, target=NOBODY)[0].startswith(b"HTTP/1.1 502")


def test_a_visitor_who_speaks_no_http_is_cut_when_the_service_is_down() -> None:
    async def script(journey: Journey) -> Code:
        visitor = journey.visitor()
        await visitor.handshake()
        await visitor.write(b"\x16\x03\x01\r\n\r\n")
        return await cut_of(journey.far)

    assert travel(script, with_tls=True, target=NOBODY)[0] is Code.TARGET_DOWN


def test_a_visitor_of_http2_is_cut_when_the_service_is_down() -> None:
    async def script(journey: Journey) -> Code:
        visitor = journey.visitor("h2")
        await visitor.handshake()
        return await cut_of(journey.far)

    code, _ = travel(script, with_tls=True, target=NOBODY, alpn=("h2",))
    assert code is Code.TARGET_DOWN


def test_a_visitor_passed_through_is_cut_when_the_service_is_down() -> None:
    async def script(journey: Journey) -> Code:
        await journey.far.send(REQUEST)
        return await cut_of(journey.far)

    assert travel(script, target=NOBODY)[0] is Code.TARGET_DOWN


def test_a_visitor_without_a_request_does_not_hold_the_page_for_ever() -> None:
    async def script(journey: Journey) -> Code:
        visitor = journey.visitor()
        await visitor.handshake()
        await visitor.write(b"GET / HT")
        return await cut_of(journey.far)

    code, _ = travel(script, with_tls=True, target=NOBODY, runner=run_in_no_time)
    assert code is Code.TARGET_DOWN


def test_a_visitor_without_the_wanted_certificate_never_reaches_the_service(
    tmp_path: Path,
) -> None:
    (tmp_path / "people.pem").write_bytes(CERTIFICATE.chain_pem)

    async def script(journey: Journey) -> None:
        visitor = journey.visitor()
        await visitor.handshake()  # TLS 1.3: the client is refused after its own end of it
        with pytest.raises((ssl.SSLError, StreamReset)):
            await visitor.read()
        await journey.far.finish()

    _, service = travel(script, with_tls=True, visitor_ca=tmp_path / "people.pem")
    assert not service.was_called
