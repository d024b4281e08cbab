"""The reusable client: a program of its own, or a part of another one.

`run` serves every endpoint through every server until `stop`; what happens on the way is told by
events, and `info` shows where everything stands. Nothing here is tied to a process: no signals,
no standard output, no settings files.
"""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime

from tunnel.client import events
from tunnel.client.addresses import resolve
from tunnel.client.certificates import Certificates
from tunnel.client.challenges import Challenges
from tunnel.client.counts import EndpointVisits
from tunnel.client.endpoints import Endpoint
from tunnel.client.events import ClientEvent as ClientEvent  # noqa: PLC0414 - part of the interface
from tunnel.client.favourites import Favourites
from tunnel.client.reload import furnish
from tunnel.client.sessions import Outfit, Sessions
from tunnel.client.validation import Validations
from tunnel.client.way import Resolver
from tunnel.errors import SettingsError
from tunnel.log import get_log
from tunnel.protocol.names import format_fingerprint
from tunnel.runtime.rota import Rota
from tunnel.runtime.supervision import first_of
from tunnel.settings.reload import ReloadPlan, check_live
from tunnel.settings.values import ClientSettings
from tunnel.tls.identity import Signer
from tunnel.transport.doors import DIALERS, Dialer

ENDING = "the client is ending: it takes no other settings now"

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
        self._emit = events.guarded(on_event)
        self._signers = _signers(settings, signer, signers)
        self._furnished = furnished = furnish(settings, self._signers)
        challenges = Challenges()
        self._sessions = Sessions(
            Outfit(
                instance=secrets.token_bytes(16),
                dialers=dialers,
                resolver=resolver,
                favourites=Favourites(settings.state_dir),
                challenges=challenges,
                emit=self._emit,
            )
        )
        self._sessions.arrange(furnished.wishes)
        self._validations = Validations(self._sessions, challenges)
        endpoints = furnished.endpoints
        self._certificates = Certificates(settings, endpoints, self._validations, self._emit)
        self._upkeep = Rota()
        self._upkeep.arrange(self._certificates.upkeep())

    def __repr__(self) -> str:
        return f"<Client {len(self._furnished.endpoints)} endpoints, {self._sessions!r}>"

    @property
    def settings(self) -> ClientSettings:
        """The settings in force."""
        return self._furnished.settings

    async def run(self) -> None:
        """Serve until `stop`; no fault of the network, of a relay or of a target ends it."""
        _warn_of_insecure(self.settings)
        self._emit(events.Started(tuple(each.name for each in self._furnished.endpoints)))
        try:
            await first_of(self._sessions.run, self._upkeep.run)
        finally:
            self._emit(events.Stopped())

    def stop(self) -> None:
        """Ask `run` to return: new visitors go elsewhere, running ones finish in drain_timeout.

        At once where nobody is there. To be called on the event loop; again does nothing.
        """
        self._sessions.stop()

    async def reload(self, settings: ClientSettings) -> ReloadPlan:
        """Bring other settings into force, and return what was different; all of them or none.

        What has not changed is not touched. Raises SettingsError if anything of them cannot be
        used, or needs a restart. To be called while `run` runs.
        """
        plan = check_live(self.settings, settings)
        if self._sessions.is_stopped:
            raise SettingsError([ENDING])
        furnished = furnish(settings, self._signers, self._furnished)
        holdings = self._certificates.read(settings, furnished.endpoints)
        # From here on nothing is awaited and nothing can fail.
        self._furnished = furnished
        self._certificates.adopt(holdings)
        self._sessions.arrange(furnished.wishes)
        self._upkeep.arrange(self._certificates.upkeep())
        if plan.touches("servers"):
            _warn_of_insecure(settings)
        return plan

    def info(self) -> tuple[events.EndpointState, ...]:
        """Return where every endpoint stands; to be called on the running event loop."""
        return tuple(self._state(endpoint) for endpoint in self._furnished.endpoints)

    def renew(self, name: str) -> datetime | None:
        """Have the certificate of a name ordered now, or as soon as that may be; return when.

        None where none is ordered for that name. To be called while `run` runs.
        """
        return self._certificates.renew(name)

    def _state(self, endpoint: Endpoint) -> events.EndpointState:
        names = frozenset(endpoint.names)
        uplinks = [uplink for uplink in self._sessions.uplinks if uplink.carries(endpoint)]
        urls = {url: None for up in uplinks for name, url in up.urls.items() if name in names}
        return events.EndpointState(
            endpoint=endpoint.name,
            id=endpoint.keypair.id,
            fingerprint=format_fingerprint(endpoint.keypair.fingerprint),
            names=endpoint.names,
            urls=tuple(urls),
            servers=tuple(uplink.state(names) for uplink in uplinks),
            certificates=tuple(self._certificate_state(endpoint, name) for name in endpoint.names),
            visitors=_visitor_state(endpoint.visits),
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


def _visitor_state(visits: EndpointVisits) -> events.VisitorState:
    tally = visits.tally
    return events.VisitorState(
        visits.open, visits.total, tally.forth, tally.back, visits.target_failures
    )


def _warn_of_insecure(settings: ClientSettings) -> None:
    for server in settings.servers.values():
        if server.insecure:
            log.warning("relay is not verified", server=server.name, setting="insecure")


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
