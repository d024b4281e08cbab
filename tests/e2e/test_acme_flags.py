"""Certificates ordered by flags alone, as users of the original do, and what they bring along."""

import json
import os
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from tests.acme_front import NEW_ORDER_PATH
from tests.e2e.authorities import ISSUED, Realm, new_realm
from tests.e2e.visitors import TIMEOUT, request, tls
from tests.e2e.world import ROOT, SUFFIX, Client, Relay, World, new_world, program
from tests.integration.acme.steps import authority
from tests.ports import free_port
from tunnel.transport.options import ALPN_HTTP2

pytestmark = pytest.mark.timeout(60)  # a program that does not start says so after 20 s

EMAIL = "ops@example.org"
RELAY_NAME = "relay.test"
RENEW_DAYS = 30


@dataclass(frozen=True)
class Quick:
    """An authority, and a relay and clients that are started by flags alone."""

    realm: Realm
    relay: Relay

    def client(self, world: World, target: str, *flags: str) -> Client:
        """Start a client by the line that the relay has printed, with these flags beside."""
        line = self.relay.process.wait_for(r"Client: client\.pyz (.+)")[1]
        wanted = line.replace("--local 3000", f"--local {target}").split()
        process = world.start("client", "client", *wanted, *ordering(self.realm), *flags)
        state = world.folder / "state" / "tunnel-client"
        return Client(world, "client", world.folder, state, process)

    def visit(self, client: Client, context: ssl.SSLContext) -> None:
        """Fetch a page, if the certificate that it comes with is one for `context`."""
        with tls(self.relay, client, context=context) as sock:
            assert request(sock, "/").status == 200

    def accounts(self) -> int:
        """Return how many accounts the authority has."""
        return int(re.findall(r"There are now (\d+) accounts", self._logged())[-1])

    def orders(self) -> int:
        """Return how many orders the authority has been given."""
        return self._logged().count(f"POST {NEW_ORDER_PATH} ")

    def _logged(self) -> str:
        return self.realm.authority.root_file.with_name("pebble.log").read_text()


def ordering(realm: Realm) -> Sequence[str]:
    """Return the flags by which either program orders from the authority."""
    asked = realm.authority
    flags = {"email": EMAIL, "directory": asked.directory_url, "ca": str(asked.root_file)}
    return [word for flag, value in flags.items() for word in (f"--acme-{flag}", value)]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quick]:
    """Return a relay that has ordered its own certificate, validated on `--alpn-port`."""
    folder = tmp_path_factory.mktemp("quick")
    agents, public = free_port(), free_port()
    with (
        pytest.MonkeyPatch.context() as patch,
        new_world(folder) as world,
        new_realm(world, folder / "authority") as realm,
    ):
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        line = (
            f"--bind-addr 127.0.0.1 --api-port {agents} --pub-port {public} "
            f"--alpn-port {realm.port} --domain-suffix {SUFFIX} --open "
            f"--acme-domain {RELAY_NAME} --acme-renew-days {RENEW_DAYS}"
        )
        process = world.start("relay", "relay", *line.split(), *ordering(realm))
        process.wait_for(ISSUED)
        yield Quick(realm, Relay(world, "relay", folder, agents, public, process))
        world.report()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each test's state in a folder of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def host_of(world: World, key: str = "client.key") -> str:
    """Return the name that a client of this world has by its key."""
    answer = world.ask("client", "id", "--primary-key", key, "--domain-suffix", SUFFIX)
    [endpoint] = answer["endpoints"]
    return str(urlsplit(endpoint["url"]).hostname)


