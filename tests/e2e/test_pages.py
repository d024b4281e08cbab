"""Pages through the tunnel over each transport: small ones, large ones, and none at all."""

import hashlib
import re
import ssl
from contextlib import closing

import pytest

from tests.e2e.ends import Ending, TlsEnd
from tests.e2e.targets import pattern
from tests.e2e.tunnels import Tunnel
from tests.e2e.visitors import get, post, request, tcp, tls
from tests.e2e.world import TRANSPORTS, World
from tests.ports import free_port

pytestmark = pytest.mark.timeout(60)  # hundreds of MiB, half the work is the test's own

MIB = 1 << 20
DEBUG = '[log]\nlevel = "debug"\n'


def test_a_page_comes_over_the_transport_asked_for(tunnel: Tunnel) -> None:
    assert get(tunnel.relay, tunnel.client).body == b"hello through the tunnel\n"
    transports = re.findall(r" connected .*transport=(\w+)", tunnel.client.process.logged())
    assert set(transports) == {tunnel.transport}


def test_a_download_is_byte_exact(tunnel: Tunnel) -> None:
    size = 50 * MIB
    assert get(tunnel.relay, tunnel.client, f"/bytes/{size}").body == pattern(size)


def test_an_upload_is_byte_exact(tunnel: Tunnel) -> None:
    body = pattern(20 * MIB)
    answer = post(tunnel.relay, tunnel.client, [body], len(body))
    assert answer.body.decode() == hashlib.sha256(body).hexdigest()


def test_a_connection_serves_one_page_after_the_other(tunnel: Tunnel) -> None:
    with tls(tunnel.relay, tunnel.client) as sock, sock.makefile("rb") as lines:
        for size in range(1000, 1050):
            sock.sendall(f"GET /bytes/{size} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            while lines.readline() != b"\r\n":
                pass
            assert lines.read(size) == pattern(size)


def test_256_mib_go_up_over_http2(world: World, target: str) -> None:
    relay = world.relay()
    client = world.client(relay, target=target, options='transport = "h2"')
    piece, count = pattern(MIB), 256
    answer = post(relay, client, (piece for _ in range(count)), count * MIB)
    expected = hashlib.sha256()
    for _ in range(count):
        expected.update(piece)
    assert answer.body.decode() == expected.hexdigest()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_browser_is_told_that_the_service_is_down(world: World, transport: str) -> None:
    relay = world.relay()
    target = f"127.0.0.1:{free_port()}"
    client = world.client(relay, target=target, options=f'transport = "{transport}"')
    with tls(relay, client, alpn=("h2", "http/1.1")) as sock:
        answer = request(sock, "/")
    assert (answer.status, answer.headers["connection"]) == (502, "close")
    assert b"the service behind it did not answer" in answer.body


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("protocols", [[], ["h2"]], ids=["no ALPN", "h2"])
def test_who_does_not_ask_in_http1_is_cut_when_the_service_is_down(
    world: World, transport: str, protocols: list[str]
) -> None:
    relay = world.relay()
    client = world.client(
        relay,
        target=f"127.0.0.1:{free_port()}",
        options=f'transport = "{transport}"',
        endpoint='alpn = ["h2", "http/1.1"]',
    )
    host = client.host
    context = client.trust()
    context.set_alpn_protocols(protocols)
    with closing(TlsEnd(tcp(relay), context, host)) as visitor:
        visitor.shake_hands()
        if not protocols:  # else it is cut at once: by ALPN it cannot be told in HTTP/1.1
            visitor.send(b"SSH-2.0-visitor\r\n")
        assert visitor.ending() is Ending.CUT


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_brings_tls_to_a_service_that_is_down_is_cut(world: World, transport: str) -> None:
    relay = world.relay(extra=DEBUG)
    client = world.client(
        relay,
        target=f"127.0.0.1:{free_port()}",
        options=f'transport = "{transport}"',
        endpoint='certificate = "passthrough"',
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    host = client.host
    with closing(TlsEnd(tcp(relay), context, host)) as visitor:
        visitor.shake_hands()
        assert visitor.seen is Ending.CUT
    relay.process.wait_for("visitor not served .*target_down")
