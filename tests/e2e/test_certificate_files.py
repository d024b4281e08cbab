"""Certificates on disk: kept over restarts, of no use, or replaced by somebody else."""

import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.e2e.audience import audience, dial
from tests.e2e.authorities import ISSUED, RELAY_NAME, Realm, new_realm
from tests.e2e.targets import pages
from tests.e2e.visitors import request, tls
from tests.e2e.world import SUFFIX, Client, Relay, World, new_world
from tunnel.acme.directories import directory_of

pytestmark = pytest.mark.timeout(60)  # a program that does not start says so after 20 s

SWAP_TIMEOUT = 60.0  # seconds until what is replaced on disk has to be in force
SETTLED = 1.0  # seconds after which a program that wanted to order would have begun

Damage = Callable[[str, bytes], bytes]  # from a name and what is kept for it


class Ends(NamedTuple):
    """A relay and a client whose certificates come from the same authority."""

    realm: Realm
    relay: Relay
    client: Client

    @property
    def kept(self) -> tuple[Path, Path]:
        """The files of both certificates."""
        slug = directory_of(self.realm.authority.directory_url).slug
        state = self.relay.world.folder / f"{self.relay.name}-state"
        relay_file = state / "acme" / slug / f"{RELAY_NAME}.pem"
        host = self.client.host
        return relay_file, self.client.state / "acme" / slug / f"{host}.pem"

    @property
    def identities(self) -> tuple[bytes, bytes]:
        """What is in the files of both identity keys."""
        folder = self.relay.world.folder
        keys = folder / f"{self.relay.name}-state" / "relay.pem", folder / "client.key"
        return keys[0].read_bytes(), keys[1].read_bytes()

    def stop(self) -> None:
        assert self.client.process.stop() == 0
        assert self.relay.process.stop() == 0

    def start(self) -> None:
        self.relay.restart()
        self.client.restart()

    def check_served(self, trust: ssl.SSLContext) -> None:
        """Fail unless a visitor of the client and a client of the relay see what they trust."""
        with tls(self.relay, self.client, context=trust) as sock:
            assert request(sock, "/").status == 200
        dial(self.relay, trust, RELAY_NAME)


def new_ends(world: World, realm: Realm, target: str) -> Ends:
    own = f'{realm.acme}[certificate]\nmode = "acme"\nnames = ["{RELAY_NAME}"]\n'
    relay = realm.relay(extra=own)
    return Ends(realm, relay, realm.client(relay, target=target))


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    """Return both ends with their certificates, which tests may stop and start again."""
    folder = tmp_path_factory.mktemp("ends")
    with (
        pages() as target,
        new_world(folder) as world,
        new_realm(world, folder / "authority") as realm,
    ):
        made = new_ends(world, realm, target)
        for end in (made.relay, made.client):
            end.process.wait_for(ISSUED)
        yield made
        world.report()


def orders(realm: Realm) -> int:
    """Return how many orders the authority has taken."""
    log = realm.world.folder / "authority" / "pebble.log"
    return log.read_text().count("Added order")


# -- kept


def test_a_restart_orders_nothing(ends: Ends) -> None:
    before = orders(ends.realm)
    ends.stop()
    ends.start()
    ends.check_served(ends.realm.trust())
    time.sleep(SETTLED)
    assert orders(ends.realm) == before


def test_a_restart_needs_no_authority(ends: Ends) -> None:
    trust = ends.realm.trust()
    ends.stop()
    ends.realm.authority.pause()
    try:
        ends.start()
        ends.check_served(trust)
    finally:
        ends.realm.authority.resume()
    for end in (ends.relay, ends.client):
        assert "WARNING" not in end.process.logged()


# -- of no use


def _mismatched(_name: str, kept: bytes) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem + kept[kept.index(b"-----BEGIN CERTIFICATE") :]


def _expired(name: str, _kept: bytes) -> bytes:
    now = datetime.now(UTC)
    start, end = now - timedelta(days=2), now - timedelta(days=1)
    issued = trustme.CA().issue_cert(name, not_before=start, not_after=end)
    return issued.private_key_and_cert_chain_pem.bytes()


def _foreign(_name: str, _kept: bytes) -> bytes:
    return trustme.CA().issue_cert("somebody-else.test").private_key_and_cert_chain_pem.bytes()


