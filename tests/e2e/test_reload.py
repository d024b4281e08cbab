"""Both programs given other settings while visitors come and stay."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from tests.e2e.audience import PAGE, audience
from tests.e2e.targets import pages, pattern
from tests.e2e.visitors import get, tls
from tests.e2e.world import SUFFIX, Client, Process, Relay, World, new_world
from tests.ports import free_port

pytestmark = pytest.mark.timeout(60)  # a program that does not start says so after 20 s

TOLD = "reloaded changed=", "not reloaded: "
RELOAD_TIMEOUT = 10.0  # seconds
KEY = "sha256:" + "0" * 64


@dataclass
class Reloads:
    """A running program, and a drop-in of its settings that a test writes."""

    process: Process
    drop_in: Path

    @classmethod
    def of(cls, end: Relay | Client) -> "Reloads":
        folder = end.settings.with_name(f"{end.settings.name}.d")
        folder.mkdir(exist_ok=True)
        return cls(end.process, folder / "50-test.toml")

    def told(self) -> tuple[int, int]:
        """Return how often settings came into force so far, and how often not."""
        lines = self.process.logged()
        accepted, refused = (lines.count(words) for words in TOLD)
        return accepted, refused

    def ask(self, text: str) -> None:
        """Ask for a reload with this drop-in."""
        self.drop_in.write_text(text)
        self.process.signal(signal.SIGHUP)

    def apply(self, text: str) -> str:
        """Reload with this drop-in; return the new part of the log, with what came of it."""
        size = len(self.process.logged())
        self.ask(text)
        deadline = time.monotonic() + RELOAD_TIMEOUT
        while not any(words in (told := self.process.logged()[size:]) for words in TOLD):
            assert time.monotonic() < deadline, told
            time.sleep(0.02)
        return told

    def accept(self, text: str) -> None:
        """Reload with a drop-in that can be used."""
        told = self.apply(text)
        assert TOLD[0] in told, told

    def refuse(self, text: str) -> str:
        """Reload with one that cannot; return what was told."""
        told = self.apply(text)
        assert TOLD[1] in told, told
        return told


def next_page(visitor: socket.socket) -> bytes:
    """Return one more page over a connection that is kept."""
    visitor.sendall(f"GET /bytes/{PAGE} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    received = b""
    while len(received.partition(b"\r\n\r\n")[2]) < PAGE:
        part = visitor.recv(1 << 16)
        assert part, "it has ended"
        received += part
    return received.partition(b"\r\n\r\n")[2]


@pytest.fixture
def ends(world: World, target: str) -> tuple[Relay, Client]:
    relay = world.relay(extra='[suffixes."shop.test"]\naccess = "open"')
    client = world.client(relay, target=target)
    assert client.host
    return relay, client


def relay_changes(port: int) -> dict[str, str]:
    """Return one drop-in of each kind; `port` is free."""
    other = '[suffixes."other.test"]\naccess = "open"\n'
    client = f'[clients.shop]\nfingerprint = "{KEY}"\nsuffixes = ["{SUFFIX}"]\n'
    return {
        "nothing": "",
        "a listener": f'[listeners.more]\nkind = "public"\nlisten = ["127.0.0.1:{port}"]\n',
        "balancers": '[listeners.public]\nproxy_protocol_from = ["10.0.0.0/8"]\n',
        "a suffix": other,
        "a suffix's budget": f'[suffixes."{SUFFIX}"]\ncertificates_per_week = 7\n',
        "a client": client,
        "a client revoked": f"{client}enabled = false\n",
        "a client's limits": f"{client}[clients.shop.limits]\nstreams = 5\n",
        "limits": "[limits]\nconnections = 50\nvisitors_per_address = 100\n",
        "deadlines": '[timeouts]\nclient_hello = "4s"\nlinger = "1m"\n',
        "flow": '[flow]\nstream_window = "128KiB"\n',
        "log": '[log]\nlevel = "debug"\n',
        "the process": '[relay]\nname = "other"\ndrain_timeout = "5s"\n',
    }


RELAY_FAULTS = {
    "a word": ("[limits]\nconections = 5\n", r"50-test\.toml:2: limits\.conections: "),
    "syntax": ("[limits\n", r"50-test\.toml:1: "),
    "a value": ('[log]\n\nlevel = "loud"\n', r"50-test\.toml:3: log\.level: "),
    "workers": ("[relay]\nworkers = 2\n", r"50-test\.toml:2: relay\.workers: "),
    "state": (
        '[relay]\nstate_dir = "elsewhere"\n',
        r"50-test\.toml:2: relay\.state_dir: needs a restart",
    ),
}
CLIENT_FAULTS = {
    "a word": ("[endpoints.web]\ntagret = 5\n", r"50-test\.toml:2: endpoints\.web\.tagret: "),
    "a reference": ('[endpoints.web]\nservers = ["no"]\n', r"50-test\.toml:2: endpoints\.web\."),
    "state": (
        '[client]\nstate_dir = "elsewhere"\n',
        r"50-test\.toml:2: client\.state_dir: needs a restart",
    ),
}


def client_changes(target: str) -> dict[str, str]:
    """Return one drop-in of each kind; `target` is another one."""
    shop = f'keypair = "primary"\nsuffix = "shop.test"\ntarget = "{target}"\n'
    second = shop.replace("primary", "second").replace("shop.test", SUFFIX)
    return {
        "nothing": "",
        "target": f'[endpoints.web]\ntarget = "{target}"\n',
        "alpn": '[endpoints.web]\nalpn = ["http/1.1", "http/1.0"]\n',
        "visitors": '[endpoints.web]\nallow = ["127.0.0.0/8"]\n',
        "a keypair": f'[keypairs.second]\nfile = "second.key"\n[endpoints.second]\n{second}',
        "an endpoint": f"[endpoints.shop]\n{shop}",
        "pool": "[servers.relay]\npool_size = 2\n",
        "deadlines": '[timeouts]\nregister = "4s"\nlinger = "1m"\n',
        "flow": '[flow]\nstream_window = "128KiB"\n',
        "log": '[log]\nlevel = "debug"\n',
        "the process": '[client]\ndrain_timeout = "5s"\nprobe_interval = "30s"\n',
    }


def test_every_change_of_a_relay_spares_whoever_is_there(ends: tuple[Relay, Client]) -> None:
    relay, client = ends
    reloads = Reloads.of(relay)
    port = free_port()
    with closing(tls(relay, client)) as visitor:
        for name, text in relay_changes(port).items():
            reloads.accept(text)
            assert next_page(visitor) == pattern(PAGE), name
            assert get(relay, client).status == 200, name
            if name == "a listener":
                relay.public_port, usual = port, relay.public_port
                assert get(relay, client).status == 200
                relay.public_port = usual
    assert "disconnected" not in client.process.logged()


def test_every_change_of_a_client_spares_whoever_is_there(ends: tuple[Relay, Client]) -> None:
    relay, client = ends
    reloads = Reloads.of(client)
    with pages() as another, closing(tls(relay, client)) as visitor:
        for name, text in client_changes(another).items():
            reloads.accept(text)
            assert next_page(visitor) == pattern(PAGE), name
            assert get(relay, client).status == 200, name
            if name in ("a keypair", "an endpoint"):
                served = client.process.wait_for(f"(?s)(URL: .*){{{2 + (name != 'a keypair')}}}")
                assert served


@pytest.mark.parametrize(("text", "fault"), RELAY_FAULTS.values(), ids=RELAY_FAULTS)
def test_a_relay_tells_what_it_cannot_use_and_goes_on(
    tunnels: tuple[Relay, Client], text: str, fault: str
) -> None:
    relay, client = tunnels
    told = Reloads.of(relay).refuse(text)
    relay.process.wait_for(f"ERROR .*{fault}")
    assert told.count("ERROR") == 2
    assert get(relay, client).status == 200


@pytest.mark.parametrize(("text", "fault"), CLIENT_FAULTS.values(), ids=CLIENT_FAULTS)
def test_a_client_tells_what_it_cannot_use_and_goes_on(
    tunnels: tuple[Relay, Client], text: str, fault: str
) -> None:
    relay, client = tunnels
    Reloads.of(client).refuse(text)
    client.process.wait_for(f"ERROR .*{fault}")
    assert get(relay, client).status == 200


@pytest.fixture(scope="module")
def tunnels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, Client]]:
    """Return a relay and a client that a module's tests share."""
    with pages() as address, new_world(tmp_path_factory.mktemp("tunnels")) as world:
        relay = world.relay()
        client = world.client(relay, target=address)
        assert client.host
        yield relay, client
        world.report()


