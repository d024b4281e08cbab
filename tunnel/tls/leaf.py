"""What a certificate says of itself, for people: nothing here is verified."""

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from tunnel.errors import DialFailed
from tunnel.tls.certificates import dns_names
from tunnel.tls.slots import pin_of_certificate

NAMES_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf certificate as it was shown; times are in UTC."""

    pin: bytes  # SHA-256 of its SubjectPublicKeyInfo
    names: tuple[str, ...]  # DNS names
    not_before: datetime
    not_after: datetime
    is_self_signed: bool

    @classmethod
    def parse(cls, der: bytes) -> "Leaf":
        """Return what a DER certificate says; raises DialFailed for one that cannot be read."""
        try:
            leaf = x509.load_der_x509_certificate(der)
            return cls(
                pin_of_certificate(leaf),
                tuple(sorted(dns_names(leaf))),
                leaf.not_valid_before_utc,
                leaf.not_valid_after_utc,
                leaf.issuer == leaf.subject,
            )
        except (ValueError, UnsupportedAlgorithm) as error:
            raise DialFailed(f"relay certificate cannot be read: {error}") from error

    def is_valid_at(self, time: datetime) -> bool:
        """Say whether the time lies between its dates."""
        return self.not_before <= time <= self.not_after

    def __str__(self) -> str:
        others = len(self.names) - NAMES_SHOWN
        more = f" and {others} more" if others > 0 else ""
        names = ", ".join(self.names[:NAMES_SHOWN]) + more
        kind = "self-signed, " if self.is_self_signed else ""
        return f"{kind}for {names or 'no name'}, until {self.not_after:%Y-%m-%d}"
