"""TLS-ALPN-01: the digest that an account answers with, and the certificate that shows it."""

import hashlib
from base64 import urlsafe_b64encode
from datetime import UTC, datetime

from acme import challenges
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from josepy.jwk import JWKEC

from tunnel.acme.challenge import ACME_IDENTIFIER_OID, challenge_certificate
from tunnel.acme.order import TlsAlpn01

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DIGEST = bytes(range(32))
TOKEN = urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode()
DOCUMENT = {"type": "tls-alpn-01", "url": "https://ca.test/1", "token": TOKEN}


def test_the_library_knows_the_challenge_now() -> None:
    assert isinstance(challenges.Challenge.from_json(DOCUMENT), TlsAlpn01)


def test_its_digest_is_that_of_token_and_thumbprint() -> None:
    jwk = JWKEC(key=ec.generate_private_key(ec.SECP256R1()))
    thumbprint = urlsafe_b64encode(jwk.thumbprint(hash_function=SHA256)).rstrip(b"=").decode()
    expected = hashlib.sha256(f"{TOKEN}.{thumbprint}".encode()).digest()
    assert TlsAlpn01.from_json(DOCUMENT).validation(jwk) == expected


def test_an_authority_is_told_of_it_with_an_empty_object() -> None:
    jwk = JWKEC(key=ec.generate_private_key(ec.SECP256R1()))
    assert TlsAlpn01.from_json(DOCUMENT).response(jwk).to_partial_json() == {}


def test_the_certificate_has_one_name_and_the_digest_in_a_critical_extension() -> None:
    leaf = challenge_certificate("a.test", DIGEST, NOW).leaf
    extension = leaf.extensions.get_extension_for_oid(ACME_IDENTIFIER_OID)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert extension.critical
    assert extension.value.public_bytes() == b"\x04\x20" + DIGEST
    assert list(names.value) == [x509.DNSName("a.test")]
    assert leaf.subject == leaf.issuer


def test_it_is_valid_for_longer_than_any_clock_is_wrong() -> None:
    leaf = challenge_certificate("a.test", DIGEST, NOW).leaf
    assert leaf.not_valid_before_utc < NOW < leaf.not_valid_after_utc
