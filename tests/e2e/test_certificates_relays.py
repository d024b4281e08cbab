"""Orders that several relays take part in, and what may break off while one is under way."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest

from tests.acme_front import FINALIZE_PATH, NEW_ORDER_PATH, Reply
from tests.e2e.authorities import (
    CHALLENGE_PATH,
    ISSUED,
    Gate,
    Realm,
    new_fronted_realm,
    new_gated_realm,
)
from tests.e2e.visitors import request, tls
from tests.e2e.world import SUFFIX, Client, Relay, World

pytestmark = pytest.mark.timeout(60)  # a program that does not start says so after 20 s

READY_TO_ORDER = "account made"  # relays are asked next
HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
PATIENT = '[timeouts]\nheartbeat = "30s"\n'  # a relay that is held up counts as connected
WATCHFUL = '[timeouts]\nheartbeat = "1s"\n'  # one that was killed is missed soon
LOOKING = 1.5  # seconds in which what must not happen would have
RETRY_TIMEOUT = 90.0  # seconds; the first retry comes after one minute


@pytest.fixture
def realm(world: World, tmp_path: Path) -> Iterator[Realm]:
    with new_fronted_realm(world, tmp_path / "authority") as made:
        yield made


@pytest.fixture
def gated(world: World, tmp_path: Path) -> Iterator[tuple[Realm, Gate]]:
    with new_gated_realm(world, tmp_path / "authority") as made:
        yield made


def three_relays(realm: Realm, extra: str = PATIENT) -> list[Relay]:
    return [realm.relay(f"r{n}", host=host, extra=extra) for n, host in enumerate(HOSTS, 1)]


def endpoint(name: str, target: str) -> str:
    """Return one more endpoint with a keypair of its own, as TOML."""
    return (
        f'[keypairs.{name}]\nfile = "{name}.key"\n[endpoints.{name}]\nkeypair = "{name}"\n'
        f'suffix = "{SUFFIX}"\ntarget = "{target}"\ncertificate = "acme"\n'
    )


def hosts(client: Client) -> list[str]:
    """Return the names that a client will serve."""
    rows = client.world.ask("client", "id", "-c", str(client.settings))["endpoints"]
    return [row["url"].removeprefix("https://") for row in rows]


def start_before_the_authority(
    realm: Realm, *relays: Relay, target: str, extra: str = PATIENT, options: str = ""
) -> Client:
    """Return a client whose relays are all there, while the authority is not: `resume` it."""
    realm.authority.pause()
    client = realm.client(*relays, target=target, extra=extra, options=options)
    for relay in relays:
        client.process.wait_for(f"serving server={relay.name} ")
    return client


def is_served(realm: Realm, relay: Relay, client: Client, host: str | None = None) -> bool:
    with tls(relay, client, host, context=realm.trust()) as sock:
        return request(sock, "/").status == 200


def test_an_authority_may_be_led_to_any_relay(realm: Realm, target: str) -> None:
    relays = three_relays(realm)
    more = PATIENT + endpoint("second", target) + endpoint("third", target)
    client = start_before_the_authority(realm, *relays, target=target, extra=more)
    names = hosts(client)
    for name, where in zip(names, HOSTS, strict=True):
        realm.authority.dns.add_a(name, where)
    realm.authority.resume()
    for name in names:
        client.process.wait_for(f"certificate issued .*names={name} ")
        for relay in relays:
            assert is_served(realm, relay, client, name)
    assert realm.orders() == client.process.logged().count("certificate issued") == len(names)


def test_nothing_is_ordered_before_every_relay_has_confirmed(realm: Realm, target: str) -> None:
    relays = three_relays(realm)
    client = start_before_the_authority(realm, *relays, target=target)
    realm.authority.dns.add_a(client.host, *HOSTS)
    relays[2].process.signal(SIGSTOP)
    realm.authority.resume()
    client.process.wait_for(READY_TO_ORDER)
    time.sleep(LOOKING)
    assert realm.orders() == 0
    relays[2].process.signal(SIGCONT)
    client.process.wait_for(ISSUED)
    assert realm.asked(CHALLENGE_PATH) == 1
    assert realm.orders() == 1


@pytest.mark.parametrize(
    ("transport", "is_killed"),
    [("h2", False), ("h2", True), pytest.param("quic", True, marks=pytest.mark.slow)],
    ids=["another", "the one waited for", "missed by its heartbeat alone"],
)
def test_a_relay_killed_while_the_others_confirm_is_done_without(
    realm: Realm, target: str, transport: str, is_killed: bool
) -> None:
    first, second, third = relays = three_relays(realm, WATCHFUL)
    options = f'transport = "{transport}"'
    client = start_before_the_authority(
        realm, *relays, target=target, extra=WATCHFUL, options=options
    )
    realm.authority.dns.add_a(client.host, HOSTS[0])
    third.process.signal(SIGSTOP)
    realm.authority.resume()
    client.process.wait_for(READY_TO_ORDER)
    (third if is_killed else second).process.kill()
    if not is_killed:
        third.process.signal(SIGCONT)
    client.process.wait_for(ISSUED)
    assert is_served(realm, first, client)
    assert realm.orders() == 1


@pytest.mark.slow
def test_a_relay_that_joins_while_others_confirm_is_asked_too(realm: Realm, target: str) -> None:
    first, second, third = three_relays(realm)
    third.process.kill()
    realm.authority.pause()
    client = realm.client(first, second, third, target=target, extra=PATIENT)
    for relay in (first, second):
        client.process.wait_for(f"serving server={relay.name} ")
    realm.authority.dns.add_a(client.host, HOSTS[2])
    second.process.signal(SIGSTOP)
    realm.authority.resume()
    client.process.wait_for(READY_TO_ORDER)
    third.restart()
    client.process.wait_for("serving server=r3 ", 9.0)
    second.process.signal(SIGCONT)
    client.process.wait_for(ISSUED)
    assert is_served(realm, third, client)
    assert realm.orders() == 1


@pytest.mark.parametrize("path", [CHALLENGE_PATH, FINALIZE_PATH])
def test_the_order_of_a_client_that_was_killed_is_resumed(
    realm: Realm, target: str, path: str
) -> None:
    assert realm.front is not None
    realm.front.plan(Reply(hangs=True, after=path == FINALIZE_PATH), path)
    relay = realm.relay()
    # Its end is seen at once; over QUIC it is missed first, and puts its successor off meanwhile.
    client = realm.client(relay, target=target, options='transport = "h2"')
    realm.wait_for_asked(path)
    client.process.kill()
    drafts = list(client.state.rglob("*.order"))
    client.restart()
    client.process.wait_for(ISSUED)
    assert is_served(realm, relay, client)
    assert (len(drafts), realm.asked(NEW_ORDER_PATH)) == (1, 1)
    assert not list(client.state.rglob("*.order"))


def test_a_connection_lost_before_the_validation_comes_is_made_anew_in_time(
    gated: tuple[Realm, Gate], target: str
) -> None:
    realm, gate = gated
    relay = realm.world.relay()
    client = realm.client(relay, target=target, options='transport = "h2"')
    assert gate.arrived.wait(10)
    host = client.host
    relay.process.kill()
    relay.restart()
    client.process.wait_for(r"(?s)journal serving .*journal serving ")
    gate.open(relay)
    client.process.wait_for(ISSUED)
    assert is_served(realm, relay, client, host)
    assert realm.orders() == 1


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_only_relay_killed_before_the_validation_comes_costs_one_retry(
    gated: tuple[Realm, Gate], target: str
) -> None:
    realm, gate = gated
    relay = realm.world.relay()
    client = realm.client(relay, target=target)
    assert gate.arrived.wait(10)
    relay.process.kill()
    gate.open(relay)
    failure = client.process.wait_for("certificate not issued .*", 30)[0]
    relay.restart()
    client.process.wait_for(ISSUED, RETRY_TIMEOUT)
    assert re.search(rf'names={client.host} cause=".*{client.host}: .*" retry_in=6[0-6]', failure)
    assert is_served(realm, relay, client)
    assert realm.orders() == 2


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_relay_that_does_not_confirm_postpones_the_order(realm: Realm, target: str) -> None:
    relays = three_relays(realm)
    client = start_before_the_authority(realm, *relays, target=target)
    relays[1].process.signal(SIGSTOP)
    realm.authority.resume()
    said = client.process.wait_for("certificate not ordered .*")[0]
    relays[1].process.signal(SIGCONT)
    assert realm.asked(CHALLENGE_PATH) == 0
    assert f"relay r2 did not confirm the validation of {client.host} within 10 s" in said
    realm.authority.dns.add_a(client.host, HOSTS[1])
    client.process.wait_for(ISSUED, RETRY_TIMEOUT)
    assert realm.orders() == 1
