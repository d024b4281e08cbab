"""What an authority does when it validates a name (RFC 8737 §3)."""

import asyncio
import ssl

from cryptography import x509

from tests.integration.hellos import hello
from tunnel.acme.challenge import ACME_IDENTIFIER_OID, ALPN
from tunnel.stream import Address

DIGEST = bytes(range(32))


def validation(name: str) -> bytes:
    """Return the ClientHello of an authority."""
    return hello(name, (ALPN,))


async def validated(where: Address, name: str) -> x509.Certificate:
    """Shake hands as an authority does, and return the certificate that was shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([ALPN])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection(
        where.host, where.port, ssl=context, server_hostname=name
    )
    tls = writer.get_extra_info("ssl_object")
    assert tls.selected_alpn_protocol() == ALPN
    shown = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
    writer.close()
    await writer.wait_closed()
    return shown


def digest_of(shown: x509.Certificate) -> bytes:
    """Return the digest in an answer, after checking the octets around it (RFC 8737 §3)."""
    octets = shown.extensions.get_extension_for_oid(ACME_IDENTIFIER_OID).value.public_bytes()
    assert octets[:2] == b"\x04\x20"
    return octets[2:]
