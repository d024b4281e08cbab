"""What the settings of an endpoint change for its visitors and for its target."""

import re
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
import trustme
from cryptography import x509

from tests.e2e.ends import PlainEnd
from tests.e2e.targets import greet, greet_over_tls, sockets
from tests.e2e.visitors import get, request, tcp, tls
from tests.e2e.world import SUFFIX, Client, Relay, World

pytestmark = pytest.mark.timeout(60)  # a program that does not start says so after 20 s

V2_START = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"  # PROXY over TCP and IPv4, 12 bytes follow
ELSEWHERE = "127.0.0.2"  # another visitor's address on this machine


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def hosts(client: Client) -> dict[str, str]:
    """Return the host name of each endpoint, once all of them are served."""
    rows = client.world.ask("client", "id", "-c", str(client.settings))["endpoints"]
    named = {row["endpoint"]: row["url"].removeprefix("https://") for row in rows}
    for host in named.values():
        client.process.wait_for(f"URL: https://{host}")
    return named


def endpoint(name: str, target: str, rest: str) -> str:
    """Return one more endpoint with a keypair of its own, as TOML."""
    return (
        f'[keypairs.{name}]\nfile = "{name}.key"\n[endpoints.{name}]\nkeypair = "{name}"\n'
        f'suffix = "{SUFFIX}"\ntarget = "{target}"\n{rest}\n'
    )


@pytest.fixture
def apart(world: World, tmp_path: Path, authority: trustme.CA) -> Iterator[tuple[Relay, Client]]:
    """Return a client that serves `web` and `other` itself, `files` and `passed` by `authority`."""
    issued = authority.issue_cert(f"*.{SUFFIX}")
    issued.private_key_pem.write_to_path(str(tmp_path / "files.pem"))
    (tmp_path / "files.pem").chmod(0o600)
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    files = 'certificate = "files"\nchain_file = "chain.pem"\nkey_file = "files.pem"'
    with (
        sockets(greet("of web")) as web,
        sockets(greet("of other")) as other,
        sockets(greet("of files")) as third,
        sockets(greet_over_tls("of passed", context)) as fourth,
    ):
        relay = world.relay()
        more = [
            endpoint("other", other, 'certificate = "self-signed"'),
            endpoint("files", third, files),
            endpoint("passed", fourth, 'certificate = "passthrough"'),
        ]
        yield relay, world.client(relay, target=web, extra="".join(more))


def test_endpoints_of_one_process_have_their_own_names_targets_and_certificates(
    apart: tuple[Relay, Client], authority: trustme.CA
) -> None:
    relay, client = apart
    named = hosts(client)
    trust = {"web": client.trust(), "other": client.trust()}
    answers = {}
    for name, host in named.items():
        with tls(relay, client, host, context=trust.get(name, trusting(authority))) as sock:
            answers[name] = request(sock, "/", host).body.decode()
    assert answers == {name: f"of {name}" for name in ("web", "other", "files", "passed")}


def test_standard_output_has_one_pair_for_each_endpoint_and_nothing_else(
    apart: tuple[Relay, Client],
) -> None:
    relay, client = apart
    named = hosts(client)
    pairs = re.findall(r"ID: (\w+)\nURL: (\S+)\n", client.process.printed())
    port = relay.public_port
    assert sorted(pairs) == sorted((h.split(".")[0], f"https://{h}:{port}") for h in named.values())
    assert len(client.process.printed().splitlines()) == 2 * len(pairs)


def test_a_custom_name_is_served_where_the_relay_grants_it(world: World, target: str) -> None:
    key = world.ask("client", "keygen", "client.key")
    grant = f'fingerprint = "{key["fingerprint"]}"\nsuffixes = ["{SUFFIX}"]'
    relay = world.relay(
        suffix='access = "listed"',
        extra=f'[clients.shop]\n{grant}\nnames = ["shop.example.com", "*.shop.example.com"]',
    )
    client = world.client(
        relay, target=target, endpoint='names = ["shop.example.com", "de.shop.example.com"]'
    )
    for host in (client.host, "shop.example.com", "de.shop.example.com"):
        client.process.wait_for(f" serving .*name={host}")
        assert get(relay, client, host=host).status == 200


def test_a_custom_name_that_was_not_granted_is_refused_alone(world: World, target: str) -> None:
    relay = world.relay()
    client = world.client(relay, target=target, endpoint='names = ["shop.example.com"]')
    assert get(relay, client).status == 200
    client.process.wait_for("refused by the relay .*code=name_refused .*name=shop.example.com")
    with pytest.raises(ssl.SSLError, match="TLSV1_UNRECOGNIZED_NAME"):
        get(relay, client, host="shop.example.com")


