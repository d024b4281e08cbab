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
