"""How long to wait before the next attempt, from why the last one ended (docs/protocol.md §6).

Randomness is passed in: every `random` here returns a float in [0, 1).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tunnel.errors import Code

FIRST_DELAY = 0.5  # seconds, doubling with each failure in a row
LONGEST_DELAY = 30.0
HEALTHY_AFTER = 60.0  # seconds that a connection must have lasted to forget the failures before
REFUSED_INTERVAL = 600.0  # an operator may have granted it meanwhile
DISPLACED_INTERVAL = 60.0
SPREAD = 0.1  # of a fixed delay: clients that were told the same do not return together

FIXED_INTERVALS: Mapping[Code, float] = MappingProxyType(
    {
        Code.UNAUTHORIZED: REFUSED_INTERVAL,
        Code.NAME_REFUSED: REFUSED_INTERVAL,
        Code.REVOKED: REFUSED_INTERVAL,
        Code.VERSION: REFUSED_INTERVAL,
        Code.NAME_TAKEN: DISPLACED_INTERVAL,
        Code.SUPERSEDED: DISPLACED_INTERVAL,
    }
)
RETRY_AFTER_CODES = frozenset({Code.BUSY, Code.DRAINING})


def full_jitter(failures: int, random: Callable[[], float]) -> float:
    """Return seconds to wait after `failures` failures in a row (at least 1)."""
    doublings = min(failures - 1, 16)  # far above LONGEST_DELAY, far below an overflow
    return random() * min(LONGEST_DELAY, FIRST_DELAY * float(2**doublings))


def retry_delay(
    code: Code | None, retry_after: float | None, failures: int, random: Callable[[], float]
) -> float:
    """Return seconds to wait after an attempt or connection that ended with `code`.

    None is a connection that could not be made or was lost. `retry_after` is what the relay said,
    and counts for BUSY and DRAINING only; `failures` is the number in a row, this one included.
    """
    fixed = retry_after if code in RETRY_AFTER_CODES else FIXED_INTERVALS.get(code or Code.OK)
    if fixed is None:
        return full_jitter(failures, random)
    return fixed * (1 + SPREAD * random())


class Backoff:
    """Counts failures in a row towards one relay."""

    __slots__ = ("_random", "failures")

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self.failures = 0

    def __repr__(self) -> str:
        return f"<Backoff failures={self.failures}>"

    def next_delay(
        self,
        code: Code | None = None,
        *,
        retry_after: float | None = None,
        healthy_for: float = 0.0,
    ) -> float:
        """Count one end and return the seconds to wait before dialling again, see `retry_delay`.

        `healthy_for` is how many seconds the connection that ended had been serving.
        """
        self.failures = 1 if healthy_for >= HEALTHY_AFTER else self.failures + 1
        return retry_delay(code, retry_after, self.failures, self._random)
