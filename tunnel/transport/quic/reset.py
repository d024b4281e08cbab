"""Stateless reset (RFC 9000 §10.3): how a restarted relay says that it knows nothing.

The token of a connection id is derived from a key that outlives the process, so that a client
believes the relay which no longer has the connection.
"""

import hmac
import os

TOKEN_BYTES = 16
LEAST_BYTES = 21  # shorter than any packet we send; RFC 9000 §10.3
USUAL_BYTES = 43  # cannot be told from a short packet
RATE = 200.0  # resets per second, and how many may come at once


def reset_token(key: bytes, connection_id: bytes) -> bytes:
    """Return the 16-byte token of one of our connection ids."""
    return hmac.digest(key, b"tunnel stateless reset" + connection_id, "sha256")[:TOKEN_BYTES]


def reset_datagram(token: bytes, trigger_size: int) -> bytes | None:
    """Return the answer to a datagram of `trigger_size` bytes; None if it was too short.

    It is always shorter than what it answers, so that two ends without state fall silent.
    """
    size = min(trigger_size - 1, USUAL_BYTES)
    if size < LEAST_BYTES:
        return None
    noise = bytearray(os.urandom(size - TOKEN_BYTES))
    noise[0] = 0x40 | noise[0] & 0x3F  # short header, fixed bit
    return bytes(noise) + token


def is_reset(datagram: bytes, tokens: list[bytes]) -> bool:
    """Whether a datagram that could not be decrypted is the reset of one of the peer's ids."""
    if len(datagram) < LEAST_BYTES or datagram[0] & 0x80:
        return False
    return any(hmac.compare_digest(datagram[-TOKEN_BYTES:], token) for token in tokens)


class RateLimit:
    """A token bucket: `RATE` per second, time passed in as `now`."""

    def __init__(self, now: float) -> None:
        self._left = RATE
        self._filled_at = now

    def allows(self, now: float) -> bool:
        """Whether one more may be sent now; counts it."""
        self._left = min(RATE, self._left + (now - self._filled_at) * RATE)
        self._filled_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
