"""What is asked for in an order, and which certificates answer it."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from josepy.jwk import JWKEC

from tunnel.acme.answers import Answer
from tunnel.acme.network import Network
from tunnel.acme.order import CHALLENGE_TYPE, Order, issued, signing_request
from tunnel.errors import IssueFailed
from tunnel.tls.certificates import self_signed
from tunnel.tls.slots import CertificateKey

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"  # noqa: S105 - of RFC 8737's kind, no secret
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


def test_a_certificate_for_one_name_more_is_refused() -> None:
    answer = Answer("ca.test", 200, MADE.chain_pem)
    with pytest.raises(
        IssueFailed, match=r"ca\.test issued a certificate that is for b\.test, too"
    ):
        issued(answer, frozenset({"a.test"}), MADE.key)


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
    ids=["nothing", "HTML", "truncated", "a second one begun", "one of another issuer"],
)
def test_a_chain_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(IssueFailed, match=r"ca\.test issued a chain that is of no use"):
        issued(Answer("ca.test", 200, content), frozenset({"a.test"}), MADE.key)


# -- what an authority wants to see


class Answering:
    """A network whose every answer is one document."""

    jwk = JWKEC(key=ec.generate_private_key(ec.SECP256R1()))

    def __init__(self, document: Mapping[str, object]) -> None:
        self._content = json.dumps(document).encode()

    def send(self, _url: str, _body: Mapping[str, object] | None = None) -> Answer:
        return Answer("ca.test", 200, self._content)


def opened(name: str = "a.test", token: object = TOKEN) -> Order:
    """Return the order for one name whose proof is wanted so."""
    challenge = {"type": CHALLENGE_TYPE, "url": "https://ca.test/c", "token": token}
    authorization = {
        "status": "pending",
        "identifier": {"type": "dns", "value": name},
        "challenges": [challenge],
    }
    order = {"status": "pending", "authorizations": ["https://ca.test/a"]}
    network = cast(Network, Answering(authorization))
    answer = Answer("ca.test", 201, json.dumps(order).encode())
    return Order.opened(network, "https://ca.test/o", ["a.test"], answer)


def test_a_name_is_proved_as_it_was_ordered_whatever_its_case() -> None:
    assert [*opened("A.Test").challenges] == ["a.test"]


@pytest.mark.parametrize("name", ["b.test", "bü.test", "*.a.test", "a" * 70, "", "\ud800", "x\ny"])
def test_a_proof_of_what_was_not_ordered_is_refused(name: str) -> None:
    with pytest.raises(IssueFailed, match=r"ca\.test wants a proof of .*, which was not") as caught:
        opened(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("token", [None, 7, [], {}])
def test_a_token_that_is_no_text_is_told(token: object) -> None:
    with pytest.raises(IssueFailed, match=r"ca\.test answered without a string as 'token'"):
        opened(token=token)


@pytest.mark.parametrize("token", ["", "é", "\ud800", "a\nb", "short"])
def test_a_token_of_no_use_is_told(token: str) -> None:
    with pytest.raises(IssueFailed, match=r"a\.test: ca\.test gave a challenge of no use"):
        opened(token=token)
