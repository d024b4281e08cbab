"""Sending a visitor away so that the answer really reaches it."""

from contextlib import suppress

from tunnel.errors import Code, StreamReset
from tunnel.protocol.hello import UNRECOGNIZED_NAME_ALERT, alert
from tunnel.stream import Stream, send_last

INTERNAL_ERROR_ALERT = alert(80)  # RFC 8446 §6.2
_LINGER_TIMEOUT = 1.0  # seconds
_DROPPED_BYTES = 64 * 1024

_ALERTS = {
    Code.NOT_SERVING: UNRECOGNIZED_NAME_ALERT,
    Code.BUSY: INTERNAL_ERROR_ALERT,
    Code.TIMEOUT: INTERNAL_ERROR_ALERT,
    Code.DRAINING: INTERNAL_ERROR_ALERT,
    Code.SUPERSEDED: INTERNAL_ERROR_ALERT,
}


def alert_for(code: Code) -> bytes | None:
    """Return the TLS alert for a visitor that nobody answered; None where only a cut is honest."""
    return _ALERTS.get(code)


async def turn_away(visitor: Stream, answer: bytes) -> None:
    """Send `answer`, wait a moment for the visitor to close, close."""
    try:
        with suppress(StreamReset):  # it did not wait for the answer
            await send_last(
                visitor, answer, linger_timeout=_LINGER_TIMEOUT, dropped_bytes=_DROPPED_BYTES
            )
    finally:
        visitor.abort()
