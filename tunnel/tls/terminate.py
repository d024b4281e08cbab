"""TLS over any stream: what a visitor sent encrypted through the tunnel ends here.

Bytes go down in the order in which OpenSSL made them, without a lock: once the handshake is over,
only `send` and `finish`, which are one task's, ever write to the stream below. The reader's side
may owe something too (an answer to a KeyUpdate); it leaves with the next bytes, as RFC 8446 §4.6.3
allows, so that `receive` stays cancel-safe.
"""

import asyncio
import ssl
from collections import deque
from contextlib import suppress

from tunnel.errors import Code, LocalProtocolError, RemoteProtocolError, StreamReset
from tunnel.stream import BULK_BYTES, Splicing, Stream

RECORD_BYTES = 16 * 1024  # RFC 8446 §5.1: the most that one record carries
OWED_BYTES = 16 * 1024  # answers to a visitor who asks and asks, and is sent nothing
TICKET_BYTES = 4 * 1024  # a session ticket of no more than that leaves along with the answer
FAREWELL_TIMEOUT = 1.0  # for an alert to be read before the stream is cut


class TlsStream:
    """The plaintext side of a TLS connection over a stream below.

    `finish` sends close_notify. A FIN of the peer without close_notify is truncation: both halves
    are cut and StreamReset is raised (docs/protocol.md §5).
    """

    def __init__(
        self, below: Stream, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._below = below
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._sealed = memoryview(b"")  # received from below, not yet given to OpenSSL
        self._opened = b""  # decrypted, not yet received
        self._is_ended = False  # the peer's close_notify has been read
        self._is_finished = False
        self._has_parted = False  # the finish of the stream below is out as well
        self._cut: Code | None = None

    def __repr__(self) -> str:
        return f"<TlsStream {self.version} alpn={self.alpn} over {self._below!r}>"

    @property
    def alpn(self) -> str | None:
        """The application protocol agreed on, None if the two have none in common."""
        return self._tls.selected_alpn_protocol()

    @property
    def version(self) -> str | None:
        """The TLS version in force, such as ``TLSv1.3``."""
        return self._tls.version()

    async def receive(self) -> bytes:
        """As `Stream.receive`; truncation raises StreamReset."""
        self._open()
        while not self._opened and not self._is_ended:
            self._sealed = self._sealed or memoryview(await self._below.receive())
            self._open_sealed()
        data, self._opened = self._opened, b""
        return data

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """As `Stream.send`; what is sent in one call shares its records, at most 16 KiB each."""
        self._require_whole()
        if self._is_finished:
            raise LocalProtocolError("send after finish")
        with memoryview(data) as view, view.cast("B") as octets:
            starts = range(0, len(octets), BULK_BYTES)
            sealed = deque(self._seal(octets[start : start + BULK_BYTES]) for start in starts)
        del data, view, octets  # are not to be held while the stream below has no room
        while sealed:
            await self._below.send(sealed.popleft())

    async def finish(self) -> None:
        """As `Stream.finish`: close_notify, then the finish of the stream below."""
        self._require_whole()
        if self._is_finished:
            return
        self._is_finished = True
        # `unwrap` also looks for the peer's close_notify, and takes unread application data in
        # its way for a violation: so all that has come is decrypted first.
        self._open()
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            pass  # ours is out, the peer's is still to come
        except ssl.SSLError as error:
            raise self._broken() from error
        await self._below.send(self._outgoing.read())
        await self._below.finish()
        self._has_parted = True

    async def peer_parted(self) -> None:
        """Wait until the peer has finished the stream below, after both close_notify.

        Cut before that, it might lose our last bytes. What follows a close_notify is dropped
        (RFC 8446 §6.1). Cancel-safe; raises StreamReset.
        """
        while await self._below.receive():
            pass

    def abort(self, code: Code = Code.ABORTED) -> None:
        """As `Stream.abort`; no close_notify, so that the peer sees a cut and no end.

        After both halves have ended it does nothing: the stream below is its owner's to abort.
        """
        if self._is_ended and self._has_parted:
            return
        if self._cut is None:
            self._cut = code
        self._below.abort(code)

    def join(self, far: Stream, terms: Splicing) -> None:
        """Return None: the pair has to be copied."""

    def _open_sealed(self) -> None:
        """Decrypt a chunk of what came from below, or note that it has ended.

        OpenSSL gets a record's worth at a time: its buffers keep the size they once had.
        """
        if not self._sealed:
            self._incoming.write_eof()
            self._open()
        while self._sealed and len(self._opened) < BULK_BYTES:
            self._incoming.write(self._sealed[:RECORD_BYTES])
            self._sealed = self._sealed[RECORD_BYTES:]
            self._open()

    def _open(self) -> None:
        """Decrypt all that OpenSSL was given; raises StreamReset where that is not to be had."""
        self._require_whole()
        pieces = [self._opened] if self._opened else []
        try:
            while self._has_unread:
                pieces.append(self._tls.read(RECORD_BYTES))
                self._is_ended = not pieces[-1]
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._is_ended = True  # how close_notify reads once ours has been sent
        except ssl.SSLError as error:
            raise self._broken() from error
        if self._outgoing.pending > OWED_BYTES:
            raise self._broken()
        self._opened = b"".join(pieces)

    @property
    def _has_unread(self) -> bool:
        """Whether a read may find something; to be told by SSLWantReadError costs far more."""
        if self._is_ended:
            return False
        return bool(self._incoming.pending or self._tls.pending() or self._incoming.eof)

    def _seal(self, octets: memoryview) -> bytes:
        """Return encrypted what OpenSSL is given a record's worth at a time."""
        records = []
        try:
            while octets:
                octets = octets[self._tls.write(octets[:RECORD_BYTES]) :]
                records.append(self._outgoing.read())
        except ssl.SSLError as error:
            raise self._broken() from error
        return b"".join(records)

    def _require_whole(self) -> None:
        if self._cut is not None:
            raise StreamReset(self._cut)

    def _broken(self) -> StreamReset:
        """Cut both halves and return what to raise."""
        self.abort(Code.ABORTED)
        return StreamReset(Code.ABORTED)


async def terminate(
    stream: Stream, context: ssl.SSLContext, *, handshake_timeout: float
) -> TlsStream:
    """Return the plaintext side of a stream whose ClientHello is still unread.

    `handshake_timeout` is in seconds. On any failure the stream has been cut, after the alert, if
    there is one, was sent. Raises RemoteProtocolError for a handshake that failed or took too
    long, StreamReset if the stream was cut meanwhile. A cancelled call cuts the stream too.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    try:
        async with asyncio.timeout(handshake_timeout):
            await _shake_hands(stream, tls, incoming, outgoing)
    except TimeoutError as error:
        stream.abort(Code.TIMEOUT)
        raise RemoteProtocolError(f"no TLS handshake in {handshake_timeout:g} s") from error
    except ssl.SSLError as error:
        await _say_farewell(stream, outgoing.read())
        raise RemoteProtocolError(f"TLS handshake failed: {error.reason}") from error
    except BaseException:  # StreamReset, cancellation: nobody else holds the stream
        stream.abort()
        raise
    return TlsStream(stream, tls, incoming, outgoing)


async def _shake_hands(
    stream: Stream, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
) -> None:
    is_done = False
    while not is_done:
        await _feed(stream, incoming)
        try:
            tls.do_handshake()
            is_done = True
        except ssl.SSLWantReadError:
            pass
        if outgoing.pending and not (is_done and _may_wait(tls, outgoing)):
            await stream.send(outgoing.read())


def _may_wait(tls: ssl.SSLObject, outgoing: ssl.MemoryBIO) -> bool:
    """Say whether what is left of a handshake may leave with the first bytes of the answer.

    In TLS 1.3 that is session tickets (RFC 8446 §4.6.1), which nobody waits for.
    """
    return tls.version() == "TLSv1.3" and outgoing.pending <= TICKET_BYTES


async def _feed(stream: Stream, incoming: ssl.MemoryBIO) -> None:
    if data := await stream.receive():
        incoming.write(data)
    else:
        incoming.write_eof()


async def _say_farewell(stream: Stream, alert: bytes) -> None:
    """Send the alert and wait, not for long, until the peer has closed: a cut would overtake it."""
    try:
        with suppress(StreamReset, TimeoutError):
            async with asyncio.timeout(FAREWELL_TIMEOUT):
                if alert:
                    await stream.send(alert)
                await stream.finish()
                while await stream.receive():
                    pass  # what was under way when we gave up
    finally:
        stream.abort(Code.PROTOCOL)
