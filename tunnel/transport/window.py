"""How much a peer may send: credit that is granted when bytes have left the process.

Sans-I/O; both multiplexing transports count with it (docs/protocol.md §5).
"""

from tunnel.errors import RemoteProtocolError


class ReceiveWindow:
    """The receiving side's account of one stream, in bytes.

    The window starts at `initial` and doubles up to `maximum` each time a whole window has been
    read without anything left lying; a reader that leaves a whole one is set back to `initial`.
    """

    __slots__ = (
        "_initial",
        "_maximum",
        "_read_since_growth",
        "consumed",
        "limit",
        "received",
        "window",
    )

    def __init__(self, initial: int, maximum: int) -> None:
        self._initial = initial
        self._maximum = maximum
        self._read_since_growth = 0
        self.window = initial
        self.limit = initial
        self.received = 0
        self.consumed = 0

    @property
    def parked(self) -> int:
        """Bytes that arrived and were not yet read."""
        return self.received - self.consumed

    def receive(self, size: int) -> None:
        """Count bytes that arrived; raises RemoteProtocolError if they exceed what was granted."""
        self.received += size
        if self.received > self.limit:
            raise RemoteProtocolError(f"sent {self.received} bytes of {self.limit} granted")
        # Half a window may well arrive in one piece, before the reader has had its turn.
        if self.parked >= self.window:
            self.window = self._initial
            self._read_since_growth = 0

    def consume(self, size: int) -> int:
        """Count bytes that left the process; return the credit to grant now (0: not yet due)."""
        self.consumed += size
        self._read_since_growth += size
        if self.parked == 0 and self._read_since_growth >= self.window:
            self.window = min(self.window * 2, self._maximum)
            self._read_since_growth = 0
        owed = self.consumed + self.window - self.limit
        if owed * 4 < self.window:
            return 0
        self.limit += owed
        return owed
