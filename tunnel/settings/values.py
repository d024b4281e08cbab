"""The settings in force, as frozen values: what every room reads and nobody changes.

Durations are float seconds (None = off), sizes are int bytes, rates are bytes per second,
paths are absolute. Nothing here knows TOML, files or defaults of the command line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from tunnel.stream import Address

Network = IPv4Network | IPv6Network

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """How much may be under way and how much may be parked for slow readers, in bytes."""

    stream_window: int = 256 * KIB
    stream_window_max: int = 4 * MIB
    connection_window: int = 16 * MIB
    parked_max: int = 64 * MIB


@dataclass(frozen=True, slots=True)
class QuicSettings:
    """Which QUIC engine runs and which congestion control it uses."""

    engine: str = "fast"  # fast | stock
    congestion: str = "bbr"  # bbr | cubic | reno


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where the threshold is and how a line looks."""

    level: str = "info"  # debug | info | warning | error
    format: str = "auto"  # auto | text | json | journald


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """Where the running program may be asked, and scraped."""

    socket: Path | None = None  # None: in the state directory, if that can be done
    metrics: Address | None = None  # None: nowhere


@dataclass(frozen=True, slots=True)
class RelayTimeouts:
    """Deadlines of the relay, in seconds."""

    client_hello: float = 5.0
    register: float = 5.0
    open_stream: float = 5.0
    visitor_hold: float = 5.0
    linger: float = 300.0
    idle_visitor: float | None = None
    heartbeat: float = 5.0


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Caps of the relay as a whole."""

    connections: int = 20_000
    half_open: int = 100
    visitors_per_address: int = 256
    buffer_total: int = GIB


@dataclass(frozen=True, slots=True)
class EabSettings:
    """An account at the authority's own shop, to which the ACME account is bound."""

    kid: str
    key_file: Path  # holds the HMAC key, base64url (RFC 8555 §7.3.4)


@dataclass(frozen=True, slots=True)
class AcmeSettings:
    """Where certificates are ordered, and when."""

    directory: str = "letsencrypt"  # letsencrypt | letsencrypt-staging | zerossl | google | a URL
    email: str | None = None
    ca: Path | None = None  # trust for the directory itself; None: the system's roots
    eab: EabSettings | None = None
    account_file: Path | None = None  # None: in the state directory
    renew_before: float | None = None  # seconds before the end; None: when the authority says
    preflight: str = "auto"  # auto | on | off


@dataclass(frozen=True, slots=True)
class RelayCertificate:
    """What clients see on the agents listeners."""

    mode: str = "self-signed"  # self-signed | files | acme
    chain_file: Path | None = None
    key_file: Path | None = None
    names: tuple[str, ...] = ()  # with acme: what is ordered, all in one certificate
    keep_key: bool = True  # with acme: renewals certify the same key, so that pins hold


class InheritedAddress(Address):
    """An address that the service manager has bound (`fd:`); never equal to one that we bind."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"fd:{super().__str__()}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InheritedAddress) and super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(("fd", *self))


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """One named listener and all its addresses, an InheritedAddress where it is not to bind."""

    name: str
    kind: str  # agents | public | shared
    listen: tuple[Address, ...]
    transports: tuple[str, ...] = ("quic", "h2")
    proxy_protocol_from: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class SuffixSettings:
    """A domain under which clients get `{id}.{suffix}`."""

    name: str
    access: str = "listed"  # listed | open
    id_bits: tuple[int, ...] = (64, 128)
    public_port: int = 443
    certificates_per_week: int = 45  # new ones, for all names under its registered domain


@dataclass(frozen=True, slots=True)
class GrantLimits:
    """What one client may use; rate counts both directions together, in bytes per second."""

    streams: int = 1000
    connections: int = 16
    rate: int | None = None


@dataclass(frozen=True, slots=True)
class ClientGrant:
    """What the relay's settings say of one client."""

    name: str
    fingerprint: bytes  # 32 bytes
    suffixes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    limits: GrantLimits = GrantLimits()
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Everything a relay runs on."""

    name: str
    state_dir: Path
    listeners: Mapping[str, ListenerSettings]
    suffixes: Mapping[str, SuffixSettings]
    clients: Mapping[str, ClientGrant] = field(default_factory=dict)
    certificate: RelayCertificate = RelayCertificate()
    acme: AcmeSettings = AcmeSettings()
    drain_timeout: float = 30.0
    workers: int = 1
    limits: RelayLimits = RelayLimits()
    flow: FlowSettings = FlowSettings()
    quic: QuicSettings = QuicSettings()
    timeouts: RelayTimeouts = RelayTimeouts()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()


@dataclass(frozen=True, slots=True)
class ClientTimeouts:
    """Deadlines of the client, in seconds."""

    register: float = 5.0
    linger: float = 300.0
    heartbeat: float = 5.0


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Caps of the client process."""

    buffer_total: int = GIB


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """One relay to connect to; `transport` and `pool_size` are already resolved."""

    name: str
    address: Address
    server_name: str  # verified name
    ca: Path | None = None
    pin: bytes | None = None  # 32 bytes, SHA-256 of the leaf's SubjectPublicKeyInfo
    insecure: bool = False
    transport: str = "auto"  # auto | quic | h2
    pool_size: int = 4
    # URL: http:// or socks5://, with credentials, and therefore never shown.
    proxy: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class KeypairSettings:
    """An identity key file and the length of the id made from it."""

    name: str
    file: Path
    id_bits: int = 128


@dataclass(frozen=True, slots=True)
class Target:
    """Where a visitor's bytes go: a TCP address or a Unix socket, exactly one of them."""

    address: Address | None = None
    path: Path | None = None

    def __str__(self) -> str:
        return str(self.address) if self.address else f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """A name this client serves, and how."""

    name: str  # of the table
    keypair: str
    suffix: str
    target: Target
    certificate: str = "self-signed"  # acme | self-signed | files | passthrough
    before_certificate: str = "self-signed"  # with acme, until there is one: self-signed | refuse
    seed_file: Path | None = None  # with acme: PEM of key and chain that is used if none is kept
    chain_file: Path | None = None
    key_file: Path | None = None
    alpn: tuple[str, ...] = ("http/1.1",)
    certificate_extension: bytes | None = None
    names: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()  # names of [servers.*]; all of them, already resolved
    proxy_protocol: str | None = None  # v1 | v2
    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    visitor_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Everything a client runs on."""

    state_dir: Path
    servers: Mapping[str, ServerSettings]
    keypairs: Mapping[str, KeypairSettings]
    endpoints: Mapping[str, EndpointSettings]
    drain_timeout: float = 30.0
    probe_interval: float = 60.0
    direct: str = "auto"  # auto | on | off
    acme: AcmeSettings = AcmeSettings()
    limits: ClientLimits = ClientLimits()
    flow: FlowSettings = FlowSettings()
    quic: QuicSettings = QuicSettings()
    timeouts: ClientTimeouts = ClientTimeouts()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
