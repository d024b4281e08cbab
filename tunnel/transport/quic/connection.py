"""One QUIC connection, as everything above sees it."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from tunnel.errors import Code, ConnectionLost, LocalProtocolError, RemoteProtocolError
from tunnel.log import get_log
from tunnel.stream import Address, Binding, Stream
from tunnel.transport.options import TransportOptions
from tunnel.transport.parking import ParkingLot
from tunnel.transport.quic.driver import FLUSH_TURNS, Driver
from tunnel.transport.quic.endings import REASON_MAX, lost_by
from tunnel.transport.quic.endpoint import Endpoint
from tunnel.transport.quic.engine import Engine, StreamOpened, StreamsAllowed
from tunnel.transport.quic.stream import TunnelStream
from tunnel.transport.quic.trains import Burst
from tunnel.transport.quic.writing import CONTROL_STREAM
from tunnel.transport.tcp import address_of
from tunnel.transport.waiting import Places, Queue
from tunnel.transport.window import ReceiveWindow

log = get_log(__name__)


class Owner(Protocol):
    """Who holds a connection's socket: a listener, or a dial."""

    def established(self, connection: "TunnelConnection", alpn: str | None) -> None:
        """Note that the handshake is complete."""

    def add_route(self, connection_id: bytes, connection: "TunnelConnection") -> None:
        """Note that the peer may from now on address the connection by this id."""

    def remove_route(self, connection_id: bytes) -> None:
        """Note that the peer has given the id up."""

    def release(self, connection: "TunnelConnection") -> None:
        """Note that the connection has ended and needs the socket no more."""


class TunnelConnection:
    """Implements tunnel.stream.Connection."""

    def __init__(
        self, engine: Engine, endpoint: Endpoint, owner: Owner, options: TransportOptions
    ) -> None:
        self.engine = engine
        self.lot = ParkingLot(options.flow.parked_max, options.budget)
        self.binding = Binding("quic", b"")  # the leaf is filled in by whoever knows it
        self._driver = Driver(engine, endpoint, self._settle, self._fail)
        self._owner = owner
        self._flow = options.flow
        self._streams: dict[int, TunnelStream] = {}
        self._arrived: Queue[Stream] = Queue()
        self._places = Places(options.max_streams + 1)  # and the control stream
        self._allowed = asyncio.Event()  # pulsed when the peer allows more streams
        self._lost: asyncio.Future[ConnectionLost] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        role = "client" if self.engine.configuration.is_client else "relay"
        state = "closed" if self.is_closed else f"{len(self._streams)} streams"
        return f"<quic {role} to {self.peer} {state}>"

    @property
    def peer(self) -> Address:
        return address_of(self.engine.get_peer_address() or ("", 0))

    @property
    def last_heard(self) -> float:
        return self._driver.last_heard

    @property
    def is_closed(self) -> bool:
        return self._lost.done()

    async def open_stream(self) -> Stream:
        if self.engine.configuration.is_client:
            raise LocalProtocolError("only the relay opens streams")
        await self._places.take()
        try:
            while not self.engine.may_open and not self.is_closed:
                await self._allowed.wait()
            self._check_lost()
            stream = self._add_stream(self.engine.open_stream())
        except BaseException:
            self._places.free()
            raise
        self.schedule_flush()
        return stream

    async def accept_stream(self) -> Stream:
        return await self._arrived.get()

    def close(self, code: Code = Code.OK, message: str = "") -> None:
        if self.is_closed:
            return
        self._driver.flush()  # aioquic sends nothing else any more once it is closing
        self.engine.close(error_code=int(code), reason_phrase=message[:REASON_MAX])
        self.end(ConnectionLost(message or f"closed with code {code.word}", code))

    async def wait_closed(self) -> ConnectionLost:
        return await asyncio.shield(self._lost)

    # For the streams, the listener and the dialer

    def schedule_flush(self) -> None:
        """Send what there is to send soon, together with what is asked for until then."""
        self._driver.schedule_flush()

    def hear(self, bursts: Sequence[Burst]) -> None:
        """Take datagrams that were addressed to this connection."""
        if self.is_closed:
            return
        try:
            self._driver.hear(bursts)
        except Exception as error:  # noqa: BLE001 - one peer's packets must not end the others
            self._fail(error)

    def end(self, lost: ConnectionLost) -> None:
        """End the connection at once, for the reason given; a second call does nothing."""
        if self.is_closed:
            return
        self._lost.set_result(lost)
        self._driver.stop()
        for stream in list(self._streams.values()):
            stream.end_cut(Code.ABORTED)
        self._streams.clear()
        self._arrived.close(lost)
        self._places.close(lost)
        self._pulse()
        self._owner.release(self)
        self.engine.let_go()

    def _fail(self, error: Exception) -> None:
        """End the connection for what was raised while its engine was at work."""
        if isinstance(error, RemoteProtocolError):
            self.close(Code.PROTOCOL, str(error))
            return
        log.error("engine failed", peer=self.peer, exception=error)
        self.end(ConnectionLost("the QUIC engine failed", Code.INTERNAL))

    # Events of the engine

    def _settle(self) -> None:
        while not self.is_closed and (event := self.engine.next_event()) is not None:
            self._dispatch(event)
        for stream_id in self.engine.take_done():
            self._drop_stream(stream_id)
        if self.engine.termination is not None and not self.is_closed:
            self.end(lost_by(self.engine.termination))

    def _dispatch(self, event: QuicEvent) -> None:
        match event:
            case StreamDataReceived(data=data, end_stream=ended, stream_id=stream_id):
                self._feed(stream_id, data, ended=ended)
            case StreamOpened(stream_id=stream_id):
                self._arrived.put(self._add_stream(stream_id))
            case (
                StreamReset(error_code=code, stream_id=stream_id)
                | StopSendingReceived(error_code=code, stream_id=stream_id)
            ):
                self._cut(stream_id, Code.from_number(code))
            case StreamsAllowed():
                self._pulse()
            case ConnectionIdIssued(connection_id=connection_id):
                self._owner.add_route(connection_id, self)
            case ConnectionIdRetired(connection_id=connection_id):
                self._owner.remove_route(connection_id)
            case HandshakeCompleted(alpn_protocol=alpn):
                self._owner.established(self, alpn)
            case _:
                pass  # aioquic tells more than we need

    def _feed(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if data:
            stream.feed(data)
        if ended:
            stream.feed_end()

    def _cut(self, stream_id: int, code: Code) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.cut_by_peer(code)

    def _add_stream(self, stream_id: int) -> TunnelStream:
        window = ReceiveWindow(self._flow.stream_window, self._flow.stream_window_max)
        stream = TunnelStream(self, stream_id, window)
        self._streams[stream_id] = stream
        if stream_id != CONTROL_STREAM:
            self._driver.flush_turns = FLUSH_TURNS
        return stream

    def _drop_stream(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)
        if not self.engine.configuration.is_client:
            self._places.free()

    def _check_lost(self) -> None:
        if self.is_closed:
            lost = self._lost.result()
            raise ConnectionLost(str(lost), lost.code)

    def _pulse(self) -> None:
        self._allowed.set()
        self._allowed.clear()
