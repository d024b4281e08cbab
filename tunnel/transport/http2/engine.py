"""The HTTP/2 state machine with what this protocol fixes: settings, requests, codes, credit.

Sans-I/O. Only this package imports h2; only this module and `shortcuts` reach into it.
"""

from collections.abc import Sequence

import h2.config
import h2.connection
import h2.settings
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame, Frame, RstStreamFrame

from tunnel.errors import Code, RemoteProtocolError
from tunnel.settings.values import FlowSettings
from tunnel.transport.options import STREAMS_ADVERTISED
from tunnel.transport.window import ReceiveWindow

FRAME_MAX_BYTES = 64 * 1024
HEADER_LIST_MAX_BYTES = 4 * 1024
MESSAGE_MAX_BYTES = 256
CONTROL_ID = 1  # the first stream that the HTTP/2 client opens
CODE_BASE = 0x100  # our codes begin above HTTP/2's own

Headers = Sequence[tuple[bytes, bytes]]


def request(path: bytes) -> Headers:
    """Return the headers that open a stream (docs/protocol.md §1)."""
    return (
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"tunnel"),
        (b":path", path),
    )


CONTROL_REQUEST, STREAM_REQUEST = request(b"/control"), request(b"/stream")
RESPONSE: Headers = ((b":status", b"200"),)


class Engine(h2.connection.H2Connection):
    """One end of a connection; the relay is the HTTP/2 client."""

    MAX_CLOSED_STREAMS = 1024  # h2 would remember 65,536: 26 MB
    DEFAULT_MAX_HEADER_LIST_SIZE = HEADER_LIST_MAX_BYTES

    def __init__(self, flow: FlowSettings, *, is_relay: bool) -> None:
        super().__init__(
            h2.config.H2Configuration(
                client_side=is_relay,
                header_encoding=None,
                validate_outbound_headers=False,  # they are the constants above
                normalize_outbound_headers=False,
            )
        )
        self._flow = flow
        self._owed = 0
        self.local_settings = h2.settings.Settings(
            client=is_relay,
            initial_values={
                SettingCodes.HEADER_TABLE_SIZE: 0,
                SettingCodes.ENABLE_PUSH: 0,
                # Clients open none; but h2 wants room for a late answer to a stream that was cut.
                SettingCodes.MAX_CONCURRENT_STREAMS: 1 if is_relay else STREAMS_ADVERTISED,
                SettingCodes.INITIAL_WINDOW_SIZE: flow.stream_window,
                SettingCodes.MAX_FRAME_SIZE: FRAME_MAX_BYTES,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_LIST_MAX_BYTES,
            },
        )
        # h2 applies a change of settings when it is acknowledged; initial values are no change.
        self.max_inbound_frame_size = FRAME_MAX_BYTES
        self.decoder.max_allowed_table_size = 0

    def start(self) -> None:
        """Queue the preface, our settings and the connection's credit."""
        self.initiate_connection()
        missing = self._flow.connection_window - self.inbound_flow_control_window
        if missing > 0:
            self.increment_flow_control_window(missing)

    def credit_on_receipt(self, size: int) -> None:
        """Count `size` flow-controlled bytes that arrived; grants them again by quarter windows."""
        self._owed += size
        if self._owed * 4 >= self._flow.connection_window:
            self.increment_flow_control_window(self._owed)
            self._owed = 0

    def new_window(self) -> ReceiveWindow:
        """Return the account of a stream that begins."""
        return ReceiveWindow(self._flow.stream_window, self._flow.stream_window_max)

    def is_open(self, stream_id: int) -> bool:
        """Whether either half of the stream still lives on the wire."""
        stream = self.streams.get(stream_id)
        return stream is not None and not stream.closed

    def leave(self, stream_id: int, code: Code) -> None:
        """Forget a stream; if either half still lives, queue the end of both with `code`."""
        if self.is_open(stream_id):
            self.reset_stream(stream_id, CODE_BASE + code)
        if (stream := self.streams.pop(stream_id, None)) is not None:
            self._closed_streams[stream_id] = stream.closed_by

    def take_framed(self) -> bytearray:
        """Return all that is to be written now, and forget it."""
        framed, self._data_to_send = self._data_to_send, bytearray()
        return framed

    def stop(self, code: Code, message: str) -> None:
        """Queue the last frame instead of all that is queued."""
        self.clear_outbound_data_buffer()
        self.close_connection(CODE_BASE + code, message.encode()[:MESSAGE_MAX_BYTES])

    def _receive_frame(self, frame: Frame) -> list[Event]:
        if type(frame) is not DataFrame:
            return super()._receive_frame(frame)
        # h2 prints each frame in hexadecimal for a log that it does not keep: half of its time.
        frames, events = self._receive_data_frame(frame)
        self._prepare_for_sending(frames)
        return events

    def _open_streams(self, remainder: int) -> int:
        # h2 looks at every stream for each one that begins. Those that ended leave the table by
        # `leave`, so that only a full table has to be looked through. Even ones there are none.
        if not remainder:
            return 0
        settings = self.remote_settings if self.config.client_side else self.local_settings
        if len(self.streams) < settings.max_concurrent_streams:
            return len(self.streams)
        return super()._open_streams(remainder)

    def _handle_data_on_closed_stream(
        self, events: list[Event], exc: StreamClosedError, frame: DataFrame
    ) -> tuple[list[Frame], list[Event]]:
        # h2 keeps a second account for these bytes, which holds half a window back.
        self.credit_on_receipt(frame.flow_controlled_length)
        return [], events + exc._events  # noqa: SLF001 - what h2 itself returns

    def _stream_is_closed_by_reset(self, stream_id: int) -> bool:
        # A late frame may belong to a stream that was cut so long ago that h2 forgot it.
        is_forgotten = stream_id not in self.streams and stream_id not in self._closed_streams
        return is_forgotten or super()._stream_is_closed_by_reset(stream_id)

    def _prepare_for_sending(self, frames: list[Frame]) -> None:
        # What was on its way when we cut a stream is no fault of the peer's. h2 answers each such
        # frame with another RST_STREAM, hundreds of them for a stream that was sending fast.
        super()._prepare_for_sending([frame for frame in frames if not _is_echo(frame)])


def _is_echo(frame: Frame) -> bool:
    return isinstance(frame, RstStreamFrame) and frame.error_code == ErrorCodes.STREAM_CLOSED


def code_of(number: int) -> Code:
    """Return the code that an HTTP/2 error number carries; HTTP/2's own mean a broken protocol."""
    if number < CODE_BASE:
        return Code.OK if number == ErrorCodes.NO_ERROR else Code.PROTOCOL
    return Code.from_number(number - CODE_BASE)


def check_request(headers: Headers, *, is_first: bool) -> None:
    """Raise RemoteProtocolError unless this opens the stream that is due: control, then others."""
    expected = CONTROL_REQUEST if is_first else STREAM_REQUEST
    if sorted(map(tuple, headers)) != sorted(expected):
        raise RemoteProtocolError(f"unexpected request {dict(headers)!r:.200}")


def check_response(headers: Headers) -> None:
    """Raise RemoteProtocolError unless the stream was taken."""
    if [tuple(header) for header in headers] != list(RESPONSE):
        raise RemoteProtocolError(f"unexpected response {dict(headers)!r:.200}")
