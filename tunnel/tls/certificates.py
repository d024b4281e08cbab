"""Where certificates come from: made by ourselves, or read from the operator's files."""

import ipaddress
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tunnel.errors import NotWritable, SettingsError
from tunnel.log import get_log
from tunnel.tls.contexts import visitor_server_context
from tunnel.tls.files import (
    create_private,
    make_private_directory,
    read_private,
    read_public,
    write_private,
)
from tunnel.tls.identity import UNREADABLE
from tunnel.tls.slots import Certificate, CertificateKey

EXTENSION_OID = x509.ObjectIdentifier("1.3.6.1.4.1.65535.1")
LIFETIME = timedelta(days=3650)  # of what nobody but its reader vouches for: it is trusted by hand
RENEWAL_MARGIN = timedelta(days=30)
CLOCK_SKEW = timedelta(days=1)  # how far a visitor's clock may lag behind ours
COMMON_NAME_LIMIT = 64  # RFC 5280, ub-common-name

log = get_log(__name__)


def self_signed(
    names: Sequence[str],
    *,
    now: datetime,
    key: CertificateKey | None = None,
    extension: bytes | None = None,
    lifetime: timedelta = LIFETIME,
) -> Certificate:
    """Return a certificate for DNS names and IP addresses that can be its own trust root.

    `key` is a new P-256 one unless given; `extension` becomes the value of EXTENSION_OID.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = _subject(names)
    start = now.replace(microsecond=0)
    public_key = key.public_key()
    key_id = x509.SubjectKeyIdentifier.from_public_key(public_key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - CLOCK_SKEW)
        .not_valid_after(start + lifetime)
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signing_only(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(key_id, critical=False)
    )
    if extension is not None:
        value = x509.UnrecognizedExtension(EXTENSION_OID, extension)
        builder = builder.add_extension(value, critical=False)
    return Certificate((builder.sign(key, _digest(key)),), key)


def load_chain(chain_file: Path, key_file: Path) -> Certificate:
    """Return the operator's certificate; both files are PEM and may be the same one.

    Raises SettingsError, naming the file at fault.
    """
    try:
        text, secret = read_public(chain_file), read_private(key_file)
    except FileNotFoundError as error:
        raise SettingsError([f"{error.filename}: cannot be read: {error.strerror}"]) from error
    try:
        chain = _parse_chain(text)
    except ValueError as error:
        raise SettingsError([f"{chain_file}: {error}"]) from error
    try:
        return _join(chain, _parse_key(secret))
    except ValueError as error:
        raise SettingsError([f"{key_file}: {error}"]) from error


def parse_certificate(content: bytes) -> Certificate:
    """Return what one PEM text holds: a chain, leaf first, and the leaf's key, before or after it.

    Raises ValueError saying what is wrong.
    """
    _require_ends(content)
    return _join(_parse_chain(content), _parse_key(content))


def certificate_from_pem(chain: bytes, key: CertificateKey) -> Certificate:
    """Return the certificate of a PEM chain, leaf first, for a key that is had already.

    Raises ValueError saying what is wrong with the chain, or that it is another key's.
    """
    _require_ends(chain)
    return _join(_parse_chain(chain), key)


def _require_ends(text: bytes) -> None:
    if text.count(b"-----BEGIN ") != text.count(b"-----END "):  # parsers skip such a block
        raise ValueError("is truncated: a PEM block does not end")


def self_signed_file(directory: Path, name: str) -> Path:
    """Return where `stored_self_signed` keeps a certificate, with its key."""
    return directory / f"{quote(name, safe='')}.pem"


def stored_self_signed(
    directory: Path,
    name: str,
    names: Sequence[str],
    *,
    now: datetime,
    extension: bytes | None = None,
) -> Certificate:
    """Return the self-signed certificate kept as `name` in `directory`, making it if need be.

    It is made anew, with the key it had, when names or extension changed or its end is near; a
    corrupt file is kept aside as `.bad`. Raises NotWritable, and SettingsError for a file open to
    others.
    """
    try:
        return _stored(directory, name, names, now, extension)
    except OSError as fault:
        message = f"{directory}: cannot keep a certificate there: {fault.strerror}"
        raise NotWritable([message]) from fault


def _stored(
    directory: Path, name: str, names: Sequence[str], now: datetime, extension: bytes | None
) -> Certificate:
    path = self_signed_file(directory, name)
    stored = _read_stored(path)
    if stored is None:
        make_private_directory(directory)
        fresh = self_signed(names, now=now, extension=extension)
        with suppress(FileExistsError):  # another process was first: its key is the one
            create_private(path, fresh.key_pem + fresh.chain_pem)
            return fresh
        return _stored(directory, name, names, now, extension)
    if _fits(stored, names, extension) and now < stored.not_after - RENEWAL_MARGIN:
        return stored
    renewed = self_signed(names, now=now, key=stored.key, extension=extension)
    write_private(path, renewed.key_pem + renewed.chain_pem)
    log.info("renewed self-signed certificate", file=path)
    return renewed


def _read_stored(path: Path) -> Certificate | None:
    try:
        content = read_private(path)
    except FileNotFoundError:
        return None
    try:
        return _join(_parse_chain(content), _parse_key(content))
    except ValueError as error:
        aside = path.with_name(f"{path.name}.bad")
        path.replace(aside)
        log.warning("set a corrupt certificate aside", file=path, kept=aside, cause=error)
        return None


def _fits(certificate: Certificate, names: Sequence[str], extension: bytes | None) -> bool:
    return _names_of(certificate.leaf) == set(_general_names(names)) and (
        extension_of(certificate.leaf) == extension
    )


def _names_of(leaf: x509.Certificate) -> set[x509.GeneralName]:
    try:
        return set(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return set()


def extension_of(leaf: x509.Certificate) -> bytes | None:
    """Return the value of EXTENSION_OID in a certificate, None where it has none."""
    try:
        found = leaf.extensions.get_extension_for_oid(EXTENSION_OID)
    except x509.ExtensionNotFound:
        return None
    return found.value.public_bytes()


def dns_names(leaf: x509.Certificate) -> frozenset[str]:
    """Return the DNS names in a certificate, lower case, wildcards included."""
    names = (name for name in _names_of(leaf) if isinstance(name, x509.DNSName))
    return frozenset(name.value.lower() for name in names)


def _subject(names: Sequence[str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:COMMON_NAME_LIMIT])])


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    return [_general_name(name) for name in names]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _signing_only() -> x509.KeyUsage:
    """The key signs handshakes; without keyCertSign it cannot vouch for any other name."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _digest(key: CertificateKey) -> SHA256 | None:
    """The hash to sign with: Edwards curves bring their own."""
    return None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else SHA256()


