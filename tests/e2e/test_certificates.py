"""Certificates by ACME from nothing: relay, client and a visitor who trusts the authority alone."""

import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.e2e.authorities import ISSUED, Realm, new_realm
from tests.e2e.targets import echo, greet, sockets
from tests.e2e.visitors import request, tls
from tests.e2e.world import SUFFIX, TRANSPORTS, Client, Relay, World
from tunnel.tls.certificates import dns_names

pytestmark = pytest.mark.timeout(60)  # a program that does not start says so after 20 s

EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.65535.1")
INTERIM = "self-signed until the first certificate"
REFUSED = "refused until the first certificate"
RETRY_TIMEOUT = 90.0  # seconds; the first retry comes after one minute


@pytest.fixture
def realm(world: World, tmp_path: Path) -> Iterator[Realm]:
    with new_realm(world, tmp_path / "authority") as made:
        yield made


def fetch(realm: Realm, relay: Relay, client: Client, host: str | None = None) -> str:
    """Return the page as a visitor gets it who trusts nobody but the authority."""
    with tls(relay, client, host, context=realm.trust()) as sock:
        return request(sock, "/", host or client.host).body.decode()


def names_of(file: Path) -> frozenset[str]:
    return dns_names(x509.load_pem_x509_certificate(file.read_bytes()))


@pytest.mark.parametrize(
    ("flags", "kind", "transport"),
    [
        ([], "public", "quic"),
        (["--force-h2"], "public", "h2"),
        (["--force-h2"], "shared", "h2"),
    ],
)
def test_from_nothing_to_a_page_for_whom_trusts_the_authority_alone(
    realm: Realm, target: str, flags: list[str], kind: str, transport: str
) -> None:
    relay = realm.relay_with_name(kind)
    port = realm.port if kind == "shared" else relay.agents_port
    client = realm.client_by_name(port, *flags, target=target)
    client.process.wait_for(ISSUED)
    client.process.wait_for(f"connected .*transport={transport}")
    assert fetch(realm, relay, client) == "hello through the tunnel\n"


def test_each_name_has_a_certificate_of_its_own(realm: Realm, target: str) -> None:
    key = realm.world.ask("client", "keygen", "client.key")
    grant = f'fingerprint = "{key["fingerprint"]}"\nsuffixes = ["{SUFFIX}"]'
    stanza = f'[clients.shop]\n{grant}\nnames = ["shop.example.com"]\n'
    relay = realm.relay(suffix='access = "listed"', extra=stanza)
    client = realm.client(relay, target=target, endpoint='names = ["shop.example.com"]')
    names = {client.host, "shop.example.com"}
    for name in names:
        client.process.wait_for(f"certificate issued .*names={re.escape(name)} ")
        assert fetch(realm, relay, client, name)
    assert {names_of(file) for file in client.state.rglob("acme/*/*.pem")} == {
        frozenset({name}) for name in names
    }
    assert realm.orders() == len(names)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_second_endpoint_is_served_beside_the_first_one(realm: Realm, transport: str) -> None:
    with sockets(greet("of web")) as web, sockets(greet("of pinned")) as pinned:
        relay = realm.relay()
        client = realm.client(
            relay,
            target=web,
            options=f'transport = "{transport}"',
            extra=(
                '[keypairs.secondary]\nfile = "client2.key"\n[endpoints.pinned]\n'
                f'keypair = "secondary"\nsuffix = "{SUFFIX}"\ntarget = "{pinned}"\n'
                'certificate = "self-signed"\ncertificate_extension_hex = "00deadbeef"\n'
            ),
        )
        rows = realm.world.ask("client", "id", "-c", str(client.settings))["endpoints"]
        host = {row["endpoint"]: row["url"].removeprefix("https://") for row in rows}
        for each in host.values():
            client.process.wait_for(f"URL: https://{each}:{relay.public_port}")
        client.process.wait_for(ISSUED)
        assert fetch(realm, relay, client, host["web"]) == "of web"
        with tls(relay, client, host["pinned"]) as sock:
            shown = x509.load_der_x509_certificate(sock.getpeercert(binary_form=True) or b"")
            assert request(sock, "/", host["pinned"]).body == b"of pinned"
        extension = shown.extensions.get_extension_for_oid(EXTENSION).value
        assert extension.public_bytes() == bytes.fromhex("00deadbeef")
        assert realm.orders() == 1
    client.process.wait_for(f"connected .*keypair=primary .*transport={transport}")
    client.process.wait_for(f"connected .*keypair=secondary .*transport={transport}")


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_until_the_authority_answers_visitors_meet_a_self_signed_certificate(
    realm: Realm,
) -> None:
    trust = realm.trust()
    with sockets(echo) as target:
        relay = realm.relay()
        realm.authority.pause()
        client = realm.client(relay, target=target)
        host = client.host
        client.process.wait_for(f'endpoint state .*name={host} certificate="{INTERIM}"')
        with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
            tls(relay, client, host, context=trust)
        with tls(relay, client, host, context=unverified()) as early:
            assert echoed(early, b"before")
            realm.authority.resume()
            client.process.wait_for(f"endpoint state .*name={host} certificate=valid")
            with tls(relay, client, host, context=trust) as late:
                assert echoed(late, b"after")
            assert echoed(early, b"still there")


def test_until_the_authority_answers_visitors_are_refused_where_that_is_wanted(
    realm: Realm, target: str
) -> None:
    trust = realm.trust()
    relay = realm.relay()
    realm.authority.pause()
    client = realm.client(relay, target=target, endpoint='before_certificate = "refuse"')
    host = client.host
    client.process.wait_for(f'endpoint state .*name={host} certificate="{REFUSED}"')
    with pytest.raises(ssl.SSLError, match="TLSV1_ALERT_INTERNAL_ERROR"):
        tls(relay, client, host, context=unverified())
    realm.authority.resume()
    client.process.wait_for(f"endpoint state .*name={host} certificate=valid")
    with tls(relay, client, host, context=trust) as sock:
        assert request(sock, "/", host).status == 200


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_an_authority_that_is_down_is_asked_again(realm: Realm, target: str) -> None:
    relay = realm.relay()
    realm.authority.stop()
    client = realm.client(relay, target=target)
    failure = client.process.wait_for("certificate not issued .*")[0]
    assert failure.count("\n") == 0
    assert re.search(r"retry_in=(59|6[0-6])", failure)
    realm.authority.start()
    client.process.wait_for(ISSUED, RETRY_TIMEOUT)
    assert fetch(realm, relay, client)
    assert client.process.logged().count("certificate not issued") == 1


def echoed(sock: ssl.SSLSocket, sent: bytes) -> bool:
    """Return whether the service sends back what it is sent."""
    sock.sendall(sent)
    received = b""
    while len(received) < len(sent) and (part := sock.recv(1 << 14)):
        received += part
    return received == sent
