"""State directories that take no more: what is served goes on, and is stored once it can be.

Needs root: each state directory is a small disk of its own.
"""

import errno
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.e2e.audience import dial
from tests.e2e.authorities import ISSUED, RELAY_NAME, Realm, new_realm, wait_until
from tests.e2e.visitors import request, tls
from tests.e2e.world import Client, Process, Relay, World

pytestmark = [pytest.mark.system, pytest.mark.timeout(150)]

RETRY_TIMEOUT = 75.0  # seconds: a minute, and what an order takes
SHORT, LONG = 16, 86_400  # seconds of validity
BLOCK = bytes(4096)


@dataclass(frozen=True)
class Disk:
    """A disk of a megabyte."""

    folder: Path

    def fill(self) -> None:
        """Leave no place on it."""
        with suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as ballast:
            while ballast.write(BLOCK):
                pass

    def empty(self) -> None:
        (self.folder / "ballast").unlink()

    def lock(self) -> None:
        """Let it be read only."""
        self._remount("ro")

    def unlock(self) -> None:
        self._remount("rw")

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.folder)], check=True)


@contextmanager
def new_disk(folder: Path) -> Iterator[Disk]:
    """Have a disk at `folder`, which is made."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[dict[str, Disk]]:
    """Return the disks of the relay's and of the client's state."""
    with (
        new_disk(tmp_path / "relay-state") as relays,
        new_disk(tmp_path / "client-state") as clients,
    ):
        yield {"relay": relays, "client": clients}


@pytest.fixture
def realm(disks: dict[str, Disk], world: World, tmp_path: Path) -> Iterator[Realm]:
    with new_realm(world, tmp_path / "authority", validity=SHORT) as made:
        yield made


@dataclass(frozen=True)
class Ends:
    """A relay and a client whose certificates come from the same authority."""

    realm: Realm
    relay: Relay
    client: Client

    @property
    def processes(self) -> list[Process]:
        return [self.relay.process, self.client.process]

    def check_served(self, trust: ssl.SSLContext) -> None:
        """Fail unless a visitor of the client and a client of the relay see what they trust."""
        with tls(self.relay, self.client, context=trust) as sock:
            assert request(sock, "/").status == 200
        dial(self.relay, trust, RELAY_NAME)


def new_ends(realm: Realm, target: str) -> Ends:
    own = f'{realm.acme}[certificate]\nmode = "acme"\nnames = ["{RELAY_NAME}"]\n'
    relay = realm.relay(extra=own)
    return Ends(realm, relay, realm.client(relay, target=target))


def orders(realm: Realm) -> int:
    """Return how many orders the authority has taken."""
    return (realm.world.folder / "authority" / "pebble.log").read_text().count("Added order")


def issue_for_long(realm: Realm) -> None:
    """Let what the authority issues from now on outlive the test; it forgets all accounts."""
    file = realm.world.folder / "authority" / "pebble.json"
    settings = json.loads(file.read_text())
    settings["pebble"]["certificateValidityPeriod"] = LONG
    realm.authority.stop()
    file.write_text(json.dumps(settings))
    realm.authority.start()


def trusting_anybody() -> ssl.SSLContext:
    """Return the context of a visitor for whom self-signed, or what has ended, is good enough."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def leaf(disk: Disk) -> bytes | None:
    """Return the authority's certificate that is kept on a disk, if there is one."""
    for file in disk.folder.glob("acme/*/*.pem"):
        begin = "-----BEGIN CERTIFICATE-----"
        first = file.read_text().partition(begin)[2].partition(begin)[0]
        return ssl.PEM_cert_to_DER_cert(begin + first)
    return None


def wait_until_kept(disk: Disk) -> None:
    """Return once a certificate is on a disk: that is a moment after it was issued."""
    wait_until(lambda: leaf(disk) is not None, 5, "certificate on disk")


def ends_without_account(realm: Realm, disks: dict[str, Disk], target: str) -> Ends:
    """Return both ends, stopped, which have their identities and nothing of the authority."""
    realm.authority.stop()
    ends = new_ends(realm, target)
    for process in ends.processes:
        process.wait_for("WARNING .*certificate not ")
    for process in ends.processes:
        process.kill()
    for disk in disks.values():
        shutil.rmtree(disk.folder / "acme")
    realm.authority.start()
    return ends


