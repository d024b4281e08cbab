"""One order at an authority (RFC 8555 §7.4), as single steps that never wait for anything to come.

Each step is a request or few; when to look again is said, the waiting is the caller's.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from acme import challenges
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from josepy.errors import Error as JoseError
from josepy.json_util import encode_b64jose
from josepy.jwk import JWK

from tunnel.acme.answers import LINE_LIMIT, Answer, Document, one_line, said
from tunnel.acme.network import Network
from tunnel.errors import IssueFailed
from tunnel.tls.certificates import certificate_from_pem, dns_names
from tunnel.tls.slots import Certificate, CertificateKey

FIRST_PAUSE = 0.25  # seconds until an order is looked at again, where the authority does not say
PAUSE_GROWTH = 1.5
PAUSE_MAX = 10.0
CHALLENGE_TYPE = "tls-alpn-01"


@challenges.ChallengeResponse.register
class TlsAlpn01Response(challenges.KeyAuthorizationChallengeResponse):
    """What tells an authority that a challenge is ready: nothing, RFC 8555 §7.5.1."""

    typ = CHALLENGE_TYPE


@challenges.Challenge.register
class TlsAlpn01(challenges.KeyAuthorizationChallenge):
    """The challenge of RFC 8737, which the library does not have."""

    response_cls = TlsAlpn01Response
    typ = CHALLENGE_TYPE

    def validation(self, account_key: JWK, **_kwargs: Any) -> bytes:
        """Return the SHA-256 of the key authorization (RFC 8737 §3)."""
        return hashlib.sha256(self.key_authorization(account_key).encode()).digest()


class OrderLost(IssueFailed):
    """The authority has given the order up: nothing will come of it any more."""


@dataclass(frozen=True, slots=True)
class _Proof:
    """What an authority wants to see for one name."""

    name: str
    digest: bytes
    url: str  # of the challenge
    body: Mapping[str, Any]
    is_told: bool  # already, by an earlier process


class Order:
    """An order under way; steps may be repeated, also by another process.

    Made by `opened`, which asks what is still to be proved. All raise IssueFailed; OrderLost if
    the order has come to a bad end.
    """

    def __init__(self, network: Network, url: str, names: Sequence[str], answer: Answer) -> None:
        self.url = url
        self._network = network
        self._ordered = {name.lower(): name for name in names}
        self._pause = FIRST_PAUSE
        self._proofs: tuple[_Proof, ...] = ()
        self._heard(answer)

    @classmethod
    def opened(cls, network: Network, url: str, names: Sequence[str], answer: Answer) -> "Order":
        """Return the order that an authority answered with."""
        order = cls(network, url, names, answer)
        order._read_proofs()
        return order

    @property
    def challenges(self) -> Mapping[str, bytes]:
        """Each name that is still to be proved, and the digest of its key authorization."""
        return {proof.name: proof.digest for proof in self._proofs}

    def answer(self) -> None:
        """Tell the authority that all `challenges` are ready to be seen."""
        for proof in self._proofs:
            if not proof.is_told:
                self._network.send(proof.url, proof.body)

    def poll_proofs(self) -> float | None:
        """Return None once all names are proved, else the seconds until to look again."""
        return self._look_again() if self._status == "pending" else None

    def finalize(self, key: CertificateKey) -> None:
        """Ask for the certificate of `key`; does nothing if that was done before."""
        if self._status == "pending":
            self._refresh()
        if self._status == "ready":
            csr = signing_request(sorted(self._ordered), key)
            encoded = encode_b64jose(csr.public_bytes(Encoding.DER))
            self._heard(self._network.send(self._document.text("finalize"), {"csr": encoded}))
            self._pause = FIRST_PAUSE

    def poll_certificate(self, key: CertificateKey) -> Certificate | float:
        """Return the certificate once it is issued, else the seconds until to look again."""
        self.finalize(key)  # should an earlier request to do so not have come through
        if self._status != "valid":
            pause = self._look_again()
            if self._status != "valid":
                return FIRST_PAUSE if pause is None else pause
        answer = self._network.send(self._document.text("certificate"))
        return issued(answer, frozenset(self._ordered), key)

    # -- what the authority says

    @property
    def _status(self) -> str:
        return self._document.text("status")

    def _refresh(self) -> float | None:
        """Ask how the order stands; return what the authority says of when to ask again."""
        answer = self._network.send(self.url)
        self._heard(answer)
        return answer.retry_after

    def _heard(self, answer: Answer) -> None:
        self._document = answer.document()
        if self._status == "invalid":
            raise OrderLost(f"{self._document.source} gave the order up: {self._verdict()}")

    def _look_again(self) -> float | None:
        """Return the seconds until to look again, None if the order has got on since."""
        before = self._status
        asked_for = self._refresh()
        if self._status != before:
            self._pause = FIRST_PAUSE
            return None
        pause = self._pause
        self._pause = min(pause * PAUSE_GROWTH, PAUSE_MAX)
        return max(pause, asked_for or 0.0)

    def _read_proofs(self) -> None:
        """Ask what is to be proved (RFC 8555 §7.1.4); nothing is once all names are."""
        if self._status == "pending":
            urls = self._document.texts("authorizations")
            found = [self._proof(self._network.send(url).document()) for url in urls]
            self._proofs = tuple(proof for proof in found if proof is not None)

    def _proof(self, authorization: Document) -> _Proof | None:
        name, status = self._name_in(authorization), authorization.text("status")
        if status == "valid":
            return None
        if status != "pending":
            raise OrderLost(f"{name}: the proof of it has become {one_line(status)}")
        offered = authorization.documents("challenges")
        for challenge in offered:
            if challenge.fields.get("type") == CHALLENGE_TYPE:
                return self._proof_by(name, challenge)
        types = ", ".join(one_line(str(each.fields.get("type"))) for each in offered) or "nothing"
        raise IssueFailed(
            f"{name}: {authorization.source} does not offer {CHALLENGE_TYPE}, only {types}"[
                :LINE_LIMIT
            ]
        )

    def _name_in(self, authorization: Document) -> str:
        """Return the name that an authorization is about, as it was ordered."""
        said_name = authorization.document("identifier").text("value")
        star = "*." if authorization.fields.get("wildcard") is True else ""  # RFC 8555 §7.1.3
        name = self._ordered.get(star + said_name.lower())
        if name is None:
            raise IssueFailed(
                f"{authorization.source} wants a proof of {one_line(said_name)!r}, "
                "which was not ordered"
            )
        return name

    def _proof_by(self, name: str, document: Document) -> _Proof:
        jwk = self._network.jwk
        document.text("token")  # the library takes for granted that it is one
        try:
            challenge = TlsAlpn01.from_json(document.fields)
        except (JoseError, ValueError, TypeError) as error:
            raise IssueFailed(f"{name}: {document.source} gave a challenge of no use") from error
        return _Proof(
            name,
            challenge.validation(jwk),
            document.text("url"),
            challenge.response(jwk).to_partial_json(),
            is_told=document.fields.get("status") == "processing",
        )

    def _verdict(self) -> str:
        """Return why the order is invalid: what is wrong with the proofs, or with all of it."""
        lines: list[str] = []
        with suppress(IssueFailed):  # what is known already is better than nothing
            for url in self._document.texts("authorizations"):
                lines += _failures(self._network.send(url).document())
        whole = said(self._document.document("error")) or "it does not say why"
        return "; ".join(lines)[:LINE_LIMIT] or whole


def _failures(authorization: Document) -> Iterator[str]:
    """Yield the name and what the authority saw in the place of its proof."""
    name = one_line(authorization.document("identifier").text("value"))
    for challenge in authorization.documents("challenges"):
        if failure := said(challenge.document("error")):
            yield f"{name}: {failure}"


def signing_request(names: Sequence[str], key: CertificateKey) -> x509.CertificateSigningRequest:
    """Return a request (RFC 2986) for DNS names, all of them SANs and none in the subject."""
    # Edwards curves bring their own hash.
    is_edwards = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
    subject = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    return builder.add_extension(subject, critical=False).sign(
        key, None if is_edwards else SHA256()
    )


def issued(answer: Answer, names: frozenset[str], key: CertificateKey) -> Certificate:
    """Return what an answer holds, if it is for this key and these names alone; raises OrderLost.

    The store keeps no other, so that one with more of them would be gone after a restart.
    """
    try:
        certificate = certificate_from_pem(answer.content, key)
        held = dns_names(certificate.leaf)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise OrderLost(f"{answer.source} issued a chain that is of no use: {error}") from error
    if missing := sorted(names - held):
        raise OrderLost(f"{answer.source} issued a certificate without {missing[0]}")
    if extra := sorted(held - names):
        shown = one_line(extra[0])
        raise OrderLost(f"{answer.source} issued a certificate that is for {shown}, too")
    return certificate
