"""Both transports accept and refuse the same relays, and speak with those whose chain is long."""

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tunnel.errors import ConnectionLost, DialFailed
from tunnel.stream import Address, Connection
from tunnel.tls.contexts import Trust
from tunnel.tls.slots import Certificate, CertificateKey, CertificateSlot
from tunnel.transport.accepting import TcpListener
from tunnel.transport.doors import DIALERS, accept_socket, listen_datagrams
from tunnel.transport.options import TransportOptions

NAME = "relay.test"
PADDING = x509.ObjectIdentifier("1.3.6.1.4.1.65535.2")
LOOPBACK = Address("127.0.0.1", 0)
OPTIONS = TransportOptions()
NOW = datetime.datetime.now(datetime.UTC)
SERVING, BEING_SERVED = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass
class Issuer:
    """A key and its certificate, which may issue others."""

    key: CertificateKey
    certificate: x509.Certificate

    def issue(
        self,
        name: str,
        key: CertificateKey,
        usage: x509.ObjectIdentifier | None = None,
        *,
        is_expired: bool = False,
    ) -> "Issuer":
        """Issue a leaf for a usage, or another issuer for none."""
        certificate = issued(self, name, key, usage, is_expired=is_expired)
        return Issuer(key, certificate)


def issued(
    issuer: Issuer | None,
    name: str,
    key: CertificateKey,
    usage: x509.ObjectIdentifier | None,
    *,
    is_expired: bool,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"issuer {name}")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=2))
        .not_valid_after(NOW + datetime.timedelta(days=-1 if is_expired else 1))
        .add_extension(x509.BasicConstraints(ca=usage is None, path_length=None), critical=True)
    )
    if isinstance(key, rsa.RSAPrivateKey):  # as large as RSA-4096 makes it, without the wait
        builder = builder.add_extension(
            x509.UnrecognizedExtension(PADDING, bytes(1024)), critical=False
        )
    if usage is not None:
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer.key if issuer else key, SHA256())


def root_of(key: CertificateKey, name: str = "root") -> Issuer:
    return Issuer(key, issued(None, name, key, None, is_expired=False))


def small_key() -> CertificateKey:
    return ec.generate_private_key(ec.SECP256R1())


ROOT = root_of(small_key())
MIDDLE = ROOT.issue("middle", small_key())
LEAF = MIDDLE.issue(NAME, small_key(), SERVING)
FOREIGN = root_of(small_key(), "stranger")


def chain(*entries: Issuer) -> Certificate:
    return Certificate(tuple(entry.certificate for entry in entries), entries[0].key)


async def over_quic(certificate: Certificate, trust: Trust) -> None:
    listener = await listen_datagrams(LOOPBACK, CertificateSlot(certificate), OPTIONS)
    try:
        connection = await DIALERS["quic"](listener.address, trust, OPTIONS, None)
        (await listener.accept()).close()
        connection.close()
    finally:
        await listener.close()


async def over_http2(certificate: Certificate, trust: Trust) -> None:
    listener = TcpListener(LOOPBACK)

    async def accept() -> Connection | None:
        try:
            return await accept_socket(
                await listener.accept(), CertificateSlot(certificate), OPTIONS
            )
        except ConnectionLost:
            return None  # the client did not like the certificate

    try:
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(accept())
            dialled = await asyncio.gather(
                DIALERS["h2"](listener.address, trust, OPTIONS, None), return_exceptions=True
            )
        for connection in (accepting.result(), *dialled):
            if isinstance(connection, BaseException):
                raise connection
            if connection is not None:
                connection.close()
                await connection.wait_closed()
    finally:
        listener.close()


TRANSPORTS: Mapping[str, Callable[[Certificate, Trust], Awaitable[None]]] = {
    "quic": over_quic,
    "h2": over_http2,
}
on_both_transports = pytest.mark.parametrize("transport", TRANSPORTS)


def dial(transport: str, certificate: Certificate, trust: Trust) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await TRANSPORTS[transport](certificate, trust)

    asyncio.run(bounded(), debug=True)


def trust_in(directory: Path, *roots: Issuer, name: str = NAME) -> Trust:
    path = directory / "ca.pem"
    path.write_bytes(b"".join(root.certificate.public_bytes(Encoding.PEM) for root in roots))
    return Trust(name, ca=path)


@on_both_transports
@pytest.mark.parametrize("root", [ROOT, MIDDLE, LEAF], ids=["root", "intermediate", "leaf"])
def test_any_certificate_of_the_chain_may_be_the_root(
    tmp_path: Path, transport: str, root: Issuer
) -> None:
    dial(transport, chain(LEAF, MIDDLE), trust_in(tmp_path, root))


@on_both_transports
@pytest.mark.parametrize(
    ("certificate", "says"),
    [
        (chain(LEAF), "unable to get local issuer certificate"),
        (chain(FOREIGN.issue(NAME, small_key(), SERVING)), "unable to get local issuer"),
        (
            chain(MIDDLE.issue("other.test", small_key(), SERVING), MIDDLE),
            "(?i)other.test|mismatch",
        ),
        (chain(MIDDLE.issue(NAME, small_key(), BEING_SERVED), MIDDLE), "(?i)purpose"),
        (chain(MIDDLE.issue(NAME, small_key(), SERVING, is_expired=True), MIDDLE), "has expired"),
    ],
    ids=["no intermediate", "another issuer", "another name", "another purpose", "expired"],
)
def test_a_relay_that_is_not_the_one_dialled_is_refused(
    tmp_path: Path, transport: str, certificate: Certificate, says: str
) -> None:
    with pytest.raises(DialFailed, match=says):
        dial(transport, certificate, trust_in(tmp_path, ROOT))


@on_both_transports
def test_a_chain_of_large_keys_fits_through_the_handshake(tmp_path: Path, transport: str) -> None:
    keys = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]
    root = root_of(keys[0])
    first = root.issue("first", keys[1])
    second = first.issue("second", keys[1])
    certificate = chain(second.issue(NAME, keys[1], SERVING), second, first)
    sizes = [len(entry.public_bytes(Encoding.DER)) for entry in certificate.chain]
    assert sum(sizes) > 3 * 1350  # what a relay may send to an address that has not answered
    dial(transport, certificate, trust_in(tmp_path, root))
