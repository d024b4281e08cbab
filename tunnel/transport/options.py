"""What every transport is told when it dials or listens."""

from dataclasses import dataclass, field

from tunnel.settings.values import GIB, FlowSettings, QuicSettings
from tunnel.transport.parking import ParkingBudget

ALPN_QUIC = "tunnel/1"
ALPN_HTTP2 = "tunnel-h2/1"
STREAMS_ADVERTISED = 1100  # what the client allows; the relay itself stops at its own limit
SOCKET_BUFFER_BYTES = 4 << 20  # that a UDP socket asks for, each way: a burst at full speed
CONTROL_RESERVE_BYTES = 64 * 1024  # connection credit that only the control stream may use


@dataclass(frozen=True, slots=True)
class Share:
    """Which of several processes this is that listen on the same addresses: one of `of`."""

    index: int = 0
    of: int = 1

    def mark(self, connection_id: bytes) -> bytes:
        """Return a connection id by which datagrams come to this process."""
        if self.of == 1:
            return connection_id
        first = connection_id[0] // self.of * self.of + self.index
        return bytes((first if first < 256 else first - self.of,)) + connection_id[1:]


ALONE = Share()  # one process has the address for itself


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Limits and windows of one listener or one dial; times in seconds, sizes in bytes."""

    flow: FlowSettings = field(default_factory=FlowSettings)
    quic: QuicSettings = field(default_factory=QuicSettings)
    budget: ParkingBudget = field(default_factory=lambda: ParkingBudget(GIB))
    max_streams: int = 1000  # the opener's own limit, besides the control stream
    half_open: int = 100  # listeners: above it QUIC answers with Retry
    handshake_timeout: float = 5.0
    # Listeners: 32 secret bytes that stateless reset tokens are derived from.
    reset_key: bytes = field(default=b"", repr=False)
    share: Share = ALONE  # listeners
