"""How many spare direct connections to keep, and whether TCP is worth using. No I/O, no clock."""

from collections import deque

FEWEST = 4
BURST = 0.25  # seconds
QUIET_AFTER = 60.0  # seconds in which what was kept sufficed: then half of it will do
SEGMENTS_JUDGED = 2000  # sent, before what was lost of them means anything
LOSS_TOLERATED = 0.001  # above it TCP without BBR carries less than QUIC does
LOSSY_FOR = 600.0  # seconds until a path that lost too much is tried again


class SparePlan:
    """Keeps more while they are used up quickly, and fewer when that is over.

    Twice as many should wait as visitors come within BURST, in which a spare is replaced on any
    path. Times are in seconds of the caller's clock.
    """

    __slots__ = ("_grown_at", "_most", "_recent", "target")

    def __init__(self, most: int) -> None:
        self._most = most
        self._grown_at = 0.0
        self._recent: deque[float] = deque(maxlen=most)  # when visitors came
        self.target = min(FEWEST, most)

    def __repr__(self) -> str:
        return f"<SparePlan {self.target} of {self._most}>"

    def taken(self, now: float) -> None:
        """A visitor has come on one."""
        self._recent.append(now)
        while self._recent[0] < now - BURST:
            self._recent.popleft()
        if len(self._recent) > self.target // 2:
            self.target = min(2 * self.target, self._most)
            self._grown_at = now

    def rest(self, now: float) -> None:
        """Plan for fewer if nothing has run short for a while; to be called now and then."""
        if now - self._grown_at >= QUIET_AFTER:
            self.target = max(min(FEWEST, self._most), self.target // 2)
            self._grown_at = now

    def missing(self, waiting: int) -> int:
        """Return how many to open now: none while little is missing, then all at once."""
        return self.target - waiting if waiting <= self.target * 3 // 4 else 0

    def surplus(self, waiting: int) -> int:
        """Return how many to close."""
        return max(0, waiting - self.target)


class LossGauge:
    """Judges a path by what its direct connections had to send again."""

    __slots__ = ("_lossy_until", "_resent", "_sent", "share")

    def __init__(self) -> None:
        self._sent = 0
        self._resent = 0
        self._lossy_until = 0.0
        self.share = 0.0  # of the last judgement

    def __repr__(self) -> str:
        return f"<LossGauge {self.share:.2%}>"

    def note(self, sent: int, resent: int, now: float) -> None:
        """Count the segments of a connection that has ended."""
        self._sent += sent
        self._resent += resent
        if self._sent >= SEGMENTS_JUDGED:
            self.share = self._resent / self._sent
            self._sent = self._resent = 0
            if self.share > LOSS_TOLERATED:
                self._lossy_until = now + LOSSY_FOR

    def is_lossy(self, now: float) -> bool:
        """Say whether too much was lost, not long ago."""
        return now < self._lossy_until
