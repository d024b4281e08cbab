"""Two ends of a wire in memory, and a visitor's TLS on one of them, built on `ssl` alone."""

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime

from tunnel.errors import Code, StreamReset
from tunnel.stream import Splicing, Stream
from tunnel.tls.certificates import self_signed
from tunnel.tls.contexts import visitor_server_context
from tunnel.tls.terminate import TlsStream, terminate

NOW = datetime.now(UTC)
NAME = "a.t.test"
CERTIFICATE = self_signed([NAME], now=NOW)
ROOM_BYTES = 256 * 1024


class Wire:
    """One end; `sent` holds what this end sent and the far end has not fetched."""

    def __init__(self) -> None:
        self.far: Wire = self
        self.sent: deque[bytes] = deque()
        self.is_finished = False
        self.cut: Code | None = None
        self.changed = asyncio.Event()

    async def receive(self) -> bytes:
        while not self.far.sent and not self.far.is_finished:
            await self._wait()
        self._check()
        data = self.far.sent.popleft() if self.far.sent else b""
        self.far.changed.set()
        return data

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_finished
        while sum(map(len, self.sent)) > ROOM_BYTES:
            await self._wait()
        self._check()
        self.sent.append(bytes(data))
        self.far.changed.set()

    async def finish(self) -> None:
        self._check()
        self.is_finished = True
        self.far.changed.set()

    def abort(self, code: Code = Code.ABORTED) -> None:
        for end in (self, self.far):
            end.cut = code if end.cut is None else end.cut
            end.changed.set()

    def join(self, far: Stream, terms: Splicing) -> None:
        del far, terms

    async def _wait(self) -> None:
        self._check()
        self.changed.clear()
        await self.changed.wait()
        self._check()

    def _check(self) -> None:
        if self.cut is not None:
            raise StreamReset(self.cut)


def wire() -> tuple[Wire, Wire]:
    near, far = Wire(), Wire()
    near.far, far.far = far, near
    return near, far


class Visitor:
    """The far end's TLS; one task may read while another writes."""

    def __init__(self, end: Wire, context: ssl.SSLContext) -> None:
        self.end = end
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=NAME)

    async def handshake(self) -> None:
        is_done = False
        while not is_done:
            try:
                self.tls.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                await self.flush()
                await self.feed()
            finally:
                await self.flush()

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), 50_000):
            self.tls.write(data[start : start + 50_000])
            await self.flush()

    async def read(self) -> bytes:
        """Return some bytes, or b"" after close_notify; raises ssl.SSLEOFError on truncation."""
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                await self.feed()
            except ssl.SSLZeroReturnError:
                return b""

    async def read_all(self) -> bytes:
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    async def close_notify(self) -> None:
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.flush()

    async def feed(self) -> None:
        if data := await self.end.receive():
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    async def flush(self) -> None:
        if self.outgoing.pending:
            await self.end.send(self.outgoing.read())


def visitor_context(*alpn: str, ca: bytes = CERTIFICATE.chain_pem) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca.decode())
    context.set_alpn_protocols(list(alpn))
    return context


async def shaken(
    server: ssl.SSLContext | None = None, client: ssl.SSLContext | None = None
) -> tuple[TlsStream, Visitor]:
    """Return both plaintext sides of a handshake that went well."""
    near, far = wire()
    visitor = Visitor(far, client or visitor_context())
    context = server or visitor_server_context(CERTIFICATE, ())
    async with asyncio.TaskGroup() as group:
        group.create_task(visitor.handshake())
        stream = await terminate(near, context, handshake_timeout=5)
    return stream, visitor
