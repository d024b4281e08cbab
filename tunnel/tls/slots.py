"""A certificate as one immutable value, and the slot in which a newer one takes its place."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

CertificateKey = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)


@dataclass(frozen=True, eq=False)
class Certificate:
    """A chain, leaf first, and the leaf's private key. Compared and hashed by identity."""

    chain: tuple[x509.Certificate, ...]
    key: CertificateKey

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate that speaks for the key."""
        return self.chain[0]

    @property
    def not_after(self) -> datetime:
        """When the leaf expires, in UTC."""
        return self.leaf.not_valid_after_utc

    @cached_property
    def leaf_hash(self) -> bytes:
        """SHA-256 of the leaf's DER: what proofs of identity are bound to."""
        return hashlib.sha256(self.leaf.public_bytes(Encoding.DER)).digest()

    @cached_property
    def pin(self) -> bytes:
        """SHA-256 of the leaf's SubjectPublicKeyInfo: it outlives renewals with the same key."""
        return pin_of_certificate(self.leaf)

    @cached_property
    def chain_pem(self) -> bytes:
        """The chain as PEM, leaf first."""
        return b"".join(entry.public_bytes(Encoding.PEM) for entry in self.chain)

    @cached_property
    def key_pem(self) -> bytes:
        """The private key as unencrypted PKCS#8 PEM."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:  # the generated one would print every certificate of the chain
        return f"<Certificate sha256:{self.leaf_hash.hex()[:16]} until {self.not_after:%Y-%m-%d}>"


class CertificateSlot:
    """Holds the certificate that new handshakes use; running connections keep theirs."""

    def __init__(self, certificate: Certificate) -> None:
        self._current = certificate

    @property
    def current(self) -> Certificate:
        """The certificate now in force: read it once per handshake and keep that."""
        return self._current

    def swap(self, certificate: Certificate) -> None:
        """Let handshakes that begin from now on use `certificate`."""
        self._current = certificate


def pin_of_certificate(certificate: x509.Certificate) -> bytes:
    """Return the SHA-256 of a certificate's SubjectPublicKeyInfo; raises ValueError."""
    public_key = certificate.public_key()
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()
