"""Both programs asked and told by their control sockets and scraped, as operators do it."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.targets import pages
from tests.e2e.visitors import get, request, tls
from tests.e2e.world import ROOT, SUFFIX, Client, Relay, World, new_world, program
from tests.ports import free_port

VERB_TIMEOUT = 0.25  # seconds that a verb may take, warm
TRIES = 10
PRESENT = 'tunnel_client_visitors{endpoint="web"}'


class Setting:
    """A relay and its client, each with a metrics address."""

    def __init__(self, world: World, target: str) -> None:
        self.world = world
        self.metrics = {"relay": free_port(), "client": free_port()}
        self.relay = world.relay(extra=self._admin("relay"))
        self.client = world.client(self.relay, target=target, extra=self._admin("client"))
        assert self.client.host

    def _admin(self, name: str) -> str:
        return f'[admin]\nmetrics = "127.0.0.1:{self.metrics[name]}"\n'

    def settings(self, name: str) -> Path:
        part: Relay | Client = self.relay if name == "relay" else self.client
        return part.settings

    def run(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb against the running program."""
        command = [*program(name), *words, "-c", str(self.settings(name))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=15
        )

    def seconds(self, name: str, *words: str) -> float:
        """Return how long a verb takes where both programs have a processor when they want one."""
        part: Relay | Client = self.relay if name == "relay" else self.client
        others = queued(part.process.popen.pid)
        begun = time.monotonic()
        with subprocess.Popen(
            [*program(name), *words, "-c", str(self.settings(name))],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as verb:
            os.waitid(os.P_PID, verb.pid, os.WEXITED | os.WNOWAIT)
            taken = time.monotonic() - begun
            waited = queued(verb.pid) + queued(part.process.popen.pid) - others
        assert verb.returncode == 0
        return taken - waited

    def ask(self, name: str, *words: str) -> Any:
        """Return what a verb prints as JSON."""
        answer = self.run(name, *words, "--json")
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    def scrape(self, name: str, page: str = "metrics") -> tuple[int, str]:
        """Return status and text of a page of the metrics address."""
        url = f"http://127.0.0.1:{self.metrics[name]}/{page}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def figure(self, name: str, sample: str) -> float:
        """Return the value of one sample."""
        lines = self.scrape(name)[1].splitlines()
        return float(next(line for line in lines if line.startswith(f"{sample} ")).split()[-1])


def queued(pid: int) -> float:
    """Return the seconds that a process was ready to run, but others did (proc(5), schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """Return a relay and a client that have served one visitor."""
    with pages() as target, new_world(tmp_path_factory.mktemp("admin")) as world:
        made = Setting(world, target)
        visit(made)
        yield made
        world.report()


def visit(setting: Setting) -> None:
    """Fetch a page, and wait until both programs have seen the visitor go: then all is counted."""
    assert get(setting.relay, setting.client).status == 200
    gauges = [("relay", "tunnel_relay_visitors"), ("client", PRESENT)]
    deadline = time.monotonic() + 10
    while any(setting.figure(*gauge) for gauge in gauges):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_status_of_a_relay_says_who_is_there(setting: Setting) -> None:
    status = setting.ask("relay", "status")
    (client,) = status["clients"]
    (link,) = client["connections"]
    assert (status["state"], status["ready"], status["why"]) == ("serving", True, None)
    assert client["names"] == [setting.client.host]
    assert (link["transport"], link["state"]) == ("quic", "ready")
    assert link["observed"].startswith("127.0.0.1:")
    assert client["received"] > 0
    assert client["sent"] > 0
    assert status["visitors"]["total"] == 1
    assert status["certificate"]["source"] == "self-signed"
    assert [each["protocol"] for each in status["listeners"]] == ["tcp", "udp", "tcp"]


def test_status_of_a_client_says_how_and_why(setting: Setting) -> None:
    (endpoint,) = setting.ask("client", "status")["endpoints"]
    (way,) = endpoint["servers"]
    (certificate,) = endpoint["certificates"]
    assert endpoint["urls"] == setting.client.urls
    assert (way["transport"], way["reason"]) == ("quic", "UDP passes")
    assert way["names"] == [setting.client.host]
    assert (endpoint["visitors"], endpoint["target_failures"]) == (1, 0)
    assert endpoint["received"] > 0
    assert (certificate["source"], certificate["state"]) == ("self-signed", "valid")


@pytest.mark.parametrize("name", ["relay", "client"])
def test_status_is_a_table_for_people(setting: Setting, name: str) -> None:
    answer = setting.run(name, "status")
    assert answer.returncode == 0
    assert answer.stdout.startswith(f"{name}")
    assert setting.client.host in answer.stdout
    assert "\x1b" not in answer.stdout


def test_explain_says_where_a_visitor_would_go(setting: Setting) -> None:
    served = setting.ask("relay", "explain", setting.client.host.upper())
    assert (served["name"], served["outcome"]) == (setting.client.host, "served")
    unknown = setting.ask("relay", "explain", f"{'0' * 32}.{SUFFIX}")
    assert unknown["outcome"] == "turned away"
    assert setting.run("relay", "explain", "no host").returncode == 1


def test_certificates_are_listed_and_only_orders_are_renewed(setting: Setting) -> None:
    (certificate,) = setting.ask("client", "cert", "list")["certificates"]
    assert certificate["name"] == setting.client.host
    answer = setting.run("client", "cert", "renew", setting.client.host)
    assert (answer.returncode, answer.stderr) == (
        1,
        'the certificate is "self-signed": there is nobody to order from\n',
    )


@pytest.mark.parametrize("name", ["relay", "client"])
def test_a_check_is_an_exit_status(setting: Setting, name: str) -> None:
    answer = setting.run(name, "status", "--check")
    assert (answer.returncode, answer.stdout) == (0, "ready\n")


@pytest.mark.parametrize("name", ["relay", "client"])
def test_metrics_are_as_prometheus_wants_them(setting: Setting, name: str) -> None:
    setting.run("relay", "explain", "nobody.example")
    status, text = setting.scrape(name)
    judged = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert status == 200
    assert (judged.returncode, judged.stdout + judged.stderr) == (0, "")


def test_metrics_count_visitors_and_bytes(setting: Setting) -> None:
    samples = [
        ("relay", "tunnel_relay_visitors_accepted_total"),
        ("relay", 'tunnel_relay_visitor_bytes_total{direction="sent"}'),
        ("client", 'tunnel_client_visitors_accepted_total{endpoint="web"}'),
        ("client", 'tunnel_client_visitor_bytes_total{direction="sent",endpoint="web"}'),
    ]
    before = [setting.figure(*sample) for sample in samples]
    visit(setting)
    after = [setting.figure(*sample) for sample in samples]
    assert all(new > old for old, new in zip(before, after, strict=True))
    assert after[0] - before[0] == 1


def test_metrics_count_who_is_turned_away(setting: Setting) -> None:
    sample = 'tunnel_relay_visitors_refused_total{reason="hello"}'
    with socket.create_connection(("127.0.0.1", setting.relay.public_port), 5) as visitor:
        visitor.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while visitor.recv(1000):
            pass
    assert setting.figure("relay", sample) == 1


@pytest.mark.parametrize("name", ["relay", "client"])
def test_nothing_can_be_done_over_tcp(setting: Setting, name: str) -> None:
    assert setting.scrape(name, "livez") == (200, "live\n")
    assert setting.scrape(name, "readyz") == (200, "ready\n")
    assert setting.scrape(name, "status")[0] == 404
    assert setting.scrape(name, "drain")[0] == 404


@pytest.mark.alone
@pytest.mark.parametrize("name", ["relay", "client"])
@pytest.mark.parametrize("words", [("status",), ("status", "--check"), ("cert", "list")])
def test_a_verb_answers_at_once(setting: Setting, name: str, words: tuple[str, ...]) -> None:
    taken: list[float] = []
    while min(taken, default=inf) > VERB_TIMEOUT and len(taken) < TRIES:
        taken.append(setting.seconds(name, *words))
    assert min(taken) <= VERB_TIMEOUT, taken


def test_a_client_that_no_relay_serves_says_why_not(world: World, target: str) -> None:
    relay = world.relay()
    world.client(relay, target=target, server="transport = 'h2'").process.wait_for("connected")
    relay.process.kill()
    client = world.folder / "client.toml"
    deadline = time.monotonic() + 10
    while (answer := check(client)).returncode == 0 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert answer.returncode == 1
    assert answer.stdout.startswith("no relay serves any name (relay: ")


def check(settings: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program("client"), "status", "--check", "-c", str(settings)],
        capture_output=True,
        text=True,
        check=False,
        timeout=15,
    )


@pytest.mark.parametrize("name", ["relay", "client"])
def test_drain_ends_a_program_in_order(world: World, target: str, name: str) -> None:
    relay = world.relay()
    client = world.client(relay, target=target)
    assert client.host
    part: Relay | Client = relay if name == "relay" else client
    assert world.ask(name, "drain", "-c", str(part.settings)) == {"draining": True}
    assert part.process.wait() == 0
    assert "asked to drain" in part.process.logged()
    assert not (world.folder / f"{name}-state" / "admin.sock").exists()


def test_a_service_manager_may_stop_what_drains_without_cutting_anybody(
    world: World, target: str
) -> None:
    relay = world.relay()
    client = world.client(relay, target=target)
    assert client.host
    with tls(relay, client) as visitor:
        world.ask("relay", "drain", "-c", str(relay.settings))
        relay.process.wait_for("draining")
        relay.process.signal(signal.SIGTERM)
        assert request(visitor, "/").status == 200
    assert relay.process.wait() == 0


@pytest.mark.parametrize("name", ["relay", "client"])
def test_reload_shows_applies_and_refuses(setting: Setting, name: str) -> None:
    file = setting.settings(name)
    before = file.read_text()
    try:
        file.write_text(f'{before}[log]\nlevel = "debug"\n')
        looked = setting.run(name, "reload", "--dry-run")
        assert (looked.returncode, looked.stdout) == (0, "to be changed: log.level\n")
        applied = setting.run(name, "reload")
        assert (applied.returncode, applied.stdout) == (0, "reloaded: log.level\n")
        assert setting.run(name, "reload").stdout == "reloaded: nothing\n"
        file.write_text(f"{before}[log]\nlevel = 7\n")
        refused = setting.run(name, "reload", "--json")
        outcome = json.loads(refused.stdout)
        line = len(before.splitlines()) + 2
        assert (refused.returncode, outcome["applied"], outcome["plan"]) == (78, False, None)
        assert f"{file.name}:{line}: log.level" in outcome["faults"][0]
        assert setting.run(name, "reload").stderr.startswith(outcome["faults"][0])
    finally:
        file.write_text(before)
        assert setting.run(name, "reload").returncode == 0


def test_a_reload_that_needs_a_restart_says_so_and_changes_nothing(setting: Setting) -> None:
    file = setting.settings("relay")
    before = file.read_text()
    try:
        file.write_text(before.replace('state_dir = "relay-state"', 'state_dir = "elsewhere"'))
        looked = subprocess.run(  # by -c it would be looked for in the new place
            [*program("relay"), "reload", "--dry-run", "--json", "--socket", _socket(setting)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=15,
        )
        outcome = json.loads(looked.stdout)
        assert (looked.returncode, outcome["applied"]) == (78, False)
        assert outcome["plan"]["restart_required"] == ["relay.state_dir"]
        assert outcome["faults"] == [f"{file}:3: relay.state_dir: needs a restart"]
    finally:
        file.write_text(before)


@pytest.mark.parametrize("name", ["relay", "client"])
def test_a_reload_moves_the_doors_and_is_answered_through_the_old_one(
    setting: Setting, name: str
) -> None:
    file, metrics = setting.settings(name), setting.metrics[name]
    sockets = [setting.world.folder / word for word in (f"{name}-1", f"{name}-2")]
    before = file.read_text()
    try:
        for socket_path in sockets:
            file.write_text(f'{before}socket = "{socket_path}"\n')
            moved = setting.run(name, "reload")
            assert (moved.returncode, moved.stdout) == (0, "reloaded: admin.socket\n")
            assert setting.run(name, "status", "--check").stdout == "ready\n"
        assert not sockets[0].exists()
        setting.metrics[name] = free_port()
        file.write_text(before.replace(str(metrics), str(setting.metrics[name])))
        moved = setting.run(name, "reload")
        assert (moved.returncode, moved.stdout) == (0, "reloaded: admin.metrics, admin.socket\n")
        assert setting.scrape(name, "livez") == (200, "live\n")
        assert not sockets[1].exists()
    finally:
        setting.metrics[name] = metrics
        file.write_text(before)
        assert setting.run(name, "reload").returncode == 0


def test_systemd_reloads_a_relay_whose_socket_moves(setting: Setting, tmp_path: Path) -> None:
    file = setting.settings("relay")
    before = file.read_text()
    try:
        for more in (f'socket = "{tmp_path}/moved"\n', ""):
            file.write_text(before + more)
            moved = subprocess.run(  # as ExecReload does, which has no terminal and no --socket
                [*program("relay"), "reload", "-c", str(file)],
                capture_output=True,
                check=False,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
                timeout=15,
            )
            assert (moved.returncode, moved.stderr) == (0, b"")
    finally:
        file.write_text(before)


def _socket(setting: Setting) -> str:
    return str(setting.world.folder / "relay-state" / "admin.sock")