@pytest.mark.waits
@pytest.mark.parametrize(
    ("spoil", "mend", "cause"),
    [
        (Disk.fill, Disk.empty, errno.ENOSPC),
        (Disk.lock, Disk.unlock, errno.EROFS),
    ],
    ids=["full", "read-only"],
)
def test_nothing_is_ordered_that_could_not_be_kept(
    realm: Realm,
    disks: dict[str, Disk],
    target: str,
    spoil: Callable[[Disk], None],
    mend: Callable[[Disk], None],
    cause: int,
) -> None:
    ends = ends_without_account(realm, disks, target)
    for disk in disks.values():
        spoil(disk)
    ends.relay.restart()
    ends.client.restart()
    for process in ends.processes:
        process.wait_for(f"not ordered .*cannot be written: {os.strerror(cause)}")
    ends.check_served(trusting_anybody())
    assert orders(realm) == 0
    for disk in disks.values():
        mend(disk)
    for process in ends.processes:
        process.wait_for(ISSUED, RETRY_TIMEOUT)
        assert "account made" in process.logged()
    ends.check_served(realm.trust())
    assert all(leaf(disk) for disk in disks.values())


def spoil_while_renewing(ends: Ends, disk: Disk, process: Process) -> bytes:
    """Fill a disk in the middle of a renewal; return what is kept there."""
    process.wait_for(ISSUED)
    wait_until_kept(disk)
    issue_for_long(ends.realm)
    wait_until(lambda: any(disk.folder.glob("acme/*/*.order")), SHORT, "order")
    ends.realm.authority.pause()
    disk.fill()
    ends.realm.authority.resume()
    process.wait_for("ERROR .*certificate not kept .*cannot be written: No space left on device")
    found = leaf(disk)
    assert found is not None
    return found


def in_force(end: Relay | Client, ends: Ends) -> bytes:
    """Return the certificate that a new connection is shown."""
    trust = ends.realm.trust()
    if end is ends.relay:
        return dial(ends.relay, trust, RELAY_NAME).public_bytes(Encoding.DER)
    with tls(ends.relay, ends.client, context=trust) as sock:
        shown = sock.getpeercert(binary_form=True)
    assert shown is not None
    return shown


@pytest.mark.waits
def test_what_was_not_kept_is_used_and_written_later(
    realm: Realm, disks: dict[str, Disk], target: str
) -> None:
    ends = new_ends(realm, target)
    client, disk = ends.client, disks["client"]
    old = spoil_while_renewing(ends, disk, client.process)
    new = in_force(client, ends)
    assert new != old
    disk.empty()
    client.process.wait_for("certificate kept at last", RETRY_TIMEOUT)
    assert leaf(disk) == new
    assert client.process.logged().count("not kept") == 1


@pytest.mark.parametrize("which", ["relay", "client"])
def test_no_order_is_lost_by_a_crash_on_a_full_disk(
    realm: Realm, disks: dict[str, Disk], target: str, which: str
) -> None:
    ends = new_ends(realm, target)
    end: Relay | Client = ends.relay if which == "relay" else ends.client
    disk = disks[which]
    spoil_while_renewing(ends, disk, end.process)
    new = in_force(end, ends)
    end.process.kill()
    disk.empty()
    end.restart()
    end.process.wait_for(ISSUED)
    assert in_force(end, ends) == new
    wait_until(lambda: leaf(disk) == new, 5, "new certificate on disk")


@pytest.mark.waits
def test_a_renewal_waits_until_it_can_be_kept(
    realm: Realm, disks: dict[str, Disk], target: str
) -> None:
    ends = new_ends(realm, target)
    for process in ends.processes:
        process.wait_for(ISSUED)
    issue_for_long(realm)
    for disk in disks.values():
        wait_until_kept(disk)
        disk.lock()
    for process in ends.processes:
        process.wait_for(f"not ordered .*cannot be written: {os.strerror(errno.EROFS)}")
    ends.check_served(trusting_anybody())
    before = orders(realm)
    for disk in disks.values():
        disk.unlock()
    for process in ends.processes:
        process.wait_for(f"(?s){ISSUED}.*{ISSUED}", RETRY_TIMEOUT)
    ends.check_served(realm.trust())
    assert orders(realm) == before + len(disks)
