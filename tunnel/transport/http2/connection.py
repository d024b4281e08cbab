"""A TLS connection that carries streams as HTTP/2 requests: callbacks and futures, no task."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from h2 import events
from h2.exceptions import H2Error, NoAvailableStreamIDError
from h2.settings import SettingCodes

from tunnel.errors import Code, ConnectionLost, LocalProtocolError, RemoteProtocolError
from tunnel.log import get_log
from tunnel.stream import Address, Binding, Stream
from tunnel.transport.http2.engine import (
    CONTROL_ID,
    MESSAGE_MAX_BYTES,
    check_request,
    check_response,
    code_of,
)
from tunnel.transport.http2.frames import END_STREAM, Piece
from tunnel.transport.http2.sending import Sender
from tunnel.transport.http2.shortcuts import Requested, ShortcutEngine
from tunnel.transport.http2.stream import Http2Stream
from tunnel.transport.options import ALPN_HTTP2, STREAMS_ADVERTISED, TransportOptions
from tunnel.transport.parking import ParkingLot
from tunnel.transport.read_buffer import read_buffer
from tunnel.transport.tcp import address_of
from tunnel.transport.waiting import Places, Queue

log = get_log(__name__)

READ_BYTES = 128 * 1024  # at once: in frames of two bytes they keep the loop for 0.07 s

UNCLAIMED_MAX = 2 * STREAMS_ADVERTISED  # streams begun by the peer and not yet freed here


class Http2Connection(asyncio.BufferedProtocol):
    """What both ends do alike; a Connection (tunnel.stream) once `settled` has returned."""

    _transport: asyncio.Transport

    def __init__(self, options: TransportOptions, *, is_relay: bool) -> None:
        loop = asyncio.get_running_loop()
        self.binding = Binding("h2", b"")  # the leaf's hash is set once the handshake is over
        self.reported_peer: Address | None = None  # by a balancer in between
        self.last_heard = loop.time()
        self.lot = ParkingLot(options.flow.parked_max, options.budget)
        self.engine = ShortcutEngine(options.flow, is_relay=is_relay)
        self.sender = Sender(self.engine, self._stalled, self._fail)
        self.streams: dict[int, Http2Stream] = {}
        self._buffer = read_buffer(READ_BYTES)
        self._lost: ConnectionLost | None = None
        self._settled: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[ConnectionLost] = loop.create_future()

    def __repr__(self) -> str:
        state = f"lost: {self._lost}" if self._lost else f"{len(self.streams)} streams"
        return f"<{type(self).__name__} {self.peer} {state}>"

    @property
    def peer(self) -> Address:
        """The far end of the TCP connection."""
        return self.reported_peer or address_of(self._transport.get_extra_info("peername"))

    @property
    def tls(self) -> ssl.SSLObject:
        """The TLS session, for its certificate."""
        session: ssl.SSLObject = self._transport.get_extra_info("ssl_object")
        return session

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, by either side."""
        return self._lost is not None

    async def settled(self) -> None:
        """Wait until the peer has spoken HTTP/2; raises ConnectionLost if it does not."""
        await self._settled

    def close(self, code: Code = Code.OK, message: str = "") -> None:
        if self._lost is None:
            self.engine.stop(code, message)
            self._lose(ConnectionLost(message or code.word, code))

    async def wait_closed(self) -> ConnectionLost:
        return await asyncio.shield(self._closed)

    def grant(self, stream_id: int, credit: int) -> None:
        """Let the peer send `credit` more bytes on a stream that has not ended."""
        self.engine.grant(stream_id, credit)
        self.sender.schedule()

    def leave(self, stream: Http2Stream, code: Code) -> None:
        """Free the stream's place, and cut it on the wire unless both its halves have ended."""
        stream_id = stream.outbox.stream_id
        if self.streams.pop(stream_id, None) is None:
            return
        if self._lost is None:
            self.engine.leave(stream_id, code)
            self.sender.schedule()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's have no common base
        if self.tls.selected_alpn_protocol() != ALPN_HTTP2:
            self._lose(ConnectionLost("TLS without tunnel-h2/1", Code.PROTOCOL))
            return
        self.engine.start()
        self.sender.start(self._transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._lost is not None:
            return
        data = self._buffer[:nbytes]
        self.last_heard = now = asyncio.get_running_loop().time()
        try:
            for event in self.engine.receive(data, now):
                if react := REACTIONS.get(type(event)):
                    react(self, event)
                if self._lost is not None:
                    return
            self.engine.meter.check_resets()
            self.sender.fill()
        except (H2Error, RemoteProtocolError) as error:
            self.close(Code.PROTOCOL, str(error))
        except Exception as error:  # noqa: BLE001 - one peer's frames must not end the others
            self._fail(error)

    def pause_writing(self) -> None:
        self.sender.pause()

    def resume_writing(self) -> None:
        self.sender.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        lost = ConnectionLost(f"connection lost: {exc or 'closed by the peer'}")
        self.end(lost)
        self._closed.set_result(self._lost or lost)

    def on_piece(self, piece: Piece) -> None:
        if stream := self.streams.get(piece.stream_id):
            stream.arrive(piece.payload)
            if piece.ends and piece.flags & END_STREAM:
                stream.end_arriving()

    def on_data(self, event: events.DataReceived) -> None:
        """Act on a frame that h2 has read: one with padding."""
        self.engine.credit_on_receipt(event.flow_controlled_length)
        if stream := self.streams.get(event.stream_id):
            stream.arrive(event.data)

    def on_end(self, event: events.StreamEnded) -> None:
        if stream := self.streams.get(event.stream_id):
            stream.end_arriving()

    def on_reset(self, event: events.StreamReset) -> None:
        if not event.remote_reset:  # h2's own verdict on what the peer sent
            raise RemoteProtocolError(f"stream {event.stream_id} used wrongly")
        if stream := self.streams.get(event.stream_id):
            stream.cut(code_of(event.error_code or 0))

    def on_credit(self, event: events.WindowUpdated) -> None:
        if stream := self.streams.get(event.stream_id):
            self.sender.queue(stream.outbox)

    def on_settings(self, event: events.RemoteSettingsChanged) -> None:  # noqa: ARG002 - see relay
        """Act on new settings of the peer; the first ones show that it speaks HTTP/2."""
        for stream in self.streams.values():
            self.sender.queue(stream.outbox)  # SETTINGS_INITIAL_WINDOW_SIZE is credit for all
        if not self._settled.done():
            self._settled.set_result(None)

    def on_goaway(self, event: events.ConnectionTerminated) -> None:
        code = code_of(event.error_code or 0)
        message = (event.additional_data or b"")[:MESSAGE_MAX_BYTES].decode(errors="replace")
        self._lose(ConnectionLost(message or code.word, code))

    def drop(self) -> None:
        """Cut the connection without a word: it has not come up."""
        self.end(ConnectionLost("connection did not come up"))
        if hasattr(self, "_transport"):
            self._transport.abort()

    def take_headers(self, event: events.RequestReceived | events.ResponseReceived) -> None:
        """Act on the headers that begin a stream, or the answer to them."""
        raise NotImplementedError

    def take_stream(self, event: Requested) -> None:
        """Act on a stream that the peer begins."""
        raise NotImplementedError

    def on_stray(self, event: events.Event) -> None:
        raise RemoteProtocolError(f"{type(event).__name__} has no place here")

    def begin(self, stream_id: int) -> Http2Stream:
        """Return the new stream of that number."""
        stream = Http2Stream(self, stream_id, self.engine.new_window())
        self.streams[stream_id] = stream
        self.engine.meter.excuse_reset()  # one that the peer may send, if only to cut the stream
        return stream

    def _stalled(self) -> None:
        self.end(ConnectionLost("peer does not read", Code.TIMEOUT))
        self._transport.abort()

    def _fail(self, error: Exception) -> None:
        """End the connection for a bug of ours: its state is not to be trusted any more."""
        log.error("engine failed", peer=self.peer, exception=error)
        self.end(ConnectionLost("the HTTP/2 engine failed", Code.INTERNAL))
        self._transport.abort()

    def _lose(self, lost: ConnectionLost) -> None:
        """End everything and close; what is framed still goes out."""
        self.end(lost)
        self._transport.close()

    def end(self, lost: ConnectionLost) -> None:
        """Cut all streams and let everybody who waits know; the first reason stays."""
        if self._lost is not None:
            return
        self._lost = lost
        self.sender.stop()
        for stream in list(self.streams.values()):
            stream.cut(Code.ABORTED)
        if not self._settled.done():
            self._settled.set_exception(ConnectionLost(str(lost), lost.code))
            self._settled.exception()  # nobody has to wait for it


class RelayConnection(Http2Connection):
    """The relay's end: the HTTP/2 client, which opens streams."""

    def __init__(self, options: TransportOptions) -> None:
        super().__init__(options, is_relay=True)
        self._places = Places(options.max_streams + 1)  # and the control stream

    async def settled(self) -> None:
        await super().settled()
        self._places.limit(self.engine.remote_settings.max_concurrent_streams)

    def on_settings(self, event: events.RemoteSettingsChanged) -> None:
        if self._settled.done():
            change = event.changed_settings.get(SettingCodes.MAX_CONCURRENT_STREAMS)
            if change is not None and change.new_value < (change.original_value or 0):
                raise RemoteProtocolError("limit on streams was lowered")
        super().on_settings(event)

    async def open_stream(self) -> Stream:
        await self._places.take()
        try:
            stream_id = self.engine.begin()
        except NoAvailableStreamIDError as error:  # after 2^30 streams, RFC 9113 §5.1.1
            self.close(Code.DRAINING, "stream numbers are used up")
            raise ConnectionLost("stream numbers are used up", Code.DRAINING) from error
        self.sender.schedule()
        return self.begin(stream_id)

    async def accept_stream(self) -> Stream:
        raise LocalProtocolError("only the client accepts streams")

    def leave(self, stream: Http2Stream, code: Code) -> None:
        if stream.outbox.stream_id in self.streams:
            super().leave(stream, code)
            self._places.free()

    def take_headers(self, event: events.RequestReceived | events.ResponseReceived) -> None:
        if isinstance(event, events.RequestReceived):
            raise RemoteProtocolError("only the relay opens streams")
        check_response(event.headers)

    def end(self, lost: ConnectionLost) -> None:
        super().end(lost)
        self._places.close(lost)


class ClientConnection(Http2Connection):
    """The client's end: the HTTP/2 server, which takes streams."""

    def __init__(self, options: TransportOptions) -> None:
        super().__init__(options, is_relay=False)
        self._arrivals: Queue[Stream] = Queue()

    async def open_stream(self) -> Stream:
        raise LocalProtocolError("only the relay opens streams")

    async def accept_stream(self) -> Stream:
        return await self._arrivals.get()

    def take_headers(self, event: events.RequestReceived | events.ResponseReceived) -> None:
        check_request(event.headers, is_first=event.stream_id == CONTROL_ID)
        self.take_stream(Requested(event.stream_id))

    def take_stream(self, event: Requested) -> None:
        if len(self.streams) >= UNCLAIMED_MAX:
            raise RemoteProtocolError("streams begun and cut faster than they can be freed")
        if self.engine.is_open(event.stream_id):  # else it was cut by a frame right behind
            self.engine.answer(event.stream_id)
        self._arrivals.put(self.begin(event.stream_id))

    def end(self, lost: ConnectionLost) -> None:
        super().end(lost)
        self._arrivals.close(lost)


REACTIONS: Mapping[type[events.Event | Piece], Callable[[Any, Any], None]] = {
    Piece: Http2Connection.on_piece,
    Requested: lambda connection, event: connection.take_stream(event),
    events.DataReceived: Http2Connection.on_data,
    events.StreamEnded: Http2Connection.on_end,
    events.StreamReset: Http2Connection.on_reset,
    events.WindowUpdated: Http2Connection.on_credit,
    events.RemoteSettingsChanged: lambda connection, event: connection.on_settings(event),
    events.ConnectionTerminated: Http2Connection.on_goaway,
    events.RequestReceived: lambda connection, event: connection.take_headers(event),
    events.ResponseReceived: lambda connection, event: connection.take_headers(event),
    events.TrailersReceived: Http2Connection.on_stray,
    events.InformationalResponseReceived: Http2Connection.on_stray,
}