def trust_in(other: trustme.CA) -> ssl.SSLContext:
    """Return a visitor's context that trusts another authority and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    other.configure_trust(context)
    return context


# -- the relay


def test_a_relay_gets_its_certificate_on_the_port_for_validations(quick: Quick) -> None:
    context = quick.realm.trust()
    context.set_alpn_protocols([ALPN_HTTP2])
    address = ("127.0.0.1", quick.relay.agents_port)
    with (
        socket.create_connection(address, TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=RELAY_NAME) as secured,
    ):
        assert secured.selected_alpn_protocol() == ALPN_HTTP2


def test_a_relay_renews_so_many_days_before_the_end(quick: Quick) -> None:
    said = quick.relay.process.wait_for(r"certificate issued .*not_after=(\S+ ?\S*) renew_at=(.+)")
    not_after, renew_at = (datetime.fromisoformat(text.strip("'\"")) for text in said.groups())
    assert not_after - renew_at == timedelta(days=RENEW_DAYS)


# -- the client


def test_a_client_with_an_address_gets_a_certificate(
    quick: Quick, world: World, target: str
) -> None:
    flags = ("--acme-creds-path", "acme_credentials.json", "--cert-pem", "acme_cert.pem")
    client = quick.client(world, target, *flags)
    client.process.wait_for(ISSUED)
    quick.visit(client, quick.realm.trust())
    assert not (world.folder / "acme_cert.pem").exists()  # ours are in the state directory


def test_credentials_that_are_missing_are_made(quick: Quick, world: World, target: str) -> None:
    quick.client(world, target, "--acme-creds-path", "made.json").process.wait_for(ISSUED)
    made = world.folder / "made.json"
    assert made.stat().st_mode & 0o777 == 0o600
    assert json.loads(made.read_text())["id"].startswith("https://")


@pytest.mark.parametrize("kept", [("id", "key_pkcs8", "directory"), ("id", "key_pkcs8")])
def test_credentials_of_the_original_are_those_of_the_same_account(
    quick: Quick, world: World, target: str, kept: tuple[str, ...]
) -> None:
    file = world.folder / "acme_credentials.json"
    authority(quick.realm.authority, file).prepare()
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({name: whole[name] for name in kept}))
    accounts = quick.accounts()
    client = quick.client(world, target, "--acme-creds-path", file.name)
    client.process.wait_for(ISSUED)
    after = json.loads(file.read_text())
    assert (after["id"], after["key_pkcs8"]) == (whole["id"], whole["key_pkcs8"])
    assert quick.accounts() == accounts


def test_credentials_of_another_authority_are_left_alone(
    quick: Quick, world: World, target: str
) -> None:
    file = world.folder / "acme_credentials.json"
    authority(quick.realm.authority, file).prepare()
    elsewhere = "https://acme-v02.api.letsencrypt.org/directory"
    theirs = json.dumps(json.loads(file.read_text()) | {"directory": elsewhere})
    file.write_text(theirs)
    client = quick.client(world, target, "--acme-creds-path", file.name)
    client.process.wait_for(f"certificate not ordered .*is an account at {elsewhere}")
    assert file.read_text() == theirs


@pytest.mark.parametrize("key_comes_first", [True, False])
def test_a_certificate_of_the_original_is_served_and_none_is_ordered(
    quick: Quick, world: World, target: str, *, key_comes_first: bool
) -> None:
    theirs = trustme.CA()
    issued = theirs.issue_cert(host_of(world))
    parts = [blob.bytes() for blob in (issued.private_key_pem, *issued.cert_chain_pems)]
    seed = world.folder / "acme_cert.pem"
    seed.write_bytes(b"".join(parts if key_comes_first else [*parts[1:], parts[0]]))
    seed.chmod(0o600)
    orders = quick.orders()
    client = quick.client(world, target, "--cert-pem", seed.name)
    quick.visit(client, trust_in(theirs))
    seed.unlink()
    assert client.process.stop() == 0
    again = quick.client(world, target, "--cert-pem", seed.name)
    quick.visit(again, trust_in(theirs))
    assert quick.orders() == orders


def test_a_second_endpoint_is_self_signed_beside_the_one_that_is_ordered(
    quick: Quick, world: World, target: str
) -> None:
    client = quick.client(world, target, "--secondary-key", "second.key")
    client.process.wait_for(ISSUED)
    client.process.wait_for(r"(?s)URL: .*URL: ")
    first, second = (str(urlsplit(url).hostname) for url in client.urls)
    named = [host_of(world), host_of(world, "second.key")]
    assert sorted([first, second]) == sorted(named)
    with tls(quick.relay, client, named[0], context=quick.realm.trust()) as sock:
        assert request(sock, "/").status == 200
    with tls(quick.relay, client, named[1]) as sock:
        assert request(sock, "/").status == 200


# -- what is said instead of being done


def run(what: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a program that ends by itself."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*program(what), *flags],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )


STARTS = {
    "relay": ("--acme-domain", "relay.example.org"),
    "client": ("--server", "r", "--domain-suffix", "t.example.org", "--acme-email", EMAIL),
}


@pytest.mark.parametrize("what", STARTS)
def test_staging_is_the_authority_to_try_out(tmp_path: Path, what: str) -> None:
    shown = run(what, tmp_path, *STARTS[what], "--acme-staging", "--show-config")
    assert shown.returncode == 0
    assert re.search(r'^directory = "letsencrypt-staging" +# --acme-staging$', shown.stdout, re.M)


WRONG = [
    ("relay", "--acme-email a@example.org", "--acme-email needs --acme-domain"),
    ("relay", "--acme-renew-days 30", "--acme-renew-days needs --acme-domain"),
    ("relay", "--acme-domain r.example.org --tls-cert c", "--tls-cert does not go with"),
    ("client", "--server r --cert-pem x.pem", "--cert-pem needs --acme-email"),
    ("client", "--server r --acme-staging", "--acme-staging needs --acme-email"),
    ("client", "--server r --acme-email a@example.org --acme-renew-days 9", "unrecognized"),
    ("client", "--server r --acme-email a@example.org", '"localhost" is no public name'),
]


@pytest.mark.parametrize(("what", "line", "told"), WRONG)
def test_flags_that_do_not_go_together_end_with_2(
    tmp_path: Path, what: str, line: str, told: str
) -> None:
    ended = run(what, tmp_path, *line.split())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert told in ended.stderr
    assert list(tmp_path.iterdir()) == []
