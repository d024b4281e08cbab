"""The certificate that clients see on the agents listeners: where it comes from, and its renewal.

Until an authority has issued the first one, a self-signed certificate stands in for it. Both have
the same key, so that a pin holds from the first start on.
"""

from datetime import UTC, datetime

from tunnel.acme.issuance import Issuer, Standing, Wanted
from tunnel.errors import NotWritable
from tunnel.log import get_log
from tunnel.relay.validation import OwnValidations
from tunnel.runtime.supervision import Work
from tunnel.runtime.watching import watch
from tunnel.settings.values import RelayCertificate, RelaySettings
from tunnel.tls.certificates import stored_self_signed
from tunnel.tls.slots import Certificate, CertificateSlot
from tunnel.tls.watching import WatchedFiles

SELF_SIGNED_NAME = "tunnel-relay.invalid"

log = get_log(__name__)


class OwnCertificate:
    """Owns the slot of the agents listeners; `upkeep` is what has to run while they listen.

    Raises SettingsError, NotWritable where there is no certificate to begin with.
    """

    def __init__(self, settings: RelaySettings, validations: OwnValidations) -> None:
        self._settings = settings
        self._validations = validations
        self._issuer: Issuer | None = None
        self.upkeep: Work | None = None
        self.slot = CertificateSlot(self._first(settings.certificate))

    def _first(self, wanted: RelayCertificate) -> Certificate:
        if wanted.chain_file is not None and wanted.key_file is not None:
            files = WatchedFiles(wanted.chain_file, wanted.key_file)
            self.upkeep = lambda: watch(files, self._swap)
            return files.load()
        if wanted.mode == "acme":
            return self._ordered(wanted)
        return self._self_signed((SELF_SIGNED_NAME,))  # nobody checks it: clients trust the pin

    def _ordered(self, wanted: RelayCertificate) -> Certificate:
        issuer = self._issuer = Issuer(self._settings.acme, self._settings.state_dir)
        cached = issuer.cached(wanted.names)
        first = cached or self._self_signed(wanted.names)
        key = first.key if wanted.keep_key else None
        order = Wanted(wanted.names, self._validations, self._swap, _failed, key)
        self.upkeep = lambda: issuer.keep(order)
        return first

    def standing(self) -> Standing:
        """Return how the certificate stands, whoever it comes from."""
        wanted = self._settings.certificate
        if self._issuer is not None:
            return self._issuer.standing(wanted.names)
        return Standing("valid", self.slot.current.not_after)

    def renew(self) -> datetime | None:
        """Have it ordered now, or as soon as that may be, which is returned.

        None where it comes from nobody that could be asked.
        """
        if self._issuer is None:
            return None
        return self._issuer.renew(self._settings.certificate.names)

    def _self_signed(self, names: tuple[str, ...]) -> Certificate:
        directory = self._settings.state_dir
        try:
            return stored_self_signed(directory, "relay", names, now=datetime.now(UTC))
        except OSError as fault:
            message = f"state_dir: {directory}: cannot be written: {fault.strerror}"
            raise NotWritable([message]) from fault

    def _swap(self, certificate: Certificate) -> None:
        self.slot.swap(certificate)
        log.info("new certificate for new connections", pin=f"sha256:{certificate.pin.hex()}")


def _failed(_cause: str, _retry_in: float) -> None:
    """Logged by the issuer; nobody else is to be told."""
