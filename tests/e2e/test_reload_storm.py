"""Two hundred reloads of every kind, half of them refused, while visitors come and stay."""

import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.e2e.audience import audience
from tests.e2e.targets import pages
from tests.e2e.test_reload import wait_until_few
from tests.e2e.visitors import get
from tests.e2e.world import SUFFIX, Client, Process, Relay, World
from tests.ports import free_port
from tunnel.cli.running import Running

RELOADS = 200
PAUSE = 0.25  # seconds between two reloads, for visitors to come in between
KEY = "sha256:" + "0" * 64
QUICK_DRAIN = 'drain_timeout = "2s"\n'
GROWTH = 1.1  # of the resident memory, once it has seen everything

Wishes = list[tuple[str, Callable[[], str]]]
"""Drop-ins in their order, each with its kind; one may change files as it is written."""


@dataclass
class Side:
    """One of both programs, and the drop-in that a test writes."""

    name: str
    process: Process
    drop_in: Path
    usual_socket: Path
    wishes: Iterator[tuple[str, Callable[[], str]]]
    faults: Iterator[tuple[str, str]]
    text: str = ""  # of the drop-in that is in force
    changed: Counter[str] = field(default_factory=Counter)

    @property
    def running(self) -> Running:
        """The program, at the socket that is in force."""
        moved = re.search(r'^socket = "(.+)"', self.text, re.MULTILINE)
        return Running(Path(moved[1]) if moved else self.usual_socket)

    def accept(self) -> None:
        """Have the next wish come into force, and note what that has changed."""
        kind, write = next(self.wishes)
        text = write()
        self.drop_in.write_text(text)
        outcome = self.running.post("/reload")
        assert outcome["faults"] == [], (kind, outcome)
        assert outcome["applied"], (kind, outcome)
        self.text = text
        self.changed.update({f"wish: {kind}"}, **dict.fromkeys(kinds_of(outcome["plan"]), 1))

    def refuse(self) -> None:
        """Have the next fault refused for what it is, and see that nothing has changed."""
        text, told = next(self.faults)
        self.drop_in.write_text(text)
        outcome = self.running.post("/reload")
        assert not outcome["applied"], text
        assert re.fullmatch(rf".*50-test\.toml:\d+: {told}", outcome["faults"][0]), outcome
        self.drop_in.write_text(self.text)
        outcome = self.running.post("/reload?dry_run=1")
        assert (outcome["faults"], outcome["plan"]["tables"], outcome["plan"]["keys"]) == (
            *([], {}, {}),
        )


def kinds_of(plan: Mapping[str, Any]) -> Iterator[str]:
    """Yield what kinds of change a plan has, such as `listeners added`."""
    for group, changes in plan["tables"].items():
        yield from (f"{group} {what}" for what in ("added", "removed") if changes[what])
        for keys in changes["changed"].values():
            yield from (f"{group} {key}" for key in keys)
    for table, keys in plan["keys"].items():
        yield from (f"{table} {key}" for key in keys)


def said(text: str) -> Callable[[], str]:
    """Return what always writes the same drop-in."""
    return lambda: text


def renewed(folder: Path, text: str) -> Callable[[], str]:
    """Return what writes a drop-in that names two files, and both files anew."""

    def write() -> str:
        issued = trustme.CA().issue_cert(f"*.{SUFFIX}", "127.0.0.1")
        (folder / "chain.pem").write_bytes(b"".join(b.bytes() for b in issued.cert_chain_pems))
        key = folder / "key.pem"
        key.touch(0o600)
        key.write_bytes(issued.private_key_pem.bytes())
        return text

    return write


def certificate_files(folder: Path) -> str:
    return f'chain_file = "{folder}/chain.pem"\nkey_file = "{folder}/key.pem"\n'


def admin_of(folder: Path, name: str) -> Wishes:
    """Return the changes of what both programs have."""
    moved = [f'socket = "{folder}/{name}-{number}.sock"\n' for number in (1, 2)]
    metrics = [f'metrics = "127.0.0.1:{free_port()}"\n' for _ in range(2)]
    return [
        ("admin address added", said(f"[admin]\n{moved[0]}{metrics[0]}")),
        ("admin address changed", said(f"[admin]\n{moved[1]}{metrics[1]}")),
        ("nothing", said("")),
        ("log level", said('[log]\nlevel = "debug"\n')),
        ("flow", said('[flow]\nstream_window = "128KiB"\n')),
        ("deadlines", said('[timeouts]\nregister = "4s"\nlinger = "1m"\n')),
    ]


