"""Identity keys: who a client is. They sign nothing but proofs of this protocol.

A key is P-256 or Ed25519; its fingerprint is what relays grant names to (docs/protocol.md §2).
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
)

from tunnel.errors import Code, NotWritable, Refused, SettingsError
from tunnel.tls.files import create_private, make_private_directory, read_private

IdentityKey = EllipticCurvePrivateKey | Ed25519PrivateKey
IdentityPublicKey = EllipticCurvePublicKey | Ed25519PublicKey

# What the library raises for bytes that are no key: InternalError for some of a wrong length.
UNREADABLE = (ValueError, UnsupportedAlgorithm, InternalError)
EXPECTED = "expected a P-256 or Ed25519 private key, PKCS#8, PEM or DER, without a passphrase"


class Signer(Protocol):
    """A key that proves an identity, wherever it lives: a file, a token, another program."""

    @property
    def public_key(self) -> bytes:
        """The public key as SubjectPublicKeyInfo, DER."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`: ECDSA with SHA-256 as DER, or Ed25519."""


@dataclass(frozen=True, eq=False)
class Identity:
    """A Signer whose private key is in memory."""

    key: IdentityKey

    @cached_property
    def public_key(self) -> bytes:
        """The public key as SubjectPublicKeyInfo, DER."""
        return _encode(self.key.public_key())

    @property
    def pem(self) -> bytes:
        """The private key as unencrypted PKCS#8 PEM."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`: ECDSA with SHA-256 as DER, or Ed25519."""
        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.sign(message)
        return self.key.sign(message, ECDSA(SHA256()))

    def __repr__(self) -> str:
        return f"<Identity sha256:{fingerprint(self.public_key).hex()}>"


def generate() -> Identity:
    """Return a new P-256 identity."""
    return Identity(generate_private_key(SECP256R1()))


def load_or_create(path: Path) -> Identity:
    """Return the identity in a key file; make the file (0600) and its directory if missing.

    Whatever is there already is never overwritten. Two processes that start at once agree on one
    key. Raises SettingsError, naming the file and what was expected of it.
    """
    try:
        with suppress(FileNotFoundError):
            return load(path)
        make_private_directory(path.parent)
        with suppress(FileExistsError):  # another process was first: its key is the one
            create_private(path, generate().pem)
        return load(path)
    except OSError as error:
        raise NotWritable([f"{path}: cannot make a key there: {error.strerror}"]) from error


def load(path: Path) -> Identity:
    """Return the identity in a key file; raises FileNotFoundError, SettingsError."""
    content = read_private(path)
    try:
        return parse(content)
    except ValueError as error:
        raise SettingsError([f"{path}: {error}"]) from error


def parse(content: bytes) -> Identity:
    """Return the identity in a PEM or DER private key; raises ValueError saying what is wrong."""
    read = load_pem_private_key if b"-----BEGIN" in content else load_der_private_key
    try:
        key = read(content, password=None)
    except TypeError:  # how the library says that a password is needed
        raise ValueError(f"is encrypted: {EXPECTED}") from None
    except UNREADABLE:
        raise ValueError(f"is not a readable key: {EXPECTED}") from None
    if isinstance(key, Ed25519PrivateKey):
        return Identity(key)
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return Identity(key)
    raise ValueError(f"is a key of another kind: {EXPECTED}")


def fingerprint(spki: bytes) -> bytes:
    """Return the 32 bytes that name a key; raises Refused where it is no identity key.

    SHA-256 of the SEC1-compressed point (P-256), or of the raw 32 bytes (Ed25519).
    """
    key = _decode(spki)
    if isinstance(key, Ed25519PublicKey):
        return hashlib.sha256(key.public_bytes_raw()).digest()
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return hashlib.sha256(point).digest()


def authenticate(spki: bytes, signature: bytes, message: bytes) -> bytes:
    """Return the fingerprint of the key that signed `message`.

    Raises Refused(UNAUTHORIZED) if the key is no identity key or did not sign it.
    """
    key = _decode(spki)
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ECDSA(SHA256()))
    except InvalidSignature:
        raise Refused(Code.UNAUTHORIZED, "the signature does not match the key") from None
    return fingerprint(spki)


def _decode(spki: bytes) -> IdentityPublicKey:
    try:
        key = load_der_public_key(spki)
    except UNREADABLE:
        raise Refused(Code.UNAUTHORIZED, "the key cannot be read") from None
    if isinstance(key, EllipticCurvePublicKey):
        if not isinstance(key.curve, SECP256R1):
            raise Refused(Code.UNAUTHORIZED, "the key is on another curve than P-256")
    elif not isinstance(key, Ed25519PublicKey):
        raise Refused(Code.UNAUTHORIZED, "the key is neither P-256 nor Ed25519")
    if _encode(key) != spki:  # one key, one encoding: compressed points, explicit parameters
        raise Refused(Code.UNAUTHORIZED, "the key is not in its canonical encoding")
    return key


def _encode(key: IdentityPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
