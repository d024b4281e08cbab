"""Every error this package raises on purpose, and the code words that peers exchange.

Callers branch on the class, never on the text. Nothing here imports anything of ours.
"""

from collections.abc import Sequence
from enum import IntEnum


class Code(IntEnum):
    """Why something ended: one number and one word on every transport (docs/protocol.md §6)."""

    OK = 0
    PROTOCOL = 1
    UNAUTHORIZED = 2
    NAME_REFUSED = 3
    NAME_TAKEN = 4
    SUPERSEDED = 5
    REVOKED = 6
    BUSY = 7
    DRAINING = 8
    VERSION = 9
    TIMEOUT = 10
    TARGET_DOWN = 11
    NOT_SERVING = 12
    ABORTED = 13
    INTERNAL = 14

    @property
    def word(self) -> str:
        """The word that messages and logs carry, such as ``name_taken``."""
        return self.name.lower()

    @classmethod
    def from_number(cls, number: int) -> "Code":
        """Return the code of a number from the wire; a number nobody defined reads as ABORTED."""
        return cls(number) if number in cls._value2member_map_ else cls.ABORTED


class TunnelError(Exception):
    """Base of every error raised on purpose."""


class SettingsError(TunnelError):
    """The operator's settings cannot be used; `faults` holds one ready line each, sorted."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class NotWritable(SettingsError):
    """What settings tell a program to keep cannot be written where they say."""


def joined(errors: Sequence[SettingsError]) -> SettingsError:
    """Return one error with the faults of all; it is a NotWritable if each of them is."""
    kind = NotWritable if all(isinstance(e, NotWritable) for e in errors) else SettingsError
    return kind(sorted(fault for error in errors for fault in error.faults))


class LocalProtocolError(TunnelError):
    """We used the protocol wrongly: a bug of ours."""


class RemoteProtocolError(TunnelError):
    """The peer's program sent what the protocol does not allow; answered with code `protocol`."""


class Refused(TunnelError):
    """Policy said no, with a code and, where known, the seconds after which to ask again."""

    def __init__(self, code: Code, message: str = "", retry_after: float | None = None) -> None:
        self.code = code
        self.message = message
        self.retry_after = retry_after
        super().__init__(f"{code.word}: {message}" if message else code.word)


class DialFailed(TunnelError):
    """No connection to the address could be made."""


class ConnectionLost(TunnelError):
    """An established connection ended; `code` says what the far end gave as reason, if it did."""

    def __init__(self, message: str = "connection lost", code: Code = Code.ABORTED) -> None:
        self.code = code
        super().__init__(message)


class StreamReset(TunnelError):
    """A stream was cut, by its far end or because its connection died."""

    def __init__(self, code: Code = Code.ABORTED) -> None:
        self.code = code
        super().__init__(code.word)


class IssueFailed(TunnelError):
    """No certificate came of an order; `retry_after` is in seconds, where the authority said so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class OrderPostponed(IssueFailed):
    """Nothing was ordered yet, and no rate limit used up: something has to be mended first."""


class ListenFailed(TunnelError):
    """An address could not be listened on; `key` is the one of the settings that wants it."""

    def __init__(self, message: str, key: str = "") -> None:
        self.key = key
        super().__init__(message)
