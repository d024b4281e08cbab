"""Certificates that are renewed again and again while visitors and clients come and stay."""

import re
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.audience import audience, dial
from tests.e2e.authorities import Realm, new_realm
from tests.e2e.visitors import tls
from tests.e2e.world import SUFFIX, TRANSPORTS, Client, Process, Relay, World
from tunnel.tls.slots import pin_of_certificate

RELAY_NAME = "relay.test"
ISSUED = re.compile(r"certificate issued .*not_after=(\S+)")


class Course(NamedTuple):
    """How long each certificate is valid, in seconds, and how often it is renewed."""

    validity: int
    renewals: int


ONCE = pytest.param(Course(10, 1), marks=pytest.mark.timeout(90), id="1 in a row")
FIVE_TIMES = pytest.param(
    Course(60, 5), marks=[pytest.mark.slow, pytest.mark.timeout(300)], id="5 in a row"
)


@pytest.fixture
def realm(world: World, tmp_path: Path, course: Course) -> Iterator[Realm]:
    with new_realm(world, tmp_path / "authority", validity=course.validity) as made:
        yield made


def own(realm: Realm, more: str = "") -> str:
    """Return the TOML by which a relay orders a certificate of its own."""
    return f'{realm.acme}[certificate]\nmode = "acme"\nnames = ["{RELAY_NAME}"]\n{more}\n'


def issued(process: Process, count: int, timeout: float) -> float:
    """Wait for that many certificates and return when the last one ends, in seconds since 1970."""
    deadline = time.monotonic() + timeout
    while len(found := ISSUED.findall(process.logged())) < count:
        assert process.popen.poll() is None, f"{process.name} ended"
        assert time.monotonic() < deadline, f"{process.name}: {len(found)} of {count} certificates"
        time.sleep(0.02)
    return datetime.fromisoformat(found[count - 1]).timestamp()


def end_shown(sock: ssl.SSLSocket) -> float:
    """Return when the certificate ends that a visitor was shown."""
    shown = sock.getpeercert()
    assert shown is not None
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


@pytest.mark.parametrize("course", [ONCE, FIVE_TIMES])
def test_visitors_notice_nothing_of_a_clients_renewals(
    realm: Realm, course: Course, target: str
) -> None:
    relay = realm.relay()
    clients = [
        realm.client(relay, target=target, name=name, options=f'transport = "{name}"')
        for name in TRANSPORTS
    ]
    for client in clients:
        issued(client.process, 1, 20)
    trust = realm.trust()
    with ExitStack() as stack:
        seen = [stack.enter_context(audience(relay, each, trust)) for each in clients]
        for renewal in range(1, course.renewals + 1):
            for client in clients:
                end = issued(client.process, 1 + renewal, course.validity)
                with tls(relay, client, context=trust) as sock:
                    assert end_shown(sock) == end
    for each in seen:
        each.check_content(1 + course.renewals)


def dialled(realm: Realm, relay: Relay, target: str, transport: str) -> Process:
    """Return a client, just started, that trusts the relay by its name and the authority alone."""
    folder = realm.world.folder
    (folder / "issuing.pem").write_text(realm.authority.issuing_roots())
    settings = folder / f"named-{transport}.toml"
    settings.write_text(
        f'[client]\nstate_dir = "named-{transport}"\ntransport = "{transport}"\n'
        f'[servers.relay]\naddress = "127.0.0.1:{relay.agents_port}"\n'
        f'server_name = "{RELAY_NAME}"\nca = "issuing.pem"\n'
        f'[keypairs.primary]\nfile = "named-{transport}.key"\n'
        f'[endpoints.web]\nkeypair = "primary"\nsuffix = "{SUFFIX}"\ntarget = "{target}"\n'
    )
    return realm.world.run("client", settings, f"named-{transport}")


@pytest.mark.slow
@pytest.mark.parametrize("course", [ONCE, FIVE_TIMES])
def test_clients_live_on_while_their_relay_renews(
    world: World, realm: Realm, course: Course, target: str
) -> None:
    relay = realm.relay(extra=own(realm))
    pin = relay.pin
    clients = [
        world.client(relay, target=target, name=name, options=f'transport = "{name}"')
        for name in TRANSPORTS
    ]
    issued(relay.process, 1, 20)
    with ExitStack() as stack:
        seen = [stack.enter_context(audience(relay, each, _trust(each))) for each in clients]
        for renewal in range(1, course.renewals + 1):
            end = issued(relay.process, 1 + renewal, course.validity)
            leaf = dial(relay, realm.trust(), RELAY_NAME)
            assert leaf.not_valid_after_utc.timestamp() == end
            assert f"sha256:{pin_of_certificate(leaf).hex()}" == pin
        for transport in TRANSPORTS:
            dialled(realm, relay, target, transport).wait_for(f"connected .*transport={transport}")
    for client, each in zip(clients, seen, strict=True):
        each.check_content(1)  # of their own, which nobody has renewed
        assert "disconnected" not in client.process.logged()


def _trust(client: Client) -> ssl.SSLContext:
    """Return the context of somebody who trusts the client's own certificate, once it is there."""
    assert client.host
    return client.trust()


@pytest.mark.slow
@pytest.mark.parametrize("course", [ONCE])
def test_a_renewal_with_a_new_key_changes_the_pin(
    realm: Realm, course: Course, target: str
) -> None:
    relay = realm.relay(extra=own(realm, "keep_key = false"))
    issued(relay.process, 1, 20)
    first = dial(relay, realm.trust(), RELAY_NAME)
    connected = dialled(realm, relay, target, "quic")
    connected.wait_for("connected .*transport=quic")
    issued(relay.process, 2, course.validity)
    assert pin_of_certificate(dial(relay, realm.trust(), RELAY_NAME)) != pin_of_certificate(first)
    dialled(realm, relay, target, "h2").wait_for("connected .*transport=h2")
    assert "disconnected" not in connected.logged()
