"""The whole examination: everything is looked at at once, and told in the order of the settings."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tunnel.client.doctor.challenge import judge_challenge, look_at_name
from tunnel.client.doctor.knocking import look_at
from tunnel.client.doctor.reach import judge_reach
from tunnel.client.doctor.registering import (
    check_of,
    judge_running,
    judge_trial,
    judge_untried,
    register,
    running_state,
)
from tunnel.client.doctor.sights import Sight
from tunnel.client.doctor.targets import examine_target
from tunnel.client.doctor.trust import judge_trust, trusted_knock
from tunnel.client.endpoints import Endpoint, Keypair, load_keypair
from tunnel.client.racing import lanes_of
from tunnel.client.sessions import Wish, Wishes, wishes_of
from tunnel.errors import SettingsError
from tunnel.runtime.buffers import granted_buffers, judge_buffers
from tunnel.runtime.findings import Finding, Status
from tunnel.settings.values import ClientSettings, ServerSettings
from tunnel.tls.identity import load
from tunnel.transport.doors import takes_datagrams
from tunnel.transport.options import TransportOptions


@dataclass(frozen=True, slots=True)
class Identities:
    """The keypairs that can be used, and by name of the others why they cannot be."""

    keypairs: Mapping[str, Keypair]
    missing: Mapping[str, str]  # the file that a start would make
    unusable: Mapping[str, str]  # the fault


@dataclass(frozen=True, slots=True)
class Case:
    """What is examined, and what is known of it before."""

    settings: ClientSettings
    identities: Identities
    endpoints: tuple[Endpoint, ...]  # those whose keypair can be used
    wishes: Wishes
    status: Status | None  # of the client that runs here


async def examine(settings: ClientSettings, status: Status | None) -> list[Finding]:
    """Return all findings; `status` is what a client that runs here says of itself.

    Every step has a deadline; together they are some 15 s. Raises SettingsError where a keypair
    has more names than a relay takes. Cancel-safe.
    """
    case = _case(settings, status)
    async with asyncio.TaskGroup() as group:
        servers = [
            group.create_task(_examine_server(case, server)) for server in settings.servers.values()
        ]
        names = [
            (endpoint, group.create_task(look_at_name(name, settings.acme)))
            for endpoint in case.endpoints
            for name in endpoint.acme_names
        ]
        targets = [group.create_task(examine_target(each)) for each in settings.endpoints.values()]
    sights = dict(zip(settings.servers, (task.result()[0] for task in servers), strict=True))
    findings = [finding for task in servers for finding in task.result()[1]]
    for endpoint, task in names:
        known = _relay_hosts(sights[name] for name in endpoint.settings.servers)
        findings.append(judge_challenge(task.result(), known))
    findings += [task.result() for task in targets]
    return [*findings, *_buffers(settings)]


def _case(settings: ClientSettings, status: Status | None) -> Case:
    identities = load_identities(settings)
    now = datetime.now(UTC)
    endpoints = tuple(
        Endpoint(each, identities.keypairs[each.keypair], now)
        for each in settings.endpoints.values()
        if each.keypair in identities.keypairs
    )
    return Case(settings, identities, endpoints, wishes_of(settings, endpoints), status)


def load_identities(settings: ClientSettings) -> Identities:
    """Read the key files that endpoints use; none is made."""
    keypairs: dict[str, Keypair] = {}
    missing: dict[str, str] = {}
    unusable: dict[str, str] = {}
    for name in dict.fromkeys(each.keypair for each in settings.endpoints.values()):
        keypair = settings.keypairs[name]
        try:
            keypairs[name] = load_keypair(keypair, load(keypair.file))
        except FileNotFoundError:
            missing[name] = str(keypair.file)
        except SettingsError as error:
            unusable[name] = error.faults[0]
    return Identities(keypairs, missing, unusable)


async def _examine_server(case: Case, server: ServerSettings) -> tuple[Sight, list[Finding]]:
    options = TransportOptions(flow=case.settings.flow, quic=case.settings.quic)
    sight = await look_at(server, options)
    findings = [*judge_reach(server, sight), *judge_trust(server, sight)]
    findings += await _examine_registrations(case, server, sight, options)
    return sight, findings


async def _examine_registrations(
    case: Case, server: ServerSettings, sight: Sight, options: TransportOptions
) -> list[Finding]:
    """Return a finding for each keypair that has endpoints at the relay."""
    wishes = [wish for (name, _), wish in case.wishes.sessions.items() if name == server.name]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_examine_registration(case, wish, sight, options)) for wish in wishes
        ]
    return [*(task.result() for task in tasks), *_without_key(case, server)]


async def _examine_registration(
    case: Case, wish: Wish, sight: Sight, options: TransportOptions
) -> Finding:
    """Ask the client that runs, if there is one, and where that does not settle it, the relay."""
    running = running_state(case.status, wish.server.name, wish.names)
    settled = judge_running(wish, running)
    if settled is not None:
        return settled
    knock = trusted_knock(wish.server, sight)
    if knock is None:
        return judge_untried(wish, running, has_answered=bool(sight.meetings))
    endpoints = [
        each
        for each in case.settings.endpoints.values()
        if each.keypair == wish.keypair.name and wish.server.name in each.servers
    ]
    return judge_trial(wish, await register(wish, knock, options), endpoints, running)


def _without_key(case: Case, server: ServerSettings) -> Iterator[Finding]:
    """Yield a finding for each keypair that is wanted at the relay and cannot be used."""
    wanted = [each for each in case.settings.endpoints.values() if server.name in each.servers]
    for keypair in dict.fromkeys(each.keypair for each in wanted):
        check = check_of(server.name, keypair)
        if (path := case.identities.missing.get(keypair)) is not None:
            advice = "have the relay's operator list its fingerprint: see `client.pyz id`"
            yield check.warning(f"{path} is not there yet: the first start makes it", advice)
        elif (fault := case.identities.unusable.get(keypair)) is not None:
            yield check.failed(fault, "mend the key file, or examine as the user that may read it")


def _relay_hosts(sights: Iterable[Sight]) -> frozenset[str]:
    """Return the addresses of relays; none if any of them is not known."""
    lookups = [sight.lookup for sight in sights]
    if any(lookup is None or not lookup.addresses for lookup in lookups):
        return frozenset()
    return frozenset(host for lookup in lookups if lookup for host in lookup.addresses)


def _buffers(settings: ClientSettings) -> Iterator[Finding]:
    """Yield what is to be said of buffers for UDP, where it is used."""
    lanes = [lane for server in settings.servers.values() for lane in lanes_of(server.transport)]
    if takes_datagrams(lane.transport for lane in lanes):
        yield judge_buffers(granted_buffers())
