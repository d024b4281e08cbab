"""The client's doctor in a healthy world, and in worlds of which one thing is broken.

Each has a relay in one network namespace and the doctor in another, with a name server of its own.
That the fault is named is half of it: nothing else may be blamed.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path as File

import pytest
import trustme

from tests.e2e.targets import pages
from tests.e2e.world import ROOT, SUFFIX, Relay, World, new_world, program
from tests.ports import free_port
from tests.system.conftest import Record
from tests.system.names import HERE, asking, name_server
from tests.system.network import RELAY_HOST, Path, inside, new_path
from tunnel.runtime.buffers import granted_buffers, judge_buffers

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

DELAY_MS, RATE_MBIT = 10.0, 100.0
WITHIN = 15.0  # seconds that an examination may take, whatever the network does
ZONE = "test"  # every name below it is the relay's
RELAY_NAME = f"relay.{ZONE}"
WRONG_PIN = f"sha256:{'0' * 64}"
BUFFERS = judge_buffers(granted_buffers()).outcome.value  # this machine's, whatever the world

HEALTHY = {
    "dns": "ok",
    "ipv4": "ok",
    "ipv6": "skipped",  # the relay has none
    "udp": "ok",
    "tcp": "ok",
    "certificate": "ok",
    "pin": "skipped",  # none is set
    "clock": "ok",
    "registration": "ok",
    "challenge": "ok",
    "target": "ok",
    "buffers": BUFFERS,
}


@dataclass(frozen=True)
class Opinion:
    """What a doctor has said; `lines` are the outcomes, by what was looked at."""

    status: int
    lines: Mapping[str, str]
    advice: Mapping[str, str]
    seen: Mapping[str, str]
    seconds: float


@dataclass
class Clinic:
    """A relay that serves, a target, and a doctor's settings that lead to both."""

    path: Path
    world: World
    relay: Relay
    target: str
    resolv_conf: File

    def examine(self, *, server: str = "", target: str = "", shift: str = "") -> Opinion:
        """Return what the doctor says; `server` is TOML in the place of address and trust.

        `shift` is by how much this machine's clock is off for it.
        """
        settings = self._settings(server or self.server(), target or self.target)
        clock = ["faketime", "-f", shift] if shift else []
        command = ["ip", "netns", "exec", self.path.client, *clock, *program("client")]
        begun = time.monotonic()
        asked = subprocess.run(
            [*command, "doctor", "--json", "-c", str(settings)],
            cwd=self.world.folder,
            # Timers go on as ever: a machine whose date is wrong does not jump.
            env={**os.environ, "PYTHONPATH": str(ROOT), "DONT_FAKE_MONOTONIC": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - begun
        assert asked.stderr == ""
        checks = json.loads(asked.stdout)["checks"]
        assert len({check["check"] for check in checks}) == len(checks)
        outcomes, advice, seen = (
            {check["check"]: check[member] for check in checks}
            for member in ("outcome", "advice", "seen")
        )
        return Opinion(asked.returncode, outcomes, advice, seen, seconds)

    def reload(self, settings: str) -> None:
        """Bring other settings of the relay into force."""
        self.relay.settings.write_text(settings)
        command = [*program("relay"), "reload", "-c", str(self.relay.settings)]
        subprocess.run(command, cwd=self.world.folder, check=True, capture_output=True)

    def server(self, port: int | None = None) -> str:
        """Return the settings of a server that trusts by certificate."""
        where = f"{RELAY_NAME}:{port or self.relay.agents_port}"
        return f'address = "{where}"\nca = "ca.pem"'

    def pinned(self, pin: str) -> str:
        """Return the settings of a server that trusts by pin."""
        return f'address = "{RELAY_NAME}:{self.relay.agents_port}"\npin = "{pin}"'

    def _settings(self, server: str, target: str) -> File:
        settings = self.world.folder / "client.toml"
        settings.write_text(
            f'[client]\nstate_dir = "client-state"\n[servers.eu]\n{server}\n'
            '[keypairs.primary]\nfile = "client.key"\n'
            f'[endpoints.web]\nkeypair = "primary"\nsuffix = "{SUFFIX}"\ntarget = "{target}"\n'
            'certificate = "acme"\n[acme]\ndirectory = "https://authority.test/directory"\n'
        )
        return settings


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """Have one world for all tests."""
    folder = tmp_path_factory.mktemp("clinic")
    write_certificate(folder)
    files = '[certificate]\nmode = "files"\nchain_file = "chain.pem"\nkey_file = "key.pem"\n'
    validations = f'[listeners.validations]\nkind = "public"\nlisten = ["{RELAY_HOST}:443"]\n'
    with ExitStack() as stack:
        path = stack.enter_context(new_path(DELAY_MS, RATE_MBIT))
        stack.enter_context(name_server(path.client, ZONE, RELAY_HOST))
        resolv_conf = stack.enter_context(asking(path.client))
        with inside(path.client):
            target = stack.enter_context(pages())
        world = stack.enter_context(new_world(folder, RELAY_HOST))
        with inside(path.relay):
            relay = world.relay(extra=files + validations)
        key = [*program("client"), "keygen", "client.key"]
        subprocess.run(key, cwd=folder, check=True, capture_output=True)
        yield Clinic(path, world, relay, target, resolv_conf)


@pytest.fixture
def clinic(healthy: Clinic) -> Iterator[Clinic]:
    """Return the world in which all is well, and mend it again afterwards."""
    before = healthy.relay.settings.read_text()
    yield healthy
    healthy.path.command("blackhole off")
    healthy.resolv_conf.write_text(f"nameserver {HERE}\n")
    if healthy.relay.settings.read_text() != before:
        healthy.reload(before)
    healthy.world.report()


def write_certificate(folder: File) -> None:
    """Write the relay's certificate, which is in date for some weeks, and what it is trusted by."""
    now = datetime.now(UTC)
    authority = trustme.CA()
    leaf = authority.issue_cert(
        RELAY_NAME, not_before=now - timedelta(days=10), not_after=now + timedelta(days=80)
    )
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    (folder / "key.pem").write_bytes(leaf.private_key_pem.bytes())
    (folder / "key.pem").chmod(0o600)


def test_in_a_healthy_world_every_line_is_ok(clinic: Clinic, record: Record) -> None:
    opinion = clinic.examine()
    record("examined within", opinion.seconds)
    assert (opinion.lines, opinion.status) == (HEALTHY, 0)
    assert not any(opinion.advice[check] for check in HEALTHY if check != "buffers")
    pinned = clinic.examine(server=clinic.pinned(clinic.relay.pin))
    assert (pinned.lines, pinned.status) == ({**HEALTHY, "pin": "ok"}, 0)


def test_without_dns_it_is_dns(clinic: Clinic, record: Record) -> None:
    clinic.resolv_conf.write_text(f"nameserver {RELAY_HOST}\n")
    clinic.path.command("blackhole all")  # the query is lost, and never answered
    opinion = clinic.examine()
    record("examined within", opinion.seconds)
    unknown = ("ipv4", "udp", "tcp", "certificate", "clock", "registration")
    assert opinion.lines == {
        **HEALTHY,
        "dns": "failed",
        **dict.fromkeys(unknown, "skipped"),
        "challenge": "warning",  # whose name cannot be looked up either
    }
    assert "resolv.conf" in opinion.advice["dns"]
    assert (opinion.status, opinion.seconds <= WITHIN) == (1, True)


def test_a_name_that_does_not_exist_is_told_from_dns_that_is_silent(clinic: Clinic) -> None:
    server = clinic.server().replace(RELAY_NAME, "relay.example")
    opinion = clinic.examine(server=server)
    assert (opinion.lines["dns"], opinion.lines["challenge"]) == ("failed", "ok")
    assert "correct address in [servers.eu]" in opinion.advice["dns"]


def test_where_udp_is_blocked_it_is_udp(clinic: Clinic, record: Record) -> None:
    clinic.path.command("blackhole udp")
    opinion = clinic.examine()
    record("examined within", opinion.seconds)
    assert opinion.lines == {**HEALTHY, "udp": "failed"}
    assert "firewall" in opinion.advice["udp"]
    assert "over h2" in opinion.seen["registration"]
    assert (opinion.status, opinion.seconds <= WITHIN) == (1, True)


def test_with_a_wrong_pin_it_is_the_pin(clinic: Clinic) -> None:
    opinion = clinic.examine(server=clinic.pinned(WRONG_PIN))
    assert opinion.lines == {**HEALTHY, "pin": "failed", "registration": "skipped"}
    assert clinic.relay.pin in opinion.seen["pin"]
    assert opinion.status == 1


@pytest.mark.parametrize("shift", ["+365d", "-365d"])
def test_with_a_clock_off_by_a_year_it_is_the_clock(clinic: Clinic, shift: str) -> None:
    opinion = clinic.examine(shift=shift)
    assert opinion.lines == {
        **HEALTHY,
        "clock": "failed",
        "certificate": "skipped",  # as by this clock nobody can tell
        "registration": "skipped",
    }
    assert f"{datetime.now(UTC):%Y-%m-%d}" in opinion.seen["clock"].partition(" and ")[2]
    assert opinion.status == 1


def test_behind_a_pin_a_clock_off_by_a_year_is_the_only_fault(clinic: Clinic) -> None:
    opinion = clinic.examine(server=clinic.pinned(clinic.relay.pin), shift="+365d")
    assert opinion.lines == {**HEALTHY, "pin": "ok", "clock": "failed"}


def test_with_a_closed_port_it_is_the_port(clinic: Clinic) -> None:
    port = free_port()
    opinion = clinic.examine(server=clinic.server(port))
    unmet = ("certificate", "clock", "registration")
    assert opinion.lines == {
        **HEALTHY,
        **dict.fromkeys(("udp", "tcp"), "failed"),
        **dict.fromkeys(unmet, "skipped"),
    }
    for name in ("udp", "tcp"):
        assert f"nothing listens on {name.upper()} port {port}" in opinion.advice[name]
    assert opinion.status == 1


def test_with_the_target_down_it_is_the_target(clinic: Clinic) -> None:
    opinion = clinic.examine(target=f"127.0.0.1:{free_port()}")
    assert opinion.lines == {**HEALTHY, "target": "failed"}
    assert "[endpoints.web]" in opinion.advice["target"]
    assert opinion.status == 1


def test_without_port_443_it_is_the_challenge_path(clinic: Clinic) -> None:
    settings = clinic.relay.settings.read_text()
    clinic.reload(settings.replace(f"{RELAY_HOST}:443", f"{RELAY_HOST}:444"))
    opinion = clinic.examine()
    assert opinion.lines == {**HEALTHY, "challenge": "failed"}
    assert "TCP port 443" in opinion.advice["challenge"]


def test_in_a_network_that_swallows_everything_an_examination_ends_in_time(
    clinic: Clinic, record: Record
) -> None:
    clinic.path.command("blackhole all")
    opinion = clinic.examine()
    record("examined within", opinion.seconds)
    assert [name for name, outcome in opinion.lines.items() if outcome == "failed"] == [
        "udp",
        "tcp",
        "challenge",
    ]
    assert opinion.seconds <= WITHIN
