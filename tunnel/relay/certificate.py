"""The certificate that clients see on the agents listeners: where it comes from, and its renewal.

Until an authority has issued the first one, a self-signed certificate stands in for it. Both have
the same key, so that a pin holds from the first start on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tunnel.acme.issuance import Issuer, Standing, Wanted
from tunnel.log import get_log
from tunnel.relay.validation import OwnValidations
from tunnel.runtime.supervision import Work
from tunnel.runtime.watching import watch
from tunnel.settings.values import AcmeSettings, RelayCertificate, RelaySettings
from tunnel.tls.certificates import stored_self_signed
from tunnel.tls.slots import Certificate, CertificateSlot
from tunnel.tls.watching import WatchedFiles

SELF_SIGNED_NAME = "tunnel-relay.invalid"
STORED_AS = "relay"  # in the state directory, what is self-signed

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the certificate comes from: what there is of it, and what has to run for it."""

    settings: RelaySettings
    certificate: Certificate
    upkeep: Work | None = None
    issuer: Issuer | None = None


class OwnCertificate:
    """Owns the slot of the agents listeners; `upkeep` is what has to run while they listen.

    `swapped` is told of each certificate that takes the place of another.
    Raises SettingsError, NotWritable where there is no certificate to begin with.
    """

    def __init__(
        self,
        settings: RelaySettings,
        validations: OwnValidations,
        swapped: Callable[[Certificate], None] = lambda _certificate: None,
    ) -> None:
        self._validations = validations
        self._swapped = swapped
        self._source = self._found(settings)
        self.slot = CertificateSlot(self._source.certificate)

    @property
    def upkeep(self) -> Work | None:
        """What has to run, as long as it stays the same."""
        return self._source.upkeep

    def read(self, settings: RelaySettings) -> Source:
        """Return what other settings ask for, files read again; raises as making one does."""
        before = self._source.settings
        if settings.certificate.mode == "files" or _origin(settings) != _origin(before):
            return self._found(settings)
        return replace(self._source, settings=settings, certificate=self.slot.current)

    def adopt(self, source: Source) -> None:
        """Have new connections see what was read."""
        self._source = source
        if source.certificate.chain_pem != self.slot.current.chain_pem:
            self._swap(source.certificate)

    def _found(self, settings: RelaySettings) -> Source:
        wanted = settings.certificate
        if wanted.chain_file is not None and wanted.key_file is not None:
            files = WatchedFiles(wanted.chain_file, wanted.key_file)
            return Source(settings, files.load(), lambda: watch(files, self._swap))
        if wanted.mode == "acme":
            return self._ordered(settings)
        # Nobody checks the name: clients trust the pin.
        return Source(settings, _self_signed(settings.state_dir, (SELF_SIGNED_NAME,)))

    def _ordered(self, settings: RelaySettings) -> Source:
        wanted = settings.certificate
        issuer = Issuer(settings.acme, settings.state_dir)
        cached = issuer.cached(wanted.names)
        first = cached or _self_signed(settings.state_dir, wanted.names)
        key = first.key if wanted.keep_key else None
        order = Wanted(wanted.names, self._validations, self._swap, _failed, key)
        return Source(settings, first, lambda: issuer.keep(order), issuer)

    def standing(self) -> Standing:
        """Return how the certificate stands, whoever it comes from."""
        wanted = self._source.settings.certificate
        if self._source.issuer is not None:
            return self._source.issuer.standing(wanted.names)
        return Standing("valid", self.slot.current.not_after)

    def renew(self) -> datetime | None:
        """Have it ordered now, or as soon as that may be, which is returned.

        None where it comes from nobody that could be asked.
        """
        if self._source.issuer is None:
            return None
        return self._source.issuer.renew(self._source.settings.certificate.names)

    def _swap(self, certificate: Certificate) -> None:
        self.slot.swap(certificate)
        self._swapped(certificate)
        log.info("new certificate for new connections", pin=f"sha256:{certificate.pin.hex()}")


def _origin(settings: RelaySettings) -> tuple[RelayCertificate, AcmeSettings | None]:
    """Return the settings that a certificate depends on."""
    is_ordered = settings.certificate.mode == "acme"
    return settings.certificate, settings.acme if is_ordered else None


def _self_signed(directory: Path, names: tuple[str, ...]) -> Certificate:
    return stored_self_signed(directory, STORED_AS, names, now=datetime.now(UTC))


def _failed(_cause: str, _retry_in: float) -> None:
    """Logged by the issuer; nobody else is to be told."""
