"""Both doctors beside what they examine, on loopback; worlds that are broken: tests/system."""

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.proxies import proxy
from tests.e2e.targets import pages
from tests.e2e.visitors import parse, read_all, request, tls
from tests.e2e.world import ROOT, Client, Relay, World, new_world, program
from tests.ports import free_port
from tunnel.client.doctor import examination
from tunnel.settings.load import load_client

NOWHERE = ("--socket", "nowhere.sock")  # so that the running program is not found


@dataclass(frozen=True)
class Opinion:
    """What a doctor has said: its lines as (check, of, outcome, seen)."""

    status: int
    running: int | None
    lines: list[tuple[str, str, str, str]]

    def of(self, check: str) -> list[tuple[str, str, str]]:
        """Return the lines of one kind."""
        return [line[1:] for line in self.lines if line[0] == check]

    def troubled(self) -> set[str]:
        """Return what has failed."""
        return {check for check, _, outcome, _ in self.lines if outcome == "failed"}


@dataclass(frozen=True)
class Setting:
    """A relay and its client, which serves."""

    world: World
    relay: Relay
    client: Client

    def examine(self, what: str, *arguments: str) -> Opinion:
        """Return what the doctor of `relay` or `client` says."""
        part: Relay | Client = self.relay if what == "relay" else self.client
        return examine(self.world, what, "-c", str(part.settings), *arguments)


def examine(world: World, what: str, *arguments: str) -> Opinion:
    asked = subprocess.run(
        [*program(what), "doctor", "--json", *arguments],
        cwd=world.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.stderr == ""
    answer = json.loads(asked.stdout)
    members = ("check", "of", "outcome", "seen")
    lines = [tuple(each[member] for member in members) for each in answer["checks"]]
    return Opinion(asked.returncode, answer["running"], lines)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    with pages() as target, new_world(tmp_path_factory.mktemp("doctor")) as world:
        relay = world.relay()
        client = world.client(relay, target=target)
        assert client.host
        yield Setting(world, relay, client)
        world.report()


def sessions(setting: Setting) -> list[str]:
    status = setting.world.ask("relay", "status", "-c", str(setting.relay.settings))
    return [client["session"] for client in status["clients"]]


def test_a_clients_doctor_asks_the_client_that_runs(setting: Setting) -> None:
    opinion = setting.examine("client")
    process = setting.client.process.popen.pid
    assert (opinion.status, opinion.running, opinion.troubled()) == (0, process, set())
    seen = f"process {process} serves {setting.client.host} over quic"
    assert opinion.of("registration") == [("relay, primary", "ok", seen)]
    assert opinion.of("clock")[0][1] == "ok"  # which the relay has told


def test_a_trial_beside_a_client_that_serves_cuts_no_visitor_and_takes_nothing_over(
    setting: Setting,
) -> None:
    before = sessions(setting)
    with tls(setting.relay, setting.client) as visitor:
        visitor.sendall(b"GET /slow/300000 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        opinion = setting.examine("client", *NOWHERE)
        answer = parse(read_all(visitor))
    granted = f"the relay grants {setting.client.host} over quic"
    assert (opinion.status, opinion.running) == (0, None)
    assert opinion.of("registration") == [("relay, primary", "ok", granted)]
    assert (answer.status, len(answer.body)) == (200, 300_000)
    assert sessions(setting) == before
    assert "superseded" not in setting.client.process.logged()
    with tls(setting.relay, setting.client) as visitor:
        assert request(visitor, "/").status == 200


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_is_gone_through_and_blamed_for_what_it_refuses(
    setting: Setting, scheme: str
) -> None:
    asked: list[str] = []
    with proxy(scheme, ("ann", "secret"), asked) as address:
        table = findings_of(setting, f"{scheme}://ann:${{PASSWORD}}@{address}", "secret")
        assert {table[check] for check in ("proxy", "tcp", "pin", "registration")} == {"ok"}
        assert set(asked) == {f"127.0.0.1:{setting.relay.agents_port}"}
        assert (table["dns"], table["udp"]) == ("skipped", "skipped")
        refused = findings_of(setting, f"{scheme}://ann:${{PASSWORD}}@{address}", "wrong")
    assert (refused["proxy"], refused["tcp"]) == ("failed", "skipped")
    assert findings_of(setting, f"{scheme}://{address}")["proxy"] == "failed"  # it has ended


def findings_of(setting: Setting, way: str, password: str = "") -> dict[str, str]:
    """Return the outcomes of an examination in this process, through a proxy."""
    text = setting.client.settings.read_text()
    settings = setting.world.folder / "proxied.toml"
    settings.write_text(text.replace("pin =", f'transport = "h2"\nproxy = "{way}"\npin =', 1))
    loaded = load_client(settings, {"PASSWORD": password})
    findings = asyncio.run(examination.examine(loaded, None))
    return {finding.check: finding.outcome.value for finding in findings}


def test_a_relays_doctor_knows_its_own_ports(setting: Setting) -> None:
    opinion = setting.examine("relay")
    process = setting.relay.process.popen.pid
    held = f"held by this relay, process {process}"
    assert opinion.running == process
    assert [(outcome, seen) for _, outcome, seen in opinion.of("port")] == [("ok", held)] * 3
    assert opinion.of("certificate")[0][1] == "ok"
    assert opinion.troubled() <= {"name"}  # nobody has a record for the suffix of a test


def test_a_relays_doctor_names_who_has_a_port(setting: Setting) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = ["--pub-port", str(taken.getsockname()[1]), "--api-port", str(free_port())]
        opinion = examine(setting.world, "relay", *ports, *NOWHERE)
    *agents, (_, outcome, seen) = opinion.of("port")
    assert [line[1] for line in agents] == ["ok", "ok"]
    assert (opinion.status, opinion.troubled(), outcome) == (1, {"port"}, "failed")
    assert seen.startswith(f"held by process {os.getpid()} (")
