"""Where endpoints' certificates come from while the client runs: an authority, or watched files."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

from tunnel.acme.challenge import ChallengePath
from tunnel.acme.issuance import Issuer, Wanted
from tunnel.client import events
from tunnel.client.endpoints import Endpoint
from tunnel.log import get_log
from tunnel.runtime.supervision import Work
from tunnel.runtime.watching import watch
from tunnel.settings.values import ClientSettings
from tunnel.tls.slots import Certificate
from tunnel.tls.watching import WatchedFiles

log = get_log(__name__)


class Certificates:
    """Installs what is there already; `upkeep` is what has to run beside the endpoints.

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
        self._issuer = Issuer(settings.acme, settings.state_dir)
        self._ordered: dict[str, list[Endpoint]] = {}
        self._files: list[tuple[Endpoint, WatchedFiles]] = []
        for endpoint in endpoints:
            for name in endpoint.acme_names:
                self._ordered.setdefault(name, []).append(endpoint)
            chain_file, key_file = endpoint.settings.chain_file, endpoint.settings.key_file
            if chain_file is not None and key_file is not None:
                self._files.append((endpoint, WatchedFiles(chain_file, key_file)))
        self._install_what_is_there()

    def __repr__(self) -> str:
        return f"<Certificates {len(self._ordered)} ordered, {len(self._files)} from files>"

    def _install_what_is_there(self) -> None:
        for name, endpoints in self._ordered.items():
            seeds = (each.settings.seed_file for each in endpoints)
            seed = next((each for each in seeds if each is not None), None)
            cached = self._issuer.cached([name], seed)
            if cached is not None:
                _install(endpoints, name, cached)
            _tell_states(endpoints, name)
        for endpoint, files in self._files:
            _install_everywhere(endpoint, files.load())

    def upkeep(self) -> Iterator[tuple[str, Work]]:
        """Yield what is to run for ever, with the words for it in logs."""
        for name in self._ordered:
            wanted = Wanted(
                (name,),
                self._path,
                partial(self._issued, name),
                partial(self._failed, name),
            )
            yield f"certificate of {name}", partial(self._issuer.keep, wanted)
        for endpoint, files in self._files:
            install = partial(_install_everywhere, endpoint)
            yield f"certificate files of {endpoint.name}", partial(watch, files, install)

    def order_state(self, name: str) -> events.OrderState:
        """Return what is planned for the certificate of a name."""
        if name not in self._ordered:
            return events.OrderState()
        standing = self._issuer.standing([name])
        return events.OrderState(standing.renew_at, standing.last_error, standing.retry_at)

    def _issued(self, name: str, certificate: Certificate) -> None:
        endpoints = self._ordered[name]
        first = [endpoint for endpoint in endpoints if endpoint.certificate(name) is None]
        _install(endpoints, name, certificate)
        _tell_states(first, name)
        pem, not_after = certificate.chain_pem.decode(), certificate.not_after
        for endpoint in endpoints:
            self._emit(events.CertificateIssued(endpoint.name, name, pem, not_after))

    def _failed(self, name: str, cause: str, retry_in: float) -> None:
        for endpoint in self._ordered[name]:
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
