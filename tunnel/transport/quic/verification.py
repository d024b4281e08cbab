"""Verifying a relay by chain and name, as OpenSSL does it for the transport over TCP.

The engine's own check loads the system's roots anew in each handshake, and takes neither a relay's
leaf nor an intermediate for a root.
"""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)

from tunnel.errors import DialFailed, SettingsError
from tunnel.tls.contexts import RootFile, Trust, root_file

NAMES_MAX = 256  # characters of a peer's names that are told
# What the libraries raise for a certificate that is none, besides what is raised here.
UNREADABLE = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, crypto.Error)


class RelayVerifier:
    """What `trust` asks of a relay's chain; raises SettingsError if its roots cannot be used."""

    def __init__(self, trust: Trust) -> None:
        self._name = trust.server_name
        roots = root_file(trust)
        # With a pin the chain says nothing; the handshake's signature is verified in every case.
        self._store = None if roots is None else _store_of(roots)

    def verify(self, leaf: x509.Certificate, others: Sequence[x509.Certificate]) -> None:
        """Raise DialFailed unless the chain leads to a root and the leaf has the name."""
        if self._store is None:
            return
        try:
            _check_purpose(leaf)
            _check_name(leaf, self._name)
            _check_chain(self._store, leaf, others)
        except UNREADABLE as error:
            raise DialFailed(f"relay certificate is not valid: {error}") from error


@lru_cache(maxsize=8)
def _store_of(roots: RootFile) -> crypto.X509Store:
    """Return the roots of one version of a file: some 150 of them take tens of milliseconds."""
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # `ca` may be the leaf itself
    try:
        store.load_locations(roots.path)
    except crypto.Error as error:
        raise SettingsError([f"{roots.path}: holds no usable PEM certificate"]) from error
    return store


def _check_purpose(leaf: x509.Certificate) -> None:
    """Raise ValueError for a certificate that is meant for something else than serving."""
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage.value:
        raise ValueError("unsuitable certificate purpose")


def _check_name(leaf: x509.Certificate, name: str) -> None:
    """Raise ValueError unless the leaf has the host name or IP address."""
    try:
        if _is_address(name):
            verify_certificate_ip_address(leaf, name)
        else:
            verify_certificate_hostname(leaf, name)
    except (CertificateError, VerificationError) as error:
        raise ValueError(f"it is for {_names_of(leaf)}, not for {name}") from error


def _names_of(leaf: x509.Certificate) -> str:
    """Return the names in a certificate, for an operator to read."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "no name"
    return ", ".join(repr(str(name.value)) for name in names)[:NAMES_MAX]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_chain(
    store: crypto.X509Store, leaf: x509.Certificate, others: Sequence[x509.Certificate]
) -> None:
    """Raise ValueError unless each certificate is valid now and the last leads to a root."""
    chain = [crypto.X509.from_cryptography(entry) for entry in others]
    context = crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), chain)
    try:
        context.verify_certificate()
    except crypto.X509StoreContextError as error:
        raise ValueError(str(error)) from error