def test_an_address_in_use_is_a_fault(tunnels: tuple[Relay, Client]) -> None:
    relay, _ = tunnels
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        text = f'[listeners.more]\nkind = "public"\nlisten = ["{address}"]\n'
        told = Reloads.of(relay).refuse(text)
    assert f"50-test.toml:3: listeners.more: cannot listen on {address}: address already" in told


def test_a_storm_of_signals_is_few_reloads_of_which_one_sees_the_last(
    ends: tuple[Relay, Client],
) -> None:
    relay, client = ends
    for end in (relay, client):
        reloads = Reloads.of(end)
        before = reloads.told()[0]
        for number in range(50):
            reloads.ask(f'[timeouts]\nlinger = "{number + 1}m"\n')
        reloads.ask('[log]\nlevel = "debug"\n')
        end.process.wait_for(r"reloaded changed=.*\blog\.level\b", RELOAD_TIMEOUT)
        accepted, refused = reloads.told()
        assert 1 <= accepted - before <= 52
        assert refused == 0
    assert get(relay, client).status == 200


def test_a_change_during_the_start_is_not_lost(world: World, target: str) -> None:
    relay = world.relay()
    relay.process.stop()
    folder = relay.settings.with_name("relay.toml.d")
    folder.mkdir()
    relay.process = world.run("relay", relay.settings, "relay")
    deadline = time.monotonic() + RELOAD_TIMEOUT
    while not _is_reading(relay.process.popen.pid) and time.monotonic() < deadline:
        time.sleep(0.001)
    (folder / "50-test.toml").write_text('[relay]\nname = "late"\n')
    relay.process.signal(signal.SIGHUP)
    relay.process.wait_for("changed=relay.name|starting relay=late")