def relay_wishes(folder: Path) -> Wishes:
    listener = '[listeners.more]\nkind = "public"\nlisten = ["127.0.0.1:{}"]\n'
    suffix = '[suffixes."other.test"]\naccess = "{}"\n'
    client = f'[clients.shop]\nfingerprint = "{KEY}"\nsuffixes = ["{SUFFIX}"]\n'
    files = f'[certificate]\nmode = "files"\n{certificate_files(folder)}'
    return [
        ("listener added", said(listener.format(free_port()))),
        ("listener's address changed", said(listener.format(free_port()))),
        ("listener removed", said('[listeners.public]\nproxy_protocol_from = ["10.0.0.0/8"]\n')),
        ("suffix added", said(suffix.format("open"))),
        ("suffix changed", said(suffix.format("listed"))),
        ("client added", said(client)),
        ("limit added", said(f"{client}limits = {{ streams = 5 }}\n")),
        ("limit changed", said(f"{client}limits = {{ streams = 6, rate = '1MiB/s' }}\n")),
        ("client revoked", said(f"{client}enabled = false\n")),
        ("certificate files", renewed(folder, files)),
        ("certificate files changed", renewed(folder, files)),
        ("limits", said("[limits]\nconnections = 50\nvisitors_per_address = 100\n")),
        ("process", said(f'[relay]\nname = "other"\n{QUICK_DRAIN.replace("2", "3")}')),
        *admin_of(folder, "relay"),
    ]


def client_wishes(folder: Path, target: str, backup: Relay) -> Wishes:
    server = f'[servers.backup]\naddress = "127.0.0.1:{backup.agents_port}"\npin = "{backup.pin}"\n'
    side = "[endpoints.side]\n"
    more = f'[endpoints.more]\nkeypair = "second"\nsuffix = "shop.test"\ntarget = "{target}"\n'
    third = more.replace("second", "third").replace("shop.test", SUFFIX)
    keypair = '[keypairs.third]\nfile = "third.key"\n'
    files = f'{side}certificate = "files"\n{certificate_files(folder)}'
    return [
        ("target of another", said(f'{side}target = "{target}"\n')),
        ("target", said(f'[endpoints.web]\ntarget = "{target}"\n')),
        ("alpn", said('[endpoints.web]\nalpn = ["http/1.1", "http/1.0"]\n')),
        ("visitors", said('[endpoints.web]\nallow = ["127.0.0.0/8"]\n')),
        ("server added", said(server)),
        ("transport changed", said(f'{server}transport = "h2"\n')),
        ("pool size", said(f'{server}transport = "h2"\npool_size = 2\n')),
        ("endpoint added", said(more)),
        ("endpoint changed", said(f'{more}names = ["shop.example.com"]\n')),
        ("keypair added", said(f"{keypair}{third}")),
        ("keypair changed", said(f"{keypair}id_bits = 64\n{third}")),
        ("certificate files", renewed(folder, files)),
        ("certificate files changed", renewed(folder, files)),
        ("process", said(f'[client]\nprobe_interval = "30s"\n{QUICK_DRAIN.replace("2", "3")}')),
        *admin_of(folder, "client"),
    ]


def faults_of_both(folder: Path, taken: str) -> list[tuple[str, str]]:
    return [
        ("[limits\n", ".*"),
        ('[log]\n\nlevel = "loud"\n', r"log\.level: .*"),
        (f'[admin]\nmetrics = "{taken}"\n', r"admin\.metrics: cannot listen on .*: address.*"),
        (f'[admin]\nsocket = "{folder}/taken.sock"\n', r"admin\.socket: .*: another process .*"),
        (f'[admin]\nsocket = "{folder}/no/x.sock"\n', r"admin\.socket: .*: no such file.*"),
    ]


def relay_faults(folder: Path, taken: str, public_port: int) -> list[tuple[str, str]]:
    public = '[listeners.more]\nkind = "public"\nlisten = ["{}"]\n'
    return [
        ("[limits]\nconections = 5\n", r"limits\.conections: .*"),
        ("[relay]\nworkers = 2\n", r"relay\.workers: .*"),
        ('[relay]\nstate_dir = "elsewhere"\n', r"relay\.state_dir: needs a restart"),
        (public.format(taken), r"listeners\.more: cannot listen on .*: address already in use"),
        (
            f'[listeners.public]\nlisten = ["0.0.0.0:{public_port}"]\n',
            r"listeners\.public\.listen: needs a restart",
        ),
        (f'[clients.x]\nfingerprint = "{KEY}"\nsuffixes = ["no.test"]\n', r"clients\.x\..*"),
        ('[certificate]\nmode = "files"\nchain_file = "a"\nkey_file = "b"\n', r"certificate\..*"),
        *faults_of_both(folder, taken),
    ]


