"""A client's figures for Prometheus, read from its state when somebody asks."""

from collections import Counter
from collections.abc import Iterable, Iterator

from tunnel import __version__
from tunnel.admin.families import Family, counters, gauge, gauges
from tunnel.client.counts import Chronicle
from tunnel.client.events import EndpointState, ServerState

Endpoints = tuple[EndpointState, ...]


def families_of(
    endpoints: Endpoints, chronicle: Chronicle, uptime: float, *, is_ready: bool
) -> Iterator[Family]:
    """Yield every figure of a client that has run for `uptime` seconds."""
    yield gauges(
        "tunnel_client_build_info",
        "Always 1; the label says what runs.",
        ("version",),
        {(__version__,): 1},
    )
    yield gauge("tunnel_client_uptime_seconds", "Time since the client began.", uptime)
    yield gauge(
        "tunnel_client_ready", "1 while a relay serves any name and nothing drains.", is_ready
    )
    yield from _of_servers(endpoints, chronicle)
    yield from _of_direct(endpoints)
    yield from _of_visitors(endpoints)
    yield from _of_certificates(endpoints, chronicle)


def _of_servers(endpoints: Endpoints, chronicle: Chronicle) -> Iterator[Family]:
    connections: Counter[tuple[str, ...]] = Counter()
    names: Counter[tuple[str, ...]] = Counter()
    for endpoint in endpoints:
        for way in endpoint.servers:
            names[(way.server,)] += len(way.names)
    for way in _sessions(endpoints):
        connections[way.server, way.transport or "none"] += way.connections
    yield gauges(
        "tunnel_client_connections",
        "Registered connections, by server and by the transport in use.",
        ("server", "transport"),
        connections,
    )
    yield gauges(
        "tunnel_client_names_served",
        "Names whose visitors a server sends here.",
        ("server",),
        names,
    )
    yield counters(
        "tunnel_client_connections_established",
        "Connections that a server has accepted.",
        ("server", "transport"),
        chronicle.connected,
    )
    yield counters(
        "tunnel_client_connections_lost",
        "Accepted connections that have ended; what is still wanted is dialled again.",
        ("server", "transport"),
        chronicle.disconnected,
    )
    yield counters(
        "tunnel_client_connection_failures",
        "Dials that failed and connections that were lost against our will.",
        ("server",),
        {(server,): count for server, count in chronicle.failed.items()},
    )
    yield counters(
        "tunnel_client_refusals",
        "Refusals of the key or of a name by a server, by code, each told once until it is served.",
        ("server", "code"),
        chronicle.refused,
    )


def _of_direct(endpoints: Endpoints) -> Iterator[Family]:
    spares: Counter[tuple[str, ...]] = Counter()
    visits: Counter[tuple[str, ...]] = Counter()
    refused: Counter[tuple[str, ...]] = Counter()
    for way in _sessions(endpoints):
        spares[(way.server,)] += way.direct.spares
        visits[(way.server,)] += way.direct.visitors
        refused[(way.server,)] += way.direct.refused
    yield gauges(
        "tunnel_client_direct_spares",
        "Direct connections that wait for visitors, by server.",
        ("server",),
        spares,
    )
    yield counters(
        "tunnel_client_direct_visits",
        "Visitors who came on direct connections, by server.",
        ("server",),
        visits,
    )
    yield counters(
        "tunnel_client_direct_spares_refused",
        "Direct connections that were closed for a header that was not theirs, by server.",
        ("server",),
        refused,
    )


def _sessions(endpoints: Endpoints) -> Iterable[ServerState]:
    """Return each session once: endpoints of one key share it."""
    return {
        (way.server, endpoint.fingerprint): way
        for endpoint in endpoints
        for way in endpoint.servers
    }.values()


def _of_visitors(endpoints: Endpoints) -> Iterator[Family]:
    by_endpoint = {(each.endpoint,): each.visitors for each in endpoints}
    label = ("endpoint",)
    yield gauges(
        "tunnel_client_visitors",
        "Visitors who are being served now.",
        label,
        {key: visitors.open for key, visitors in by_endpoint.items()},
    )
    yield counters(
        "tunnel_client_visitors_accepted",
        "Visitors who were let in.",
        label,
        {key: visitors.total for key, visitors in by_endpoint.items()},
    )
    yield counters(
        "tunnel_client_visitor_bytes",
        "Bytes passed on between visitors and the target, received from visitors and sent to them.",
        ("endpoint", "direction"),
        {
            (*key, direction): count
            for key, visitors in by_endpoint.items()
            for direction, count in (("received", visitors.received), ("sent", visitors.sent))
        },
    )
    yield counters(
        "tunnel_client_target_failures",
        "Visitors whose target did not answer.",
        label,
        {key: visitors.target_failures for key, visitors in by_endpoint.items()},
    )


def _of_certificates(endpoints: Endpoints, chronicle: Chronicle) -> Iterator[Family]:
    certificates = {(c.name,): c for endpoint in endpoints for c in endpoint.certificates}
    yield gauges(
        "tunnel_client_certificate_expiry_timestamp_seconds",
        "When the certificate of a name ends, in seconds since 1970.",
        ("name",),
        {k: c.not_after.timestamp() for k, c in certificates.items() if c.not_after is not None},
    )
    yield gauges(
        "tunnel_client_certificate_renewal_timestamp_seconds",
        "When the certificate of a name is to be renewed, in seconds since 1970.",
        ("name",),
        {k: c.renew_at.timestamp() for k, c in certificates.items() if c.renew_at is not None},
    )
    ordered = (key for key, certificate in certificates.items() if certificate.source == "acme")
    yield counters(
        "tunnel_client_certificate_orders_failed",
        "Orders for the certificate of a name of which nothing came.",
        ("name",),
        {key: chronicle.orders_failed[key[0]] for key in ordered},
    )
