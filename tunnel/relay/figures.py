"""A relay's figures for Prometheus, read from the counters of its rooms when somebody asks."""

from collections import Counter
from collections.abc import Iterator

from tunnel import __version__
from tunnel.admin.families import Family, counter, counters, gauge, gauges
from tunnel.relay.status import Processes, View, sessions_of


def families_of(view: View, uptime: float) -> Iterator[Family]:
    """Yield every figure of a relay that has run for `uptime` seconds."""
    yield gauges(
        "tunnel_relay_build_info",
        "Always 1; the labels say what runs.",
        ("version", "name"),
        {(__version__, view.settings.name): 1},
    )
    yield gauge("tunnel_relay_uptime_seconds", "Time since the relay began to listen.", uptime)
    ready = view.obstacle() is None
    yield gauge("tunnel_relay_ready", "1 while visitors and clients are let in, else 0.", ready)
    yield from _of_clients(view)
    yield from _of_visitors(view)
    if view.processes is not None:
        yield from _of_processes(view.processes)
    yield gauge(
        "tunnel_relay_certificate_expiry_timestamp_seconds",
        "When the certificate that clients see ends, in seconds since 1970.",
        view.certificate.slot.current.not_after.timestamp(),
    )


def _of_clients(view: View) -> Iterator[Family]:
    registry = view.registry
    links = registry.links
    transports = Counter(link.connection.binding.transport for link in links)
    yield gauge("tunnel_relay_clients", "Clients that are registered.", len(sessions_of(registry)))
    yield gauges(
        "tunnel_relay_connections",
        "Connections of registered clients, by transport.",
        ("transport",),
        {(word,): count for word, count in transports.items()},
    )
    yield gauge(
        "tunnel_relay_handshakes", "Connections that are registering now.", view.unregistered
    )
    yield counters(
        "tunnel_relay_registrations_refused",
        "Registrations that were refused, by code.",
        ("code",),
        {(code,): count for code, count in view.registrations.refused.items()},
    )
    streams = sum(link.streams for link in links)
    yield gauge("tunnel_relay_streams", "Streams that are open to clients.", streams)


def _of_visitors(view: View) -> Iterator[Family]:
    visits, tally = view.visits, view.registry.tally
    yield gauge("tunnel_relay_visitors", "Visitors who are connected now.", visits.open)
    yield counter(
        "tunnel_relay_visitors_accepted", "Visitors whose ClientHello was read.", visits.total
    )
    yield counters(
        "tunnel_relay_visitors_refused",
        "Visitors who were turned away or lost before they were served, by reason.",
        ("reason",),
        {(reason,): count for reason, count in visits.turned_away.items()},
    )
    yield counters(
        "tunnel_relay_visitor_bytes",
        "Bytes passed on for visitors, received from them and sent to them.",
        ("direction",),
        {("received",): tally.forth, ("sent",): tally.back},
    )
    yield counters(
        "tunnel_relay_validations_answered",
        "Validations by certificate authorities that were answered, by whom.",
        ("by",),
        {("relay",): visits.validations_relay, ("client",): visits.validations_client},
    )
    yield from _of_direct(view)
    yield gauge(
        "tunnel_relay_parked_bytes", "Bytes held for readers that are slow.", view.parked_bytes
    )


def _of_direct(view: View) -> Iterator[Family]:
    direct, spares = view.direct, view.spares
    yield gauge("tunnel_relay_direct_visitors", "Visitors on direct connections now.", direct.open)
    yield counter(
        "tunnel_relay_direct_visits", "Direct connections that visitors were given.", direct.total
    )
    yield counter(
        "tunnel_relay_direct_unanswered",
        "Direct connections that ended unanswered; their visitors were taken elsewhere.",
        direct.unanswered,
    )
    yield gauge("tunnel_relay_direct_spares", "Direct connections that wait.", spares.total)
    yield counter(
        "tunnel_relay_direct_spares_died", "Direct connections that ended waiting.", spares.died
    )
    yield counters(
        "tunnel_relay_direct_spares_refused",
        "Direct connections that were not accepted, by reason.",
        ("reason",),
        {(reason,): count for reason, count in spares.refused.items()},
    )


def _of_processes(processes: Processes) -> Iterator[Family]:
    yield gauge(
        "tunnel_relay_workers", "Processes that meet visitors and clients.", len(processes.pids)
    )
    yield counter(
        "tunnel_relay_worker_restarts", "Times that one of them was begun anew.", processes.restarts
    )
    yield counter(
        "tunnel_relay_handed_over",
        "Connections that one of them has handed to another, which serves their name.",
        processes.handed_over,
    )