@pytest.mark.parametrize(
    "rule",
    [
        f'allow = ["{ELSEWHERE}/32"]',
        'deny = ["127.0.0.1/32"]',
        'allow = ["127.0.0.0/8"]\ndeny = ["127.0.0.1/32"]',
    ],
    ids=["allow", "deny", "deny beats allow"],
)
def test_visitors_are_let_in_by_their_address(world: World, target: str, rule: str) -> None:
    relay = world.relay()
    client = world.client(relay, target=target, endpoint=rule)
    with tls(relay, client, source=ELSEWHERE) as sock:
        assert request(sock, "/").status == 200
    with pytest.raises(ConnectionResetError):
        tls(relay, client)


def test_visitors_show_a_certificate_where_one_is_required(
    world: World, target: str, tmp_path: Path, authority: trustme.CA
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "people.pem"))
    relay = world.relay()
    client = world.client(relay, target=target, endpoint='visitor_ca = "people.pem"')
    client.process.wait_for("URL: ")
    assert _visit_as(authority.issue_cert("me@t.test"), relay, client) == 200
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        _visit_as(None, relay, client)
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        _visit_as(trustme.CA().issue_cert("me@t.test"), relay, client)


def _visit_as(person: trustme.LeafCert | None, relay: Relay, client: Client) -> int:
    context = client.trust()
    if person is not None:
        person.configure_cert(context)
    with tls(relay, client, context=context) as sock:
        return request(sock, "/").status


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_target_is_told_the_visitors_address(world: World, version: str) -> None:
    heard: Queue[bytes] = Queue()
    with sockets(greet("hello", heard)) as target:
        relay = world.relay()
        client = world.client(relay, target=target, endpoint=f'proxy_protocol = "{version}"')
        with tls(relay, client, source=ELSEWHERE) as sock:
            visitor = sock.getsockname()
            assert request(sock, "/").body == b"hello"
    assert heard.get_nowait() == _proxy_header(version, visitor, ("127.0.0.1", relay.public_port))


def _proxy_header(version: str, source: tuple[str, int], to: tuple[str, int]) -> bytes:
    if version == "v1":
        return f"PROXY TCP4 {source[0]} {to[0]} {source[1]} {to[1]}\r\n".encode()
    hosts = socket.inet_aton(source[0]) + socket.inet_aton(to[0])
    return V2_START + hosts + struct.pack("!HH", source[1], to[1])


def test_the_relay_believes_a_listed_balancer_and_nobody_else(world: World) -> None:
    heard: Queue[bytes] = Queue()
    drop_in = world.folder / "relay.toml.d" / "balancer.toml"
    drop_in.parent.mkdir()
    drop_in.write_text(f'[listeners.public]\nproxy_protocol_from = ["{ELSEWHERE}/32"]\n')
    with sockets(greet("hello", heard)) as target:
        relay = world.relay()
        client = world.client(relay, target=target, endpoint='proxy_protocol = "v1"')
        host = client.host
        claim = b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 443\r\n"
        with tcp(relay, source=ELSEWHERE) as plain:
            plain.sendall(claim)
            with client.trust().wrap_socket(plain, server_hostname=host) as sock:
                assert request(sock, "/", host).status == 200
        assert heard.get_nowait() == claim
        with tcp(relay) as plain:
            plain.sendall(claim)
            PlainEnd(plain).ending()
        assert heard.empty()


def test_a_target_may_be_a_unix_socket(world: World, tmp_path: Path) -> None:
    with sockets(greet("by path"), tmp_path / "app.sock") as target:
        relay = world.relay()
        assert get(relay, world.client(relay, target=target)).body == b"by path"


def test_the_extension_is_in_the_certificate(world: World, target: str) -> None:
    relay = world.relay()
    client = world.client(relay, target=target, endpoint='certificate_extension_hex = "00deadbeef"')
    with tls(relay, client) as sock:
        seen = sock.getpeercert(binary_form=True)
    assert seen is not None
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.65535.1")
    extension = x509.load_der_x509_certificate(seen).extensions.get_extension_for_oid(oid)
    assert extension.value.public_bytes() == bytes.fromhex("00deadbeef")


def test_name_and_certificate_outlive_the_process(world: World, target: str) -> None:
    relay = world.relay()
    client = world.client(relay, target=target)
    host, trust = client.host, client.trust()
    client.process.stop()
    client.restart()
    client.process.wait_for("URL: ")
    with tls(relay, client, host, context=trust) as sock:
        assert request(sock, "/").status == 200