def _is_reading(pid: int) -> bool:
    """Say whether a program has got so far that a signal does not end it."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = {
        line.split(":")[0]: int(line.split()[1], 16)
        for line in status.splitlines()
        if line.startswith(("SigIgn", "SigCgt"))
    }
    return bool((masks["SigIgn"] | masks["SigCgt"]) >> (signal.SIGHUP - 1) & 1)


def wait_until_few(process: Process, few: int) -> None:
    """Fail unless it soon has no more files open than that."""
    deadline = time.monotonic() + RELOAD_TIMEOUT
    while process.descriptors() > few:
        assert time.monotonic() < deadline, f"{process.name} has {process.descriptors()} open"
        time.sleep(0.05)


def test_reloads_under_load_cost_nobody_anything(ends: tuple[Relay, Client]) -> None:
    """Look at a few of them; all kinds, and many, are in test_reload_storm."""
    relay, client = ends
    sides = [Reloads.of(relay), Reloads.of(client)]
    assert get(relay, client).status == 200  # what is opened once, is open now
    descriptors = [end.process.descriptors() for end in (relay, client)]
    with pages() as another:
        wishes = [[*relay_changes(free_port()).values()], [*client_changes(another).values()]]
        faults = [[text for text, _ in each.values()] for each in (RELAY_FAULTS, CLIENT_FAULTS)]
        with audience(relay, client, client.trust()) as seen:
            for side, number in product((0, 1), range(6)):
                sides[side].accept(wishes[side][number])
                sides[side].refuse(faults[side][number % len(faults[side])])
                sides[side].drop_in.unlink()
        assert seen.failures == []
        assert seen.is_downloaded
        for each in sides:
            each.accept("")
    for process, few in zip((relay.process, client.process), descriptors, strict=True):
        wait_until_few(process, few)
        assert "Traceback" not in process.logged()
