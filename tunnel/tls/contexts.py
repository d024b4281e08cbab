"""TLS contexts: one kind for each door, and the rules by which a relay is trusted.

A context is never changed after it was made: another certificate means another context, so that
the certificate of a running handshake is known by the context it uses.
"""

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from tunnel.errors import DialFailed, SettingsError
from tunnel.tls.slots import Certificate, pin_of_certificate

# TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else.
VISITOR_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

# Where distributions keep their roots in one file: OpenSSL's own default is often a directory of
# hashed names, which the QUIC engine cannot be given.
ROOT_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Gentoo
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS, BSD
)

_agents_contexts: WeakKeyDictionary[Certificate, dict[tuple[str, ...], ssl.SSLContext]] = (
    WeakKeyDictionary()
)


@dataclass(frozen=True, slots=True)
class Trust:
    """How a relay is verified: by `pin` if there is one, not at all if `insecure`, else by name.

    By name means: a chain to `ca` (default: the system's roots) and `server_name`, a host name or
    an IP address, in the leaf.
    """

    server_name: str
    ca: Path | None = None
    pin: bytes | None = None  # 32 bytes: SHA-256 of the leaf's SubjectPublicKeyInfo
    insecure: bool = False

    @property
    def by_name(self) -> bool:
        """Whether the chain and the name are verified in the handshake."""
        return self.pin is None and not self.insecure


def agents_server_context(certificate: Certificate, alpn: tuple[str, ...]) -> ssl.SSLContext:
    """Return the context for clients' connections: always the same one for the same arguments."""
    contexts = _agents_contexts.setdefault(certificate, {})
    if alpn not in contexts:
        context = _server_context(certificate, alpn)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # A resumed handshake would show a leaf that the context no longer has. Without tickets
        # TLS 1.3 has nothing to resume by, and OpenSSL caches no session either.
        context.num_tickets = 0
        contexts[alpn] = context
    return contexts[alpn]


def visitor_server_context(
    certificate: Certificate, alpn: tuple[str, ...], visitor_ca: Path | None = None
) -> ssl.SSLContext:
    """Return a new context for visitors, who must show a certificate of `visitor_ca` if given.

    Make one per certificate and keep it: visitors' session tickets are bound to it. Raises
    SettingsError if `visitor_ca` cannot be used.
    """
    context = _server_context(certificate, alpn)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(VISITOR_CIPHERS)
    context.num_tickets = 1  # a second one would cost a sixth of the handshake again
    context.options |= ssl.OP_NO_RENEGOTIATION  # which OpenSSL before 3 leaves to the visitor
    if visitor_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_roots(context, str(visitor_ca))
    return context


def dial_context(trust: Trust, alpn: tuple[str, ...]) -> ssl.SSLContext:
    """Return the context for dialling a relay; after the handshake call `check_pin`.

    Hand `trust.server_name` to the handshake as `server_hostname`. Raises SettingsError if the
    roots cannot be used.
    """
    return _dial_context(root_file(trust), alpn)


@lru_cache(maxsize=8)
def _dial_context(roots: "RootFile | None", alpn: tuple[str, ...]) -> ssl.SSLContext:
    """Kept, since the system's roots take tens of milliseconds to load: the loop stands still."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(list(alpn))
    _tell_truncation(context)
    context.check_hostname = roots is not None
    if roots is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.hostname_checks_common_name = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # `ca` may be the leaf itself
        _load_roots(context, roots.path)
    return context


@dataclass(frozen=True, slots=True)
class RootFile:
    """One version of a PEM file of roots: another one differs in what the file system says."""

    path: str
    version: tuple[int, int, int]  # time of change (ns), size (bytes), inode

    @classmethod
    def at(cls, path: str) -> "RootFile":
        """Return the version that is there now; raises SettingsError."""
        try:
            status = os.stat(path)
        except OSError as error:
            raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from error
        return cls(path, (status.st_mtime_ns, status.st_size, status.st_ino))


def root_file(trust: Trust) -> RootFile | None:
    """Return the PEM file of roots that `trust` asks for; None if it does not verify by name.

    Raises SettingsError if there is none.
    """
    if not trust.by_name:
        return None
    if trust.ca is not None:
        return RootFile.at(str(trust.ca))
    candidates = (ssl.get_default_verify_paths().cafile, *ROOT_BUNDLES)
    for path in candidates:
        if path is not None and Path(path).is_file():
            return RootFile.at(path)
    raise SettingsError(["no root certificates found on this system: set ca or pin"])


def check_pin(trust: Trust, leaf_der: bytes) -> None:
    """Raise DialFailed if `trust` has a pin and the relay's leaf does not match it."""
    if trust.pin is None:
        return
    seen = pin_of(leaf_der)
    if seen != trust.pin:
        raise DialFailed(
            "relay certificate does not match the pin: "
            f"expected sha256:{trust.pin.hex()} but it has sha256:{seen.hex()}"
        )


def pin_of(leaf_der: bytes) -> bytes:
    """Return the SHA-256 of the SubjectPublicKeyInfo in a certificate; raises DialFailed."""
    try:
        return pin_of_certificate(x509.load_der_x509_certificate(leaf_der))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DialFailed(f"relay certificate cannot be read: {error}") from error


def _server_context(certificate: Certificate, alpn: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(list(alpn))
    _tell_truncation(context)
    with _as_path(certificate.key_pem + certificate.chain_pem) as path:
        context.load_cert_chain(path)
    return context


def _tell_truncation(context: ssl.SSLContext) -> None:
    """Let a FIN without close_notify be an error, which Python 3.11.2 (Debian 12) overlooks."""
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF


def _load_roots(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise SettingsError([f"{path}: holds no usable PEM certificate"]) from error
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from error


@contextmanager
def _as_path(content: bytes) -> Iterator[str]:
    """Lend a path to secret bytes, since `ssl` loads certificates from paths only.

    On Linux the bytes never reach a disk.
    """
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("certificate"), "wb", buffering=0) as file:
            file.write(content)
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile(buffering=0) as file:
            file.write(content)
            yield file.name
