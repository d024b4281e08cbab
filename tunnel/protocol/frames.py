"""Frames of the control stream, and the one that opens a data stream: u32 big-endian length, bytes.

Nothing here knows what a frame says.
"""

from tunnel.errors import LocalProtocolError, RemoteProtocolError

KIB = 1 << 10
UNAUTHENTICATED_LIMIT = 16 * KIB  # payload bytes, until the relay has welcomed the client
AUTHENTICATED_LIMIT = 64 * KIB
HEADER_LIMIT = 4 * KIB  # of the stream header

_PREFIX_BYTES = 4


def frame(payload: bytes, limit: int = AUTHENTICATED_LIMIT) -> bytes:
    """Return `payload` with its length before it; raises LocalProtocolError above `limit` bytes."""
    if len(payload) > limit:
        raise LocalProtocolError(f"frame of {len(payload)} bytes, at most {limit} may be sent")
    return len(payload).to_bytes(_PREFIX_BYTES, "big") + payload


class FrameReader:
    """Cuts a byte stream into frames.

    After each `feed`, call `next_frame` until it returns None: between two feeds the reader then
    holds less than one frame, whatever the peer sends. `limit` (payload bytes) may be changed at
    any time and holds from the next frame on.
    """

    __slots__ = ("_buffer", "limit")

    def __init__(self, limit: int = UNAUTHENTICATED_LIMIT) -> None:
        self.limit = limit
        self._buffer = bytearray()

    @property
    def held_bytes(self) -> int:
        """How much was fed and not handed out; at the end of a stream, above 0 is a cut frame."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take what arrived; raises RemoteProtocolError if the frame under way is too long."""
        self._buffer += data
        self._frame_end()

    def next_frame(self) -> bytes | None:
        """Return the payload of the next whole frame, or None until more is fed.

        Raises RemoteProtocolError as soon as a length over the limit is seen.
        """
        end = self._frame_end()
        if end is None or len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[_PREFIX_BYTES:end])
        del self._buffer[:end]
        return payload

    def take_rest(self) -> bytes:
        """Return, and forget, what follows the last frame handed out: raw bytes of a stream."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _frame_end(self) -> int | None:
        """Return where the first frame ends in the buffer, or None while its length is unknown."""
        if len(self._buffer) < _PREFIX_BYTES:
            return None
        length = int.from_bytes(self._buffer[:_PREFIX_BYTES], "big")
        if length > self.limit:
            self._buffer.clear()
            raise RemoteProtocolError(f"frame of {length} bytes, at most {self.limit} allowed")
        return _PREFIX_BYTES + length
