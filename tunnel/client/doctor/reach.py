"""Judging whether a relay can be reached: name, families, proxy, UDP and TCP. No I/O."""

from collections.abc import Iterator, Sequence

from tunnel.client.doctor.sights import Knock, Route, Sight, Silence
from tunnel.client.racing import AUTO, Lane, lanes_of
from tunnel.runtime.findings import Check, Finding
from tunnel.runtime.lookups import RESOLVER_ADVICE
from tunnel.settings.tree import header
from tunnel.settings.values import ServerSettings
from tunnel.transport.doors import takes_datagrams

FAMILIES = {"ipv4": False, "ipv6": True}  # whether it is the newer one


def judge_reach(server: ServerSettings, sight: Sight) -> Iterator[Finding]:
    """Yield what is to be said of the ways to a relay."""
    yield judge_lookup(server, sight)
    for family in FAMILIES:
        yield judge_family(server, sight, family)
    if server.proxy is not None:
        yield judge_proxy(server, sight)
    for lane in lanes_of(AUTO):
        yield judge_lane(server, sight, lane)


def judge_lookup(server: ServerSettings, sight: Sight) -> Finding:
    """Judge the name; behind a proxy it matters only to what goes past the proxy."""
    check, lookup = Check("dns", server.name), sight.lookup
    if lookup is None:
        return check.skipped(f"{server.address.host} is for the proxy to resolve")
    if lookup.is_literal:
        return check.ok(f"{lookup.host} is an address: there is nothing to resolve")
    if lookup.addresses:
        return check.ok(f"{lookup.host} is {', '.join(lookup.addresses)}")
    seen = f"{lookup.host} does not resolve: {lookup.trouble}"
    if server.proxy is not None:
        return check.warning(seen, "UDP goes past the proxy, and needs the name; TCP does not")
    if lookup.is_missing:
        table = header(("servers", server.name))
        return check.failed(seen, f"correct address in {table}, or have an A or AAAA record added")
    return check.failed(seen, RESOLVER_ADVICE)


def judge_family(server: ServerSettings, sight: Sight, family: str) -> Finding:
    """Judge the relay's addresses of one family."""
    check = Check(family, server.name)
    if sight.lookup is None:
        return check.skipped("the proxy has the relay's addresses")
    if not sight.lookup.addresses:
        return check.skipped("the name does not resolve")
    routes = [route for route in sight.routes if route.is_ipv6 is FAMILIES[family]]
    ways = [route for route in routes if not route.trouble]
    if not routes:
        return check.skipped("the relay has no such address")
    if not ways:
        return _without_way(check, sight, routes)
    hosts = ", ".join(route.address.host for route in ways)
    answering = {knock.address for knock, _ in sight.meetings}
    if answering and not answering & {route.address for route in ways}:
        return check.warning(
            f"no relay answers at {hosts}, though elsewhere",
            "each connection may wait for it first: mend that way, or have the record removed",
        )
    return check.ok(f"there is a way to {hosts}")


def _without_way(check: Check, sight: Sight, routes: Sequence[Route]) -> Finding:
    seen = f"no way to {routes[0].address.host}: {routes[0].trouble}"
    if any(not route.trouble for route in sight.routes):
        return check.skipped(f"{seen}; the other family is used")
    return check.failed(seen, "connect this machine to the network: see `ip route`")


def judge_proxy(server: ServerSettings, sight: Sight) -> Finding:
    """Judge the proxy, which joins us to the relay or does not."""
    check = Check("proxy", server.name)
    if sight.proxy is None:
        return check.skipped("the transport in the settings does not go through it")
    if sight.proxy.trouble:
        table = header(("servers", server.name))
        advice = f"correct proxy in {table}, or have it let {server.address} through"
        return check.failed(sight.proxy.trouble, advice)
    return check.ok(f"it connects to {server.address}")


def judge_lane(server: ServerSettings, sight: Sight, lane: Lane) -> Finding:
    """Judge one transport, by the protocol that carries it."""
    check, knocks = Check(_protocol_of(lane).lower(), server.name), _over(sight, lane)
    if lane not in sight.lanes:
        return check.skipped("not used: transport says so in the settings")
    if not knocks:
        return check.skipped("no address to try")
    answered = [knock for knock in knocks if knock.met is not None]
    if answered:
        where = ", ".join(str(knock.address) for knock in answered)
        return check.ok(f"the relay answers at {where}")
    trouble = knocks[0].trouble
    seen = trouble.words if trouble is not None else "no answer"
    advice = _advise(sight, knocks[0])
    if server.proxy is not None and takes_datagrams((lane.transport,)):
        return check.warning(f"{seen} (it does not go through the proxy)", advice)
    return check.failed(seen, advice)


def _protocol_of(lane: Lane) -> str:
    """Return what carries a transport, in the words of a firewall."""
    return "UDP" if takes_datagrams((lane.transport,)) else "TCP"


def _over(sight: Sight, lane: Lane) -> list[Knock]:
    return [knock for knock in sight.knocks if knock.lane == lane]


def _advise(sight: Sight, knock: Knock) -> str:
    """Return what to do about an attempt that nobody has answered as a relay does."""
    port = f"{_protocol_of(knock.lane)} port {knock.address.port}"
    silence = knock.trouble.silence if knock.trouble is not None else Silence.UNANSWERED
    if silence is Silence.REFUSED:
        return f"nothing listens on {port} there: is the relay running, is the port right?"
    if silence is Silence.OTHER:
        return f"what answers on {port} is no relay of this protocol, or not a healthy one"
    if silence is Silence.UNREACHABLE:
        return "the network has no way there: see `ip route`, and ask who runs the network"
    if not sight.meetings:
        return f"is the relay running? If it is, let {port} through every firewall on the way"
    if len(sight.lanes) == 1:
        return f"let {port} through every firewall on the way"
    return f"let {port} through every firewall on the way; until then the other transport is used"
