"""The reusable client: a program of its own, or a part of another one.

`run` serves every endpoint through every server until `stop`; what happens on the way is told by
events, and `info` shows where everything stands. Nothing here is tied to a process: no signals,
no standard output, no settings files.
"""

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

from tunnel.client import events
from tunnel.client.addresses import resolve
from tunnel.client.certificates import Certificates
from tunnel.client.challenges import Challenges
from tunnel.client.endpoints import Endpoint, Keypair, by_name, load_keypair, make_endpoints
from tunnel.client.events import ClientEvent as ClientEvent  # noqa: PLC0414 - part of the interface
from tunnel.client.favourites import Favourites
from tunnel.client.forward import Forwarder
from tunnel.client.journal import Journal
from tunnel.client.link import Claim, Passage
from tunnel.client.racing import Rules
from tunnel.client.refusals import stanza
from tunnel.client.uplink import Uplink
from tunnel.client.validation import Validations
from tunnel.client.way import Resolver, Way, trust_in
from tunnel.errors import SettingsError, joined
from tunnel.log import get_log
from tunnel.protocol.messages import NAMES_LIMIT
from tunnel.protocol.names import format_fingerprint
from tunnel.runtime.supervision import restarted
from tunnel.settings.values import ClientSettings, ServerSettings
from tunnel.tls.contexts import dial_context, root_file
from tunnel.tls.identity import Signer
from tunnel.transport.doors import DIALERS, Dialer
from tunnel.transport.options import TransportOptions
from tunnel.transport.parking import ParkingBudget

log = get_log(__name__)