def _parse_chain(text: bytes) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a PEM text, leaf first; raises ValueError saying what is wrong."""
    try:
        chain = tuple(x509.load_pem_x509_certificates(text))
    except (ValueError, x509.InvalidVersion):
        raise ValueError("holds no readable PEM certificate") from None
    try:
        chain[0].public_key()
    except UNREADABLE:
        raise ValueError("holds a certificate for a key that TLS does not use") from None
    for number, (entry, issuer) in enumerate(pairwise(chain), 1):
        try:
            entry.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            raise ValueError(
                f"certificate {number + 1} did not issue certificate {number}: "
                "expected the leaf first, then each issuer"
            ) from None
    return chain


def _parse_key(text: bytes) -> CertificateKey:
    try:
        key = load_pem_private_key(text, password=None)
    except TypeError:  # how the library says that a password is needed
        raise ValueError("is encrypted: expected a PEM private key without a passphrase") from None
    except UNREADABLE:
        raise ValueError("is not a readable PEM private key") from None
    if isinstance(key, CertificateKey):
        return key
    raise ValueError("holds a kind of key that TLS does not use")


def _join(chain: tuple[x509.Certificate, ...], key: CertificateKey) -> Certificate:
    """Return the pair if it belongs together and OpenSSL takes it; raises ValueError."""
    certificate = Certificate(chain, key)
    if chain[0].public_key() != key.public_key():
        raise ValueError("is not the key of the first certificate in the chain")
    try:
        visitor_server_context(certificate, ())
    except ssl.SSLError as error:  # too weak a key or signature, most likely
        raise ValueError(f"cannot be used with its chain: {error.reason}") from error
    return certificate