def _truncated(_name: str, kept: bytes) -> bytes:
    return kept[: len(kept) // 2]


DAMAGES = {
    "is not the key of the first certificate": _mismatched,
    "expired at ": _expired,
    "is for somebody-else.test, not for ": _foreign,
    "is truncated": _truncated,
}


@pytest.mark.parametrize(
    ("cause", "damage"),
    DAMAGES.items(),
    ids=["key of another", "expired", "of another name", "truncated"],
)
def test_what_is_of_no_use_is_set_aside_and_ordered_anew(
    ends: Ends, cause: str, damage: Damage
) -> None:
    identities, pin, kept = ends.identities, ends.relay.pin, ends.kept
    ends.stop()
    damaged = {file: damage(file.stem, file.read_bytes()) for file in kept}
    for file, content in damaged.items():
        file.write_bytes(content)
    ends.start()
    for end in (ends.relay, ends.client):
        end.process.wait_for(f"WARNING .*set a file of no use aside .*{cause}")
        end.process.wait_for(ISSUED)
        assert end.process.logged().count("WARNING") == 1
    ends.check_served(ends.realm.trust())
    assert {file: file.with_name(f"{file.name}.bad").read_bytes() for file in kept} == damaged
    assert (ends.identities, ends.relay.pin) == (identities, pin)


def trusting_anybody() -> ssl.SSLContext:
    """Return the context of a visitor for whom self-signed is good enough."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


GARBAGE = b'["no account"]'


@pytest.mark.parametrize(
    "is_mended",
    [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(150)])],
    ids=["at first", "until it is gone"],
)
def test_a_corrupt_account_is_left_alone(
    world: World, tmp_path: Path, target: str, is_mended: bool
) -> None:
    with new_realm(world, tmp_path / "authority") as realm:
        slug = directory_of(realm.authority.directory_url).slug
        files = {name: tmp_path / f"{name}-state" / "acme" / slug for name in ("relay", "client")}
        for folder in files.values():
            folder.mkdir(parents=True)
            account = folder / "account.json"
            account.write_bytes(GARBAGE)
            account.chmod(0o600)
        ends = new_ends(world, realm, target)
        for end in (ends.relay, ends.client):
            account = files[end.name] / "account.json"
            told = f"WARNING .*not ordered .*{account}: is not an ACME account: .*; restore it, or "
            end.process.wait_for(told)
            assert account.read_bytes() == GARBAGE
        with tls(ends.relay, ends.client, context=trusting_anybody()) as sock:
            assert request(sock, "/").status == 200
        assert orders(realm) == 0
        if is_mended:
            for folder in files.values():
                (folder / "account.json").unlink()
            for end in (ends.relay, ends.client):
                end.process.wait_for(ISSUED, timeout=90)
                assert end.process.logged().count("WARNING") == 1
            ends.check_served(realm.trust())


# -- replaced by somebody else


class Pair(NamedTuple):
    """A chain and its key in two files."""

    chain_file: Path
    key_file: Path

    def write_chain(self, issued: trustme.LeafCert) -> None:
        _replace(self.chain_file, b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    def write_key(self, issued: trustme.LeafCert) -> None:
        _replace(self.key_file, issued.private_key_pem.bytes())


def _replace(file: Path, content: bytes) -> None:
    draft = file.with_suffix(".draft")
    draft.write_bytes(content)
    draft.chmod(0o600)
    draft.replace(file)


@pytest.fixture
def issuer() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def from_files(
    world: World, tmp_path: Path, issuer: trustme.CA, target: str
) -> tuple[Relay, Client, Pair]:
    """Return a relay and a client that both take their certificates from the same two files."""
    pair = Pair(tmp_path / "chain.pem", tmp_path / "files.key")
    first = issued_for_both(issuer)
    pair.write_chain(first)
    pair.write_key(first)
    files = 'chain_file = "chain.pem"\nkey_file = "files.key"'
    relay = world.relay(extra=f'[certificate]\nmode = "files"\n{files}')
    client = world.client(relay, target=target, endpoint=f'certificate = "files"\n{files}')
    assert client.host  # it serves, and has read the files
    return relay, client, pair


def issued_for_both(issuer: trustme.CA) -> trustme.LeafCert:
    return issuer.issue_cert(RELAY_NAME, f"*.{SUFFIX}")


@pytest.mark.slow
@pytest.mark.parametrize("is_half_first", [False, True], ids=["whole", "half"])
def test_files_that_are_replaced_are_in_force_within_a_minute(
    from_files: tuple[Relay, Client, Pair], issuer: trustme.CA, is_half_first: bool
) -> None:
    relay, client, pair = from_files
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    issuer.configure_trust(trust)
    before = dial(relay, trust, RELAY_NAME)
    second = issued_for_both(issuer)
    with audience(relay, client, trust) as seen:
        pair.write_chain(second)
        if is_half_first:
            for end in (relay, client):
                warned = "WARNING .*not usable: kept the old one .*not the key of the first"
                end.process.wait_for(warned, SWAP_TIMEOUT)
            assert dial(relay, trust, RELAY_NAME) == before
        pair.write_key(second)
        for end in (relay, client):
            end.process.wait_for("certificate replaced", SWAP_TIMEOUT)
        assert dial(relay, trust, RELAY_NAME) != before
        with tls(relay, client, context=trust) as sock:
            shown = sock.getpeercert(binary_form=True)
        assert shown == ssl.PEM_cert_to_DER_cert(second.cert_chain_pems[0].bytes().decode())
    seen.check_content(1)
    assert "disconnected" not in client.process.logged()
