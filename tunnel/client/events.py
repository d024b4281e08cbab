"""What a client tells the program around it, and the state it shows when asked.

Events come in the order in which things happened, on the client's event loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tunnel.errors import Code
from tunnel.log import get_log

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """The client has begun; `endpoints` are the names of its endpoints' settings."""

    endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stopped:
    """The client has ended: every stream is finished or cut, every connection closed."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A relay has accepted a connection."""

    server: str
    keypair: str
    transport: str
    observed: str  # our address as the relay sees it
    relay: str  # what the relay calls itself


@dataclass(frozen=True, slots=True)
class Disconnected:
    """An accepted connection has ended."""

    server: str
    keypair: str
    transport: str
    cause: str


@dataclass(frozen=True, slots=True)
class TransportChanged:
    """Visitors of a server's session come over another transport now; None: over none."""

    server: str
    keypair: str
    transport: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Serving:
    """A relay sends visitors of `name` to us; told once per server until it stops doing so."""

    endpoint: str
    id: str
    name: str
    url: str
    server: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A relay has said no: to the key if `name` is None, else to that name."""

    server: str
    keypair: str
    code: Code
    message: str
    advice: str  # what an operator should do
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A relay could not be reached, or a connection was lost; it is tried again."""

    server: str
    keypair: str
    cause: str
    retry_in: float | None  # seconds


@dataclass(frozen=True, slots=True)
class CertificateIssued:
    """An authority has issued a certificate; the next visitor of `name` sees it."""

    endpoint: str
    name: str
    pem: str  # the chain, leaf first, without the key
    not_after: datetime


@dataclass(frozen=True, slots=True)
class CertificateFailed:
    """No certificate came of an order; what there was before stays in use."""

    endpoint: str
    name: str
    cause: str
    retry_in: float | None  # seconds


ClientEvent = (
    Started
    | Stopped
    | Connected
    | Disconnected
    | TransportChanged
    | Serving
    | Refused
    | Failed
    | CertificateIssued
    | CertificateFailed
)
Sink = Callable[[ClientEvent], None]


def guarded(sink: Sink | None) -> Sink:
    """Return a sink that never raises: a fault of the other program is logged and passed over."""

    def emit(event: ClientEvent) -> None:
        if sink is None:
            return
        try:
            sink(event)
        except Exception as error:  # noqa: BLE001 - the boundary to a program that is not ours
            log.error("event sink failed", event=type(event).__name__, exception=error)

    return emit


@dataclass(frozen=True, slots=True)
class DirectState:
    """Whether visitors may come on direct connections of their own, and why."""

    state: str  # on | off
    reason: str
    spares: int = 0  # that wait for visitors now
    visitors: int = 0  # that came so
    refused: int = 0  # spares on which something else came than their header


@dataclass(frozen=True, slots=True)
class ServerState:
    """How one endpoint stands with one relay; `retry_in` is in seconds, None if nothing is due."""

    server: str
    transport: str | None
    reason: str  # why that transport
    connections: int  # registered ones
    names: tuple[str, ...]  # that the relay serves now
    observed: str | None  # our address as the relay sees it
    last_error: str | None
    retry_in: float | None
    round_trip: float | None = None  # seconds, of the last ping that was answered
    probe_in: float | None = None  # seconds until the preferred transport is tried again
    direct: DirectState = DirectState("off", "nothing registered")


@dataclass(frozen=True, slots=True)
class VisitorState:
    """The visitors of one endpoint since it began, and their bytes."""

    open: int = 0  # now
    total: int = 0
    received: int = 0
    sent: int = 0
    target_failures: int = 0


@dataclass(frozen=True, slots=True)
class OrderState:
    """What is planned for the certificate of one name, and why the last order failed."""

    renew_at: datetime | None = None
    last_error: str | None = None
    retry_at: datetime | None = None  # None: nothing has failed


@dataclass(frozen=True, slots=True)
class CertificateState:
    """What visitors of one name are shown, and what is planned; as in OrderState."""

    name: str
    source: str  # acme | self-signed | files | passthrough
    state: str  # in words for an operator: see `presented`
    not_after: datetime | None  # None where nothing is installed
    renew_at: datetime | None
    last_error: str | None
    retry_at: datetime | None


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One endpoint: who it is, where visitors find it, and how it stands with each relay."""

    endpoint: str
    id: str
    fingerprint: str
    names: tuple[str, ...]
    urls: tuple[str, ...]  # of the names that any relay has granted
    servers: tuple[ServerState, ...]
    certificates: tuple[CertificateState, ...]  # one for each name
    visitors: VisitorState = VisitorState()
