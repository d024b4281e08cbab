"""Certificates of an authority, files to plant in a store, and what it says of them."""

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from tunnel.acme.store import Store
from tunnel.tls.certificates import parse_certificate, self_signed
from tunnel.tls.slots import Certificate

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
NAME = "a.t.test"
NAMES = (NAME,)
ISSUER = trustme.CA(key_type=trustme.KeyType.ECDSA).create_child_ca()
STRANGER = trustme.CA(key_type=trustme.KeyType.ECDSA).create_child_ca()


def pem(leaf: trustme.LeafCert) -> bytes:
    return leaf.private_key_pem.bytes() + b"".join(each.bytes() for each in leaf.cert_chain_pems)


def issued(*names: str, begins: timedelta = -DAY, ends: timedelta = 90 * DAY) -> Certificate:
    start, end = NOW + begins, NOW + ends
    return parse_certificate(pem(ISSUER.issue_cert(*names, not_before=start, not_after=end)))


CERTIFICATE = issued(NAME)
CHAIN = CERTIFICATE.chain_pem.split(b"-----END CERTIFICATE-----\n")
KEY = CERTIFICATE.key_pem


def malformed(*changes: tuple[str, str]) -> bytes:
    """Return the key and the leaf alone as PEM, with hex strings in the leaf's DER replaced."""
    der = CERTIFICATE.leaf.public_bytes(Encoding.DER).hex()
    for old, new in changes:
        assert old in der
        der = der.replace(old, new, 1)
    return KEY + ssl.DER_cert_to_PEM_cert(bytes.fromhex(der)).encode()


OWN = self_signed(NAMES, now=NOW)
MISFITS = {
    "another key": (issued(NAME).key_pem + CERTIFICATE.chain_pem, "is not the key of the first"),
    "expired": (
        pem(ISSUER.issue_cert(NAME, not_before=NOW - 2 * DAY, not_after=NOW)),
        "expired at 2026-05-01T12:00:00+00:00",
    ),
    "another name": (pem(ISSUER.issue_cert("b.t.test")), "is for b.t.test, not for a.t.test"),
    "one name more": (
        pem(ISSUER.issue_cert(NAME, "b.t.test")),
        "is for a.t.test, b.t.test, not for a.t.test",
    ),
    "many names": (
        pem(ISSUER.issue_cert(*(f"{letter}.t.test" for letter in "bcdef"))),
        "is for b.t.test, c.t.test, d.t.test and 2 more, not",
    ),
    "a wildcard over the name": (pem(ISSUER.issue_cert("*.t.test")), "is for *.t.test, not"),
    "an address": (pem(ISSUER.issue_cert("192.0.2.1")), "is for no name, not"),
    "self-signed": (OWN.key_pem + OWN.chain_pem, "is self-signed"),
    "another issuer": (
        KEY + CHAIN[0] + b"-----END CERTIFICATE-----\n" + STRANGER.cert_pem.bytes(),
        "certificate 2 did not issue certificate 1",
    ),
    "issuer first": (
        KEY + ISSUER.cert_pem.bytes() + CHAIN[0] + b"-----END CERTIFICATE-----\n",
        "certificate 2 did not issue certificate 1",
    ),
    "truncated in the issuer": ((KEY + CERTIFICATE.chain_pem)[:-200], "is truncated"),
    "truncated in the leaf": ((KEY + CHAIN[0])[:-200], "is truncated"),
    "truncated in the key": (KEY[:100], "is truncated"),
    "no key": (CERTIFICATE.chain_pem, "is not a readable PEM private key"),
    "no chain": (KEY, "holds no readable PEM certificate"),
    "an encrypted key": (
        CERTIFICATE.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
        + CERTIFICATE.chain_pem,
        "is encrypted",
    ),
    "of version 13": (malformed(("a003020102", "a00302010c")), "holds no readable PEM certificate"),
    "an extension twice": (
        malformed(("551d0e", "551d63"), ("551d25", "551d63")),
        "holds a malformed certificate",
    ),
    "empty": (b"", "holds no readable PEM certificate"),
    "noise": (bytes(range(256)) * 20, "holds no readable PEM certificate"),
    "far too much": (b"x" * (2 << 20), "is too large"),
}


def folder(store: Store) -> Path:
    return store.account_file.parent


def put(store: Store, file_name: str, content: bytes, mode: int = 0o600) -> Path:
    folder(store).mkdir(parents=True, exist_ok=True)
    path = folder(store) / file_name
    path.write_bytes(content)
    path.chmod(mode)
    return path


def listing(store: Store) -> list[str]:
    return sorted(path.name for path in folder(store).iterdir())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return each warning as its message and its fields."""
    return [
        " ".join([line.getMessage(), *map(str, vars(line)["fields"].values())])
        for line in caplog.records
        if line.levelno >= logging.WARNING
    ]
