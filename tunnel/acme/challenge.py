"""TLS-ALPN-01 (RFC 8737): what proves that whoever answers for a name holds the account's key.

How the authority's connection gets here is the business of a `ChallengePath`: a relay answers on
its own listeners, a client through the relays that serve the name.
"""

import asyncio
import ssl
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from tunnel.errors import Code, RemoteProtocolError, StreamReset
from tunnel.stream import Stream
from tunnel.tls.contexts import visitor_server_context
from tunnel.tls.slots import Certificate
from tunnel.tls.terminate import terminate

ALPN = "acme-tls/1"
ACME_IDENTIFIER_OID = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # id-pe-acmeIdentifier
ANSWERS_TOLD = 16  # validations of one order at INFO: anybody may ask for more
HANDSHAKE_TIMEOUT = 10.0  # seconds, for the authority's handshake
PARTING_TIMEOUT = 5.0  # seconds, for the authority to close after it
LIFETIME = timedelta(days=7)  # longer than any order is left open


@dataclass(slots=True, eq=False)
class PendingAnswer:
    """What answers validations of one name: nothing before an order says what they ask for."""

    context: ssl.SSLContext | None = None


class ChallengePath(Protocol):
    """How an authority's validations reach this process."""

    async def ready(self, name: str) -> None:
        """Wait until somebody could ask for the name: there is a way for a validation to come.

        Waits as long as there is none. Cancel-safe.
        """

    def addresses(self, name: str) -> frozenset[str]:
        """Return the IP addresses where validations of the name come in; empty: not known."""

    def opened(
        self, name: str, answer: PendingAnswer, *, renewal: bool
    ) -> AbstractAsyncContextManager[None]:
        """Return what has validations of `name` answered with `answer` while it is entered.

        Entering ends once every way has confirmed that it is ready; raises OrderPostponed if one
        refuses or does not answer in time. Leaving takes it all back.
        """


def challenge_context(name: str, digest: bytes, now: datetime) -> ssl.SSLContext:
    """Return what answers a validation of `name`; `digest` is that of the key authorization.

    SHA-256 (32 bytes), in a self-signed certificate for that one name (RFC 8737 §3).
    """
    return visitor_server_context(challenge_certificate(name, digest, now), (ALPN,))


def challenge_certificate(name: str, digest: bytes, now: datetime) -> Certificate:
    """Return the certificate of RFC 8737 §3, with a new P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    octet_string = bytes([0x04, len(digest)]) + digest
    leaf = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER_OID, octet_string), critical=True)
        .sign(key, SHA256())
    )
    return Certificate((leaf,), key)


async def answer_validation(stream: Stream, context: ssl.SSLContext) -> None:
    """Let an authority shake hands over `stream`, from its ClientHello on, and part from it.

    Nothing but the handshake is exchanged. Raises StreamReset, RemoteProtocolError; the stream is
    its owner's to abort.
    """
    tls = await terminate(stream, context, handshake_timeout=HANDSHAKE_TIMEOUT)
    with suppress(TimeoutError, StreamReset, RemoteProtocolError):
        async with asyncio.timeout(PARTING_TIMEOUT):
            await tls.finish()
            await tls.peer_parted()
    tls.abort(Code.OK)
