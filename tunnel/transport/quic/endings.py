"""Why a connection ended, in our words: from QUIC's error codes to our errors."""

from collections.abc import Mapping

from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from tunnel.errors import Code, ConnectionLost, DialFailed

REASON_MAX = 256  # characters of a peer's text that are kept
CRYPTO_ERROR_LAST = QuicErrorCode.CRYPTO_ERROR + 0xFF

CODES: Mapping[int, Code] = {
    QuicErrorCode.NO_ERROR: Code.OK,
    QuicErrorCode.INTERNAL_ERROR: Code.INTERNAL,
    QuicErrorCode.CONNECTION_REFUSED: Code.BUSY,
    QuicErrorCode.NO_VIABLE_PATH: Code.TIMEOUT,
    QuicErrorCode.APPLICATION_ERROR: Code.ABORTED,
}
ALERTS: Mapping[int, str] = {
    AlertDescription.bad_certificate: "relay certificate is not valid",
    AlertDescription.no_application_protocol: "the far end does not speak this tunnel's protocol",
}


def lost_by(ending: ConnectionTerminated) -> ConnectionLost:
    """Return the error that says how an established connection ended."""
    reason = ending.reason_phrase[:REASON_MAX]
    if ending.frame_type is None:
        code = Code.from_number(ending.error_code)
        return ConnectionLost(reason or f"closed with code {code.word}", code)
    if is_idle(ending):
        return ConnectionLost("nothing was heard until the idle time-out", Code.TIMEOUT)
    code = CODES.get(ending.error_code, Code.PROTOCOL)
    return ConnectionLost(f"QUIC error {ending.error_code:#x}: {reason!r}", code)


def is_idle(ending: ConnectionTerminated) -> bool:
    """Whether nothing was heard for too long (aioquic has no code of its own for it)."""
    return ending.frame_type == 0 and ending.reason_phrase == "Idle timeout"


def failed_by(ending: ConnectionTerminated) -> DialFailed:
    """Return the error that tells an operator why a handshake failed."""
    reason = ending.reason_phrase[:REASON_MAX]
    if is_idle(ending):
        return DialFailed("no answer")
    if ending.frame_type is None:
        return DialFailed(
            f"closed by the relay: {reason or Code.from_number(ending.error_code).word}"
        )
    if QuicErrorCode.CRYPTO_ERROR <= ending.error_code <= CRYPTO_ERROR_LAST:
        number = ending.error_code - QuicErrorCode.CRYPTO_ERROR
        return DialFailed(f"{ALERTS.get(number, f'TLS alert {number}')}: {reason}".rstrip(": "))
    return DialFailed(f"QUIC handshake failed with error {ending.error_code:#x}: {reason!r}")
