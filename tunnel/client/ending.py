"""Why an attempt or a connection came to its end, as one value."""

from dataclasses import dataclass

from tunnel.errors import Code, ConnectionLost, Refused, RemoteProtocolError, TunnelError
from tunnel.protocol.backoff import FIXED_INTERVALS, RETRY_AFTER_CODES

LEFT = "left on purpose"


@dataclass(frozen=True, slots=True)
class Ending:
    """`code` is None for an attempt that never reached the relay; `retry_after` is in seconds."""

    code: Code | None = None
    message: str = ""
    retry_after: float | None = None

    @property
    def is_policy(self) -> bool:
        """Whether the relay has decided so: it would say the same over any transport."""
        return self.code in FIXED_INTERVALS or self.code in RETRY_AFTER_CODES

    @property
    def closing_code(self) -> Code:
        """What the relay is told when the connection is closed for this."""
        return Code.OK if self.code is None else self.code

    def __str__(self) -> str:
        word = self.code.word if self.code is not None else ""
        return ": ".join(part for part in (word, self.message) if part)


def ending_of(error: TunnelError) -> Ending:
    """Return the ending that an error of this package means."""
    match error:
        case Refused():
            return Ending(error.code, error.message, error.retry_after)
        case ConnectionLost():
            return Ending(error.code, str(error))
        case RemoteProtocolError():
            return Ending(Code.PROTOCOL, str(error))
        case _:
            return Ending(None, str(error))
