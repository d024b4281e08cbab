"""What is asked for in an order, and which certificates answer it."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tunnel.acme.answers import Answer
from tunnel.acme.order import issued, signing_request
from tunnel.errors import IssueFailed
from tunnel.tls.certificates import self_signed
from tunnel.tls.slots import CertificateKey

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MADE = self_signed(["a.test", "B.test"], now=NOW)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-256", "RSA", "Ed25519"],
)
def test_names_are_asked_for_as_alternatives_alone(key: CertificateKey) -> None:
    request = signing_request(["a.test", "b.test"], key)
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [x509.DNSName("a.test"), x509.DNSName("b.test")]
    assert not list(request.subject)
    assert request.is_signature_valid


def test_a_certificate_for_the_key_and_all_names_is_taken() -> None:
    answer = Answer("ca.test", 200, MADE.chain_pem)
    assert issued(answer, frozenset({"a.test", "b.test"}), MADE.key).chain == MADE.chain


def test_a_certificate_without_one_of_the_names_is_refused() -> None:
    answer = Answer("ca.test", 200, MADE.chain_pem)
    with pytest.raises(IssueFailed, match=r"ca\.test issued a certificate without c\.test"):
        issued(answer, frozenset({"a.test", "c.test"}), MADE.key)


def test_a_certificate_for_another_key_is_refused() -> None:
    answer = Answer("ca.test", 200, MADE.chain_pem)
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(IssueFailed, match="is not the key of the first certificate"):
        issued(answer, frozenset({"a.test"}), other)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        MADE.chain_pem[:100],
        MADE.chain_pem + b"-----BEGIN CERTIFICATE-----\n",
        MADE.chain_pem + self_signed(["c.test"], now=NOW).chain_pem,
    ],
)
def test_a_chain_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(IssueFailed, match=r"ca\.test issued a chain that is of no use"):
        issued(Answer("ca.test", 200, content), frozenset({"a.test"}), MADE.key)