class Client:
    """Everything one process serves through its relays.

    Making one reads or makes key files and certificates, also those that relays are trusted by,
    and raises SettingsError if they cannot be used. `signers` are keys by the name of their
    keypair, in place of the key files; `signer` is the same for the only keypair. `on_event` is
    called on the event loop; what it raises is logged. `run` may be called once.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        signer: Signer | None = None,
        signers: Mapping[str, Signer] | None = None,
        on_event: events.Sink | None = None,
        dialers: Mapping[str, Dialer] = DIALERS,
        resolver: Resolver = resolve,
    ) -> None:
        _check_trust(settings.servers.values())
        self._settings = settings
        self._emit = events.guarded(on_event)
        self._keypairs = _keypairs(settings, _signers(settings, signer, signers))
        self._endpoints = make_endpoints(settings, self._keypairs)
        self._instance = secrets.token_bytes(16)
        self._dialers = dialers
        self._resolver = resolver
        self._favourites = Favourites(settings.state_dir)
        challenges = Challenges()
        self._uplinks = self._make_uplinks(challenges)
        self._validations = Validations(self._uplinks, challenges)
        self._certificates = Certificates(settings, self._endpoints, self._validations, self._emit)

    def __repr__(self) -> str:
        return f"<Client {len(self._endpoints)} endpoints, {len(self._uplinks)} uplinks>"

    async def run(self) -> None:
        """Serve until `stop`; no fault of the network, of a relay or of a target ends it."""
        for server in self._settings.servers.values():
            if server.insecure:
                log.warning("relay is not verified", server=server.name, setting="insecure")
        self._emit(events.Started(tuple(endpoint.name for endpoint in self._endpoints)))
        try:
            await self._serve()
        finally:
            self._emit(events.Stopped())

    async def _serve(self) -> None:
        """Run every uplink to its end, and the upkeep of certificates as long."""
        async with asyncio.TaskGroup() as upkeep:
            keeping = [
                upkeep.create_task(restarted(words, work), name=words)
                for words, work in self._certificates.upkeep()
            ]
            async with asyncio.TaskGroup() as group:
                for uplink in self._uplinks:
                    group.create_task(uplink.run(), name=repr(uplink))
            for task in keeping:
                task.cancel()

    def stop(self) -> None:
        """Ask `run` to return: new visitors go elsewhere, running ones finish in drain_timeout.

        At once where nobody is there. To be called on the event loop; again does nothing.
        """
        for uplink in self._uplinks:
            uplink.stop()

    def info(self) -> tuple[events.EndpointState, ...]:
        """Return where every endpoint stands; to be called on the running event loop."""
        return tuple(self._state(endpoint) for endpoint in self._endpoints)

    def _state(self, endpoint: Endpoint) -> events.EndpointState:
        names = frozenset(endpoint.names)
        uplinks = [uplink for uplink in self._uplinks if uplink.carries(endpoint)]
        urls = {url: None for up in uplinks for name, url in up.urls.items() if name in names}
        return events.EndpointState(
            endpoint=endpoint.name,
            id=endpoint.keypair.id,
            fingerprint=format_fingerprint(endpoint.keypair.fingerprint),
            names=endpoint.names,
            urls=tuple(urls),
            servers=tuple(uplink.state(names) for uplink in uplinks),
            certificates=tuple(self._certificate_state(endpoint, name) for name in endpoint.names),
        )

    def _certificate_state(self, endpoint: Endpoint, name: str) -> events.CertificateState:
        certificate = endpoint.certificate(name)
        order = self._certificates.order_state(name)
        return events.CertificateState(
            name=name,
            source=endpoint.settings.certificate,
            state=endpoint.certificate_state(name, datetime.now(UTC)),
            not_after=None if certificate is None else certificate.not_after,
            renew_at=order.renew_at,
            last_error=order.last_error,
            retry_at=order.retry_at,
        )

    def _make_uplinks(self, challenges: Challenges) -> list[Uplink]:
        uplinks = []
        for server in self._settings.servers.values():
            for keypair in self._keypairs.values():
                endpoints = [
                    each
                    for each in self._endpoints
                    if each.keypair is keypair and server.name in each.settings.servers
                ]
                if endpoints:
                    uplinks.append(self._make_uplink(server, keypair, endpoints, challenges))
        return uplinks

    def _make_uplink(
        self,
        server: ServerSettings,
        keypair: Keypair,
        endpoints: list[Endpoint],
        challenges: Challenges,
    ) -> Uplink:
        settings = self._settings
        table = by_name(endpoints)
        extensions = [each.settings.certificate_extension for each in endpoints]
        passage = Passage(
            way=Way(server, _options(settings), self._dialers, self._resolver),
            claim=Claim(
                keypair,
                self._instance,
                tuple(table),
                next((each for each in extensions if each is not None), None),
            ),
            forwarder=Forwarder(table, settings.timeouts.linger, challenges),
            challenges=challenges,
            register_timeout=settings.timeouts.register,
            heartbeat=settings.timeouts.heartbeat,
        )
        if len(table) > NAMES_LIMIT:
            fault = f"keypairs.{keypair.name}: {len(table)} names, at most {NAMES_LIMIT} allowed"
            raise SettingsError([fault])
        suffixes = [each.settings.suffix for each in endpoints]
        custom = [name for each in endpoints for name in each.settings.names]
        wanted = stanza(keypair.fingerprint, suffixes, custom)
        return Uplink(
            passage,
            table,
            Rules(server.transport, server.pool_size, settings.probe_interval),
            Journal(server.name, keypair.name, wanted, self._emit),
            self._favourites,
            settings.drain_timeout,
        )


def _check_trust(servers: Iterable[ServerSettings]) -> None:
    """Raise SettingsError for roots that could never be used: retrying would not mend them."""
    faults: list[str] = []
    for server in servers:
        try:
            trust = trust_in(server)
            root_file(trust)
            if server.ca is not None:  # the system's own take too long to load for a check
                dial_context(trust, ())
        except SettingsError as error:
            faults.extend(error.faults)
    if faults:
        raise SettingsError(sorted(faults))


def _signers(
    settings: ClientSettings, signer: Signer | None, signers: Mapping[str, Signer] | None
) -> Mapping[str, Signer]:
    """Return the signers by keypair; raises SettingsError for one that belongs to none."""
    known = dict(signers or {})
    if signer is not None:
        if len(settings.keypairs) != 1 or known:
            raise SettingsError(["signer: there is more than one keypair, name them in signers"])
        known[next(iter(settings.keypairs))] = signer
    strangers = sorted(known.keys() - settings.keypairs.keys())
    if strangers:
        raise SettingsError([f"signers: there is no keypair {name}" for name in strangers])
    return known


def _keypairs(settings: ClientSettings, signers: Mapping[str, Signer]) -> dict[str, Keypair]:
    """Return the keypairs that any endpoint uses; raises SettingsError with every fault."""
    used = {endpoint.keypair for endpoint in settings.endpoints.values()}
    keypairs: dict[str, Keypair] = {}
    errors: list[SettingsError] = []
    for name, keypair in settings.keypairs.items():
        if name not in used:
            continue
        try:
            keypairs[name] = load_keypair(keypair, signers.get(name))
        except SettingsError as error:
            errors.append(error)
    if errors:
        raise joined(errors)
    return keypairs


def _options(settings: ClientSettings) -> TransportOptions:
    return TransportOptions(
        flow=settings.flow,
        quic=settings.quic,
        budget=_shared_budget(settings.limits.buffer_total),
        handshake_timeout=settings.timeouts.register,
    )


@lru_cache(maxsize=8)
def _shared_budget(total: int) -> ParkingBudget:
    """Return one account for all clients of this process: the limit is the process's."""
    return ParkingBudget(total)