def client_faults(folder: Path, taken: str) -> list[tuple[str, str]]:
    again = f'[endpoints.again]\nkeypair = "primary"\nsuffix = "{SUFFIX}"\ntarget = 80\n'
    return [
        ("[endpoints.web]\ntagret = 5\n", r"endpoints\.web\.tagret: .*"),
        ('[endpoints.web]\nservers = ["no"]\n', r"endpoints\.web\.servers: .*"),
        ('[client]\nstate_dir = "elsewhere"\n', r"client\.state_dir: needs a restart"),
        ("[servers.relay]\naddress = 7\n", r"servers\.relay\.address: .*"),
        (again, r"endpoints\.again.*"),
        ('[endpoints.web]\nvisitor_ca = "none.pem"\n', r"endpoints\.web\.visitor_ca: .*"),
        *faults_of_both(folder, taken),
    ]


SEEN = {
    "relay": {
        *("listeners added", "listeners removed", "listeners listen"),
        *("suffixes added", "suffixes removed", "suffixes access"),
        *("clients added", "clients removed", "clients enabled"),
        *("clients limits.streams", "clients limits.rate"),
        *("certificate mode", "log level", "admin socket", "admin metrics"),
        *("wish: certificate files changed", "relay drain_timeout"),
    },
    "client": {
        *("servers added", "servers removed", "servers transport", "servers pool_size"),
        *("keypairs added", "keypairs removed", "keypairs id_bits"),
        *("endpoints added", "endpoints removed", "endpoints target", "endpoints names"),
        *("endpoints certificate", "log level", "admin socket", "admin metrics"),
        *("wish: certificate files changed", "client drain_timeout"),
    },
}
"""What has to have been changed on the way."""


def base(end: Relay | Client, text: str) -> Path:
    """Write a drop-in that stays; return the one that changes."""
    folder = end.settings.with_name(f"{end.settings.name}.d")
    folder.mkdir(exist_ok=True)
    (folder / "10-base.toml").write_text(text)
    return folder / "50-test.toml"


@contextmanager
def taken_places(folder: Path) -> Iterator[str]:
    """Listen at an address, which is yielded, and at a path, as others do."""
    with ExitStack() as stack:
        tcp = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
        unix = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
        unix.bind(str(folder / "taken.sock"))
        unix.listen()
        yield "{}:{}".format(*tcp.getsockname())


def greatest(sizes: list[list[int]]) -> list[int]:
    """Return the greatest size of each program."""
    return [max(column) for column in zip(*sizes, strict=True)]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_reloads_of_every_kind_cost_nobody_anything(world: World, target: str) -> None:
    relay = world.relay(extra='[suffixes."shop.test"]\naccess = "open"')
    backup = world.relay("backup", extra='[suffixes."shop.test"]\naccess = "open"')
    client = world.client(relay, target=target)
    assert client.host
    second = (
        f'[client]\n{QUICK_DRAIN}[keypairs.second]\nfile = "second.key"\n[endpoints.side]\n'
        f'keypair = "second"\nsuffix = "{SUFFIX}"\ntarget = "{target}"\n'
        'certificate = "self-signed"\n'
    )
    with taken_places(world.folder) as taken, pages() as another:
        sides = [
            Side(
                *("relay", relay.process, base(relay, f"[relay]\n{QUICK_DRAIN}")),
                world.folder / "relay-state" / "admin.sock",
                cycle(relay_wishes(world.folder)),
                cycle(relay_faults(world.folder, taken, relay.public_port)),
            ),
            Side(
                *("client", client.process, base(client, second)),
                world.folder / "client-state" / "admin.sock",
                cycle(client_wishes(world.folder, another, backup)),
                cycle(client_faults(world.folder, taken)),
            ),
        ]
        for side in sides:
            assert side.running.post("/reload")["applied"]
        client.process.wait_for(r"(?s)(URL: .*){2}")
        assert get(relay, client).status == 200
        descriptors = [side.process.descriptors() for side in sides]
        sizes: list[list[int]] = []
        with audience(relay, client, client.trust()) as seen:
            for number in range(RELOADS // 4):
                for side in sides:
                    side.accept()
                    time.sleep(PAUSE)
                    side.refuse()
                if number % 5 == 4:
                    sizes.append([side.process.rss_bytes() for side in sides])
        for side in sides:
            side.drop_in.unlink()
            assert side.running.post("/reload")["applied"]
            side.text = ""
    assert seen.failures == []
    assert seen.is_downloaded
    assert min(seen.newcomers, seen.pages) > RELOADS / 4
    for side, few in zip(sides, descriptors, strict=True):
        assert SEEN[side.name] - side.changed.keys() == set()
        wait_until_few(side.process, few)
        assert "Traceback" not in side.process.logged()
    half = len(sizes) // 2  # by then every kind of change was seen at least once
    for early, late in zip(greatest(sizes[:half]), greatest(sizes[half:]), strict=True):
        assert late < GROWTH * early
