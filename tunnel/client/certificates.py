"""Where endpoints' certificates come from while the client runs: an authority, or watched files."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType

from tunnel.acme.challenge import ChallengePath
from tunnel.acme.issuance import Issuer, Wanted
from tunnel.client import events
from tunnel.client.endpoints import Endpoint
from tunnel.log import get_log
from tunnel.runtime.supervision import Work, restarted
from tunnel.runtime.watching import watch
from tunnel.settings.values import AcmeSettings, ClientSettings
from tunnel.tls.slots import Certificate
from tunnel.tls.watching import WatchedFiles

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Holdings:
    """Certificates as they were found for one set of endpoints."""

    acme: AcmeSettings
    issuer: Issuer
    ordered: Mapping[str, tuple[Endpoint, ...]]
    files: tuple[tuple[Endpoint, WatchedFiles, Certificate], ...]


class Certificates:
    """What endpoints show: what is there already, and what comes by the `upkeep`.

    A name that several endpoints serve, each at relays of its own, has one certificate. Raises
    SettingsError for files that cannot be used.
    """

    def __init__(
        self,
        settings: ClientSettings,
        endpoints: Sequence[Endpoint],
        path: ChallengePath,
        emit: events.Sink,
    ) -> None:
        self._path = path
        self._emit = emit
        self._holdings = Holdings(
            settings.acme, Issuer(settings.acme, settings.state_dir), MappingProxyType({}), ()
        )
        self.adopt(self.read(settings, endpoints))

    def __repr__(self) -> str:
        holdings = self._holdings
        return f"<Certificates {len(holdings.ordered)} ordered, {len(holdings.files)} from files>"

    def read(self, settings: ClientSettings, endpoints: Iterable[Endpoint]) -> Holdings:
        """Return what is there for endpoints; nothing is shown before `adopt`.

        Raises SettingsError for files that cannot be used.
        """
        issuer = self._holdings.issuer
        if settings.acme != self._holdings.acme:
            issuer = Issuer(settings.acme, settings.state_dir)
        ordered: dict[str, tuple[Endpoint, ...]] = {}
        files: list[tuple[Endpoint, WatchedFiles, Certificate]] = []
        for endpoint in endpoints:
            for name in endpoint.acme_names:
                ordered[name] = (*ordered.get(name, ()), endpoint)
            chain_file, key_file = endpoint.settings.chain_file, endpoint.settings.key_file
            if chain_file is not None and key_file is not None:
                watched = WatchedFiles(chain_file, key_file)
                files.append((endpoint, watched, watched.load()))
        for name, serving in ordered.items():
            seeds = (each.settings.seed_file for each in serving)
            issuer.cached([name], next((each for each in seeds if each is not None), None))
        return Holdings(settings.acme, issuer, ordered, tuple(files))

    def adopt(self, holdings: Holdings) -> None:
        """Let endpoints show what was found for them, and order the rest from now on."""
        before, self._holdings = self._holdings, holdings
        for name, endpoints in holdings.ordered.items():
            told = [each for each in endpoints if each not in before.ordered.get(name, ())]
            cached = holdings.issuer.cached([name])
            if cached is not None:
                told = [each for each in endpoints if each.certificate(name) is None]
                _install(told, name, cached)
            _tell_states(told, name)
        for endpoint, _, certificate in holdings.files:
            shown = endpoint.certificate(endpoint.names[0])
            if shown is None or shown.chain_pem != certificate.chain_pem:
                _install_everywhere(endpoint, certificate)

    def upkeep(self) -> dict[Hashable, Work]:
        """Return what is to run for ever; what goes on unchanged has the same key again."""
        holdings = self._holdings
        works: dict[Hashable, Work] = {}
        for name in holdings.ordered:
            wanted = Wanted(
                (name,),
                self._path,
                partial(self._issued, name),
                partial(self._failed, name),
            )
            words = f"certificate of {name}"
            work = partial(holdings.issuer.keep, wanted)
            works[words, holdings.issuer] = partial(restarted, words, work)
        for endpoint, files, _ in holdings.files:
            words = f"certificate files of {endpoint.name}"
            work = partial(watch, files, partial(_install_everywhere, endpoint))
            works[words, files] = partial(restarted, words, work)
        return works

    def order_state(self, name: str) -> events.OrderState:
        """Return what is planned for the certificate of a name."""
        if name not in self._holdings.ordered:
            return events.OrderState()
        standing = self._holdings.issuer.standing([name])
        return events.OrderState(standing.renew_at, standing.last_error, standing.retry_at)

    def renew(self, name: str) -> datetime | None:
        """Have the certificate of a name ordered as soon as that may be; see `Issuer.renew`.

        None where none is ordered for it.
        """
        holdings = self._holdings
        return holdings.issuer.renew([name]) if name in holdings.ordered else None

    def _issued(self, name: str, certificate: Certificate) -> None:
        endpoints = self._holdings.ordered[name]
        first = [endpoint for endpoint in endpoints if endpoint.certificate(name) is None]
        _install(endpoints, name, certificate)
        _tell_states(first, name)
        pem, not_after = certificate.chain_pem.decode(), certificate.not_after
        for endpoint in endpoints:
            self._emit(events.CertificateIssued(endpoint.name, name, pem, not_after))

    def _failed(self, name: str, cause: str, retry_in: float) -> None:
        for endpoint in self._holdings.ordered[name]:
            self._emit(events.CertificateFailed(endpoint.name, name, cause, retry_in))


def _install(endpoints: Iterable[Endpoint], name: str, certificate: Certificate) -> None:
    for endpoint in endpoints:
        endpoint.install(name, certificate)


def _tell_states(endpoints: Iterable[Endpoint], name: str) -> None:
    """Say what visitors of a name meet from now on."""
    now = datetime.now(UTC)
    for endpoint in endpoints:
        state = endpoint.certificate_state(name, now)
        log.info("endpoint state", endpoint=endpoint.name, name=name, certificate=state)


def _install_everywhere(endpoint: Endpoint, certificate: Certificate) -> None:
    for name in endpoint.names:
        endpoint.install(name, certificate)
