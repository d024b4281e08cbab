"""The TLS that visitors of one endpoint meet, name by name."""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from weakref import WeakKeyDictionary

from tunnel.errors import Code, Refused
from tunnel.settings.values import EndpointSettings
from tunnel.tls.certificates import self_signed
from tunnel.tls.contexts import visitor_server_context
from tunnel.tls.slots import Certificate

PASSTHROUGH = "passthrough"
REFUSE = "refuse"

TICKET_KEYS_SECONDS = 12 * 3600.0  # then visitors' tickets are sealed with other keys

VALID = "valid"
EXPIRED = "expired"
NOT_OURS = "shown by the target"
INTERIM = "self-signed until the first certificate"
REFUSED = "refused until the first certificate"


@dataclass(frozen=True, slots=True)
class Offer:
    """A context that visitors meet, and since when."""

    context: ssl.SSLContext
    since: float  # on the clock of `Presented`


class Presented:
    """The certificate of each name, and the contexts made of them.

    A name without one gets what `before_certificate` says: a self-signed certificate of its own,
    valid from `now` and never written down, or nothing. A context is made for the first visitor
    who needs it and never changed. All visitors of a name share it, so one who comes again resumes
    by a ticket; OpenSSL makes the keys that tickets are sealed with for each context, and keeps
    them. So it is replaced from time to time: who has taken such keys reads no more than that.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        now: datetime,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._now = now
        self._clock = clock
        self._installed: dict[str, Certificate] = {}
        self._interim: dict[str, Certificate] = {}
        self._offers: WeakKeyDictionary[Certificate, Offer] = WeakKeyDictionary()

    def install(self, name: str, certificate: Certificate) -> None:
        """Let handshakes that begin from now on use `certificate` for the name."""
        self._installed[name] = certificate
        self._interim.pop(name, None)

    def installed(self, name: str) -> Certificate | None:
        """Return what was installed for the name last."""
        return self._installed.get(name)

    def context(self, name: str) -> ssl.SSLContext | None:
        """Return the TLS context for the next visitor, None where TLS is passed through.

        Raises Refused(TARGET_DOWN) where there is nothing to be shown yet, SettingsError if
        `visitor_ca` cannot be used.
        """
        if self._settings.certificate == PASSTHROUGH:
            return None
        certificate = self._installed.get(name) or self._first(name)
        offer = self._offers.get(certificate)
        if offer is None or self._clock() - offer.since >= TICKET_KEYS_SECONDS:
            alpn, visitor_ca = self._settings.alpn, self._settings.visitor_ca
            offer = Offer(visitor_server_context(certificate, alpn, visitor_ca), self._clock())
            self._offers[certificate] = offer
        return offer.context

    def _first(self, name: str) -> Certificate:
        """Return what is shown until there is a certificate; raises Refused."""
        if self._settings.before_certificate == REFUSE:
            # Not a code for which the relay would try another connection of ours.
            raise Refused(Code.TARGET_DOWN, f"there is no certificate for {name} yet")
        if name not in self._interim:
            extension = self._settings.certificate_extension
            self._interim[name] = self_signed([name], now=self._now, extension=extension)
        return self._interim[name]

    def state(self, name: str, now: datetime) -> str:
        """Return what visitors of the name meet at `now`, in words for an operator."""
        if self._settings.certificate == PASSTHROUGH:
            return NOT_OURS
        certificate = self._installed.get(name)
        if certificate is not None:
            return VALID if now < certificate.not_after else EXPIRED
        return REFUSED if self._settings.before_certificate == REFUSE else INTERIM
