"""TLS over any stream: every byte, both ends of a half-close, and no end that was not meant."""

import asyncio
import random
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.unit.tls.wire import (
    CERTIFICATE,
    NAME,
    Visitor,
    Wire,
    shaken,
    visitor_context,
    wire,
)
from tunnel.errors import Code, LocalProtocolError, RemoteProtocolError, StreamReset
from tunnel.stream import Splicing, Tally
from tunnel.tls.contexts import visitor_server_context
from tunnel.tls.terminate import TlsStream, terminate

Body = Callable[[TlsStream, Visitor], Coroutine[Any, Any, None]]
VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def run(body: Body, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
    """Run `body` on both sides of a finished handshake."""

    async def main() -> None:
        client = visitor_context()
        client.minimum_version = client.maximum_version = version
        await body(*await shaken(client=client))

    asyncio.run(main(), debug=True)


async def read_all(stream: TlsStream) -> bytes:
    pieces = []
    while piece := await stream.receive():
        assert len(piece) <= 256 * 1024
        pieces.append(piece)
    return b"".join(pieces)


async def fail(
    context: ssl.SSLContext, client: Callable[[Wire], Coroutine[Any, Any, Any]]
) -> tuple[str, Code | None]:
    """Return what a failed handshake said and the code by which the stream below was cut."""
    near, far = wire()
    async with asyncio.TaskGroup() as group:
        group.create_task(client(far))
        with pytest.raises(RemoteProtocolError) as failure:
            await terminate(near, context, handshake_timeout=5)
    return str(failure.value), near.cut


@VERSIONS
def test_both_ways_at_once_every_byte_arrives(version: ssl.TLSVersion) -> None:
    up, down = random.Random(1).randbytes(3_000_001), random.Random(2).randbytes(5_000_003)

    async def body(stream: TlsStream, visitor: Visitor) -> None:
        async def send(data: bytes) -> None:
            for start in range(0, len(data), 300_000):
                await stream.send(memoryview(data)[start : start + 300_000])
            await stream.finish()

        async def write(data: bytes) -> None:
            await visitor.write(data)
            await visitor.close_notify()

        async with asyncio.TaskGroup() as group:
            received = group.create_task(read_all(stream))
            read = group.create_task(visitor.read_all())
            group.create_task(send(down))
            group.create_task(write(up))
        assert received.result() == up
        assert read.result() == down

    run(body, version)


def test_one_call_may_send_any_size_and_any_kind_of_buffer() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        for data in (b"", b"a", bytearray(b"b" * 16_384), memoryview(b"c" * 200_000)):
            await stream.send(data)
        await stream.finish()
        assert await visitor.read_all() == b"a" + b"b" * 16_384 + b"c" * 200_000

    run(body)


def test_records_cut_at_every_byte_are_put_together() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        visitor.tls.write(b"one")
        visitor.tls.write(b"two")
        for octet in visitor.outgoing.read():
            visitor.end.sent.append(bytes([octet]))
        assert await stream.receive() + await stream.receive() == b"onetwo"

    run(body)


@VERSIONS
def test_after_the_visitor_has_finished_it_can_still_be_answered(version: ssl.TLSVersion) -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        await visitor.write(b"request")
        await visitor.close_notify()
        await visitor.end.finish()
        assert await read_all(stream) == b"request"
        await stream.send(b"answer")
        await stream.finish()
        assert await visitor.read_all() == b"answer"

    run(body, version)


@VERSIONS
def test_after_our_finish_the_visitor_can_still_be_heard(version: ssl.TLSVersion) -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        await stream.send(b"answer")
        await stream.finish()
        await visitor.write(b"late words")  # before it has read that we finished
        assert await stream.receive() == b"late words"
        assert await visitor.read_all() == b"answer"
        await visitor.close_notify()
        assert await stream.receive() == b""

    run(body, version)


def test_finish_sends_close_notify_and_then_finishes_the_stream_below() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        await stream.finish()
        assert await visitor.read() == b""
        assert await visitor.end.receive() == b""

    run(body)


def test_a_second_finish_does_nothing() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        await stream.finish()
        await stream.finish()
        assert await visitor.read_all() == b""

    run(body)


def test_sending_after_finish_is_our_fault() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        await stream.finish()
        with pytest.raises(LocalProtocolError, match="send after finish"):
            await stream.send(b"more")

    run(body)


def test_the_end_is_told_as_often_as_asked() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        await visitor.close_notify()
        assert [await stream.receive(), await stream.receive()] == [b"", b""]

    run(body)


@VERSIONS
def test_a_fin_without_close_notify_is_a_cut(version: ssl.TLSVersion) -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        await visitor.write(b"half a requ")
        assert await stream.receive() == b"half a requ"
        await visitor.end.finish()
        with pytest.raises(StreamReset, match="aborted"):
            await stream.receive()
        assert visitor.end.cut is Code.ABORTED

    run(body, version)


def test_a_fin_within_a_record_is_a_cut() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        visitor.tls.write(b"request")
        await visitor.end.send(visitor.outgoing.read()[:-1])
        await visitor.end.finish()
        with pytest.raises(StreamReset):
            await stream.receive()

    run(body)


def test_a_damaged_record_is_a_cut() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        visitor.tls.write(b"request")
        record = bytearray(visitor.outgoing.read())
        record[-1] ^= 1
        await visitor.end.send(record)
        with pytest.raises(StreamReset):
            await stream.receive()
        assert visitor.end.cut is Code.ABORTED

    run(body)


def test_after_a_cut_nothing_works_any_more() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        stream.abort(Code.BUSY)
        for use in (stream.receive(), stream.send(b"x"), stream.finish()):
            with pytest.raises(StreamReset, match="busy"):
                await use

    run(body)


def test_a_cut_below_passes_with_its_code() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        visitor.end.abort(Code.DRAINING)
        with pytest.raises(StreamReset, match="draining"):
            await stream.receive()

    run(body)


def test_an_abort_cuts_without_close_notify() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        kept = stream._outgoing.pending
        stream.abort(Code.TIMEOUT)
        assert stream._outgoing.pending == kept
        assert visitor.end.cut is Code.TIMEOUT

    run(body)


def test_an_abort_after_both_ends_spares_what_is_under_way() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        await visitor.close_notify()
        assert await stream.receive() == b""
        await stream.send(b"answer")
        await stream.finish()
        stream.abort()
        assert await visitor.read_all() == b"answer"
        await visitor.end.send(b"what follows close_notify")
        await visitor.end.finish()
        await stream.peer_parted()
        assert visitor.end.cut is None

    run(body)


@pytest.mark.parametrize("is_ended", [False, True])
def test_an_abort_after_one_end_cuts(is_ended: bool) -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        if is_ended:
            await visitor.close_notify()
            assert await stream.receive() == b""
        else:
            await stream.finish()
        stream.abort(Code.TIMEOUT)
        assert visitor.end.cut is Code.TIMEOUT

    run(body)


def test_a_cancelled_receive_loses_nothing() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await stream.receive()
        await visitor.write(b"request")
        assert await stream.receive() == b"request"

    run(body)


async def shaken_with_request(request: bytes) -> tuple[TlsStream, Visitor]:
    """Let the visitor's Finished and its request come in one piece."""
    near, far = wire()
    visitor = Visitor(far, visitor_context())

    async def shake() -> None:
        with pytest.raises(ssl.SSLWantReadError):
            visitor.tls.do_handshake()
        await visitor.flush()
        await visitor.feed()
        visitor.tls.do_handshake()
        visitor.tls.write(request)
        await visitor.flush()

    async with asyncio.TaskGroup() as group:
        group.create_task(shake())
        context = visitor_server_context(CERTIFICATE, ())
        stream = await terminate(near, context, handshake_timeout=5)
    return stream, visitor


def test_what_came_with_the_last_handshake_bytes_is_received() -> None:
    async def main() -> None:
        stream, _ = await shaken_with_request(b"request")
        assert await stream.receive() == b"request"

    asyncio.run(main(), debug=True)


def test_finishing_while_a_request_is_unread_loses_neither() -> None:
    async def main() -> None:
        stream, visitor = await shaken_with_request(b"request")
        await stream.send(b"answer")
        await stream.finish()
        assert await visitor.read_all() == b"answer"
        await visitor.close_notify()
        assert [await stream.receive(), await stream.receive()] == [b"request", b""]

    asyncio.run(main(), debug=True)


def test_a_visitor_that_asks_to_renegotiate_for_ever_is_cut() -> None:
    # What OpenSSL answers a ClientHello in a running TLS 1.2 connection with is a warning, each.
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        stream._outgoing.write(bytes(16 * 1024 + 1))
        with pytest.raises(StreamReset):
            await stream.receive()

    run(body)


@pytest.mark.parametrize(
    ("offered", "agreed"), [(("h2", "http/1.1"), "http/1.1"), (("x",), None), ((), None)]
)
def test_the_application_protocol_is_told(offered: tuple[str, ...], agreed: str | None) -> None:
    async def main() -> None:
        server = visitor_server_context(CERTIFICATE, ("http/1.1",))
        stream, _ = await shaken(server, visitor_context(*offered))
        assert stream.alpn == agreed

    asyncio.run(main(), debug=True)


@VERSIONS
def test_the_version_is_told(version: ssl.TLSVersion) -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        assert stream.version == visitor.tls.version()

    run(body, version)


def test_a_stream_shows_its_state() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        assert repr(stream).startswith("<TlsStream TLSv1.3 alpn=None over ")

    run(body)


def test_a_pair_is_never_joined_below() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        terms = Splicing(None, Tally())
        assert stream.join(stream, terms) is None  # type: ignore[func-returns-value] # the point

    run(body)


BAD_HELLO = b"\x16\x03\x01\x00\x20\x01\x00\x00\x1c\x03\x03" + bytes(26)
NO_TLS = [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", bytes(64), b"\xff" * 70_000]


@pytest.mark.parametrize(
    ("garbage", "answer"), [(BAD_HELLO, b"\x15\x03"), *((piece, b"") for piece in NO_TLS)]
)
def test_garbage_is_cut_and_what_is_tls_gets_an_alert(garbage: bytes, answer: bytes) -> None:
    heard = bytearray()

    async def talk(far: Wire) -> None:
        await far.send(garbage)
        while data := await far.receive():
            heard.extend(data)
        await far.finish()

    said, cut = asyncio.run(fail(visitor_server_context(CERTIFICATE, ()), talk), debug=True)
    assert said.startswith("TLS handshake failed: ")
    assert (bytes(heard[:2]), cut) == (answer, Code.PROTOCOL)  # RFC 8446 §5.1: 21 is an alert


def test_a_visitor_that_leaves_in_the_handshake_is_let_go() -> None:
    async def leave(far: Wire) -> None:
        await far.send(b"\x16\x03\x01")
        await far.finish()

    said, cut = asyncio.run(fail(visitor_server_context(CERTIFICATE, ()), leave), debug=True)
    assert (said, cut) == ("TLS handshake failed: UNEXPECTED_EOF_WHILE_READING", Code.PROTOCOL)


def test_a_handshake_has_a_deadline() -> None:
    async def main() -> Code | None:
        near, _ = wire()
        with pytest.raises(RemoteProtocolError, match=r"no TLS handshake in 0\.01 s"):
            await terminate(near, visitor_server_context(CERTIFICATE, ()), handshake_timeout=0.01)
        return near.cut

    assert asyncio.run(main(), debug=True) is Code.TIMEOUT


def test_a_cancelled_handshake_cuts_the_stream() -> None:
    async def main() -> Code | None:
        near, _ = wire()
        context = visitor_server_context(CERTIFICATE, ())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await terminate(near, context, handshake_timeout=5)
        return near.cut

    assert asyncio.run(main(), debug=True) is Code.ABORTED


def test_a_stream_cut_in_the_handshake_says_so() -> None:
    async def main() -> None:
        near, far = wire()
        far.abort(Code.BUSY)
        with pytest.raises(StreamReset, match="busy"):
            await terminate(near, visitor_server_context(CERTIFICATE, ()), handshake_timeout=5)

    asyncio.run(main(), debug=True)


PEOPLE, STRANGERS = trustme.CA(), trustme.CA()


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.pem"
    PEOPLE.cert_pem.write_to_path(path)
    return path


def with_certificate(ca: trustme.CA) -> ssl.SSLContext:
    context = visitor_context()
    ca.issue_cert("person.test").configure_cert(context)
    return context


async def visit(far: Wire, client: ssl.SSLContext) -> ssl.SSLError:
    visitor = Visitor(far, client)
    await visitor.handshake()  # in TLS 1.3 the client is done before its certificate is judged
    with pytest.raises(ssl.SSLError) as alert:
        await visitor.read()
    await far.finish()
    return alert.value


def test_a_visitor_without_the_certificate_asked_for_is_refused(people: Path) -> None:
    context = visitor_server_context(CERTIFICATE, (), people)

    async def talk(far: Wire) -> None:
        assert "CERTIFICATE_REQUIRED" in str((await visit(far, visitor_context())).reason)

    said, cut = asyncio.run(fail(context, talk), debug=True)
    assert said == "TLS handshake failed: PEER_DID_NOT_RETURN_A_CERTIFICATE"
    assert cut is Code.PROTOCOL


def test_a_visitor_with_another_certificate_is_refused(people: Path) -> None:
    context = visitor_server_context(CERTIFICATE, (), people)

    async def talk(far: Wire) -> None:
        assert "UNKNOWN_CA" in str((await visit(far, with_certificate(STRANGERS))).reason)

    said, _ = asyncio.run(fail(context, talk), debug=True)
    assert said == "TLS handshake failed: CERTIFICATE_VERIFY_FAILED"


def test_a_visitor_with_the_certificate_asked_for_comes_in(people: Path) -> None:
    async def main() -> None:
        context = visitor_server_context(CERTIFICATE, (), people)
        stream, visitor = await shaken(context, with_certificate(PEOPLE))
        await visitor.write(b"hello")
        assert await stream.receive() == b"hello"

    asyncio.run(main(), debug=True)


def test_a_ticket_leaves_with_the_first_bytes_of_the_answer() -> None:
    async def body(stream: TlsStream, visitor: Visitor) -> None:
        assert not visitor.end.far.sent
        await stream.send(b"answer")
        assert len(visitor.end.far.sent) == 1
        assert await visitor.read() == b"answer"
        assert visitor.tls.session is not None
        assert visitor.tls.session.has_ticket

    run(body)


def test_a_ticket_that_holds_a_long_certificate_leaves_at_once(people: Path) -> None:
    async def main() -> None:
        client = visitor_context()
        PEOPLE.issue_cert(*(f"{number}.person.test" for number in range(400))).configure_cert(
            client
        )
        _, visitor = await shaken(visitor_server_context(CERTIFICATE, (), people), client)
        assert visitor.end.far.sent

    asyncio.run(main(), debug=True)


def test_the_visitor_verifies_the_name() -> None:
    async def main() -> None:
        _, visitor = await shaken()
        certificate = visitor.tls.getpeercert()
        assert certificate is not None
        assert certificate["subjectAltName"] == (("DNS", NAME),)

    asyncio.run(main(), debug=True)
