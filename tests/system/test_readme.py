"""Every command that the README shows is run as it stands there, or is shown to be run by CI."""

import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.world import ROOT, Process
from tests.pebble import pebble
from tests.ports import free_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

TEXT = (ROOT / "README.md").read_text()
PROGRAM = r"(?:\./dist/)?(?:relay|client)\.pyz"


def shown() -> list[str]:
    """Return the commands: lines of shell blocks, and programs with arguments in running text."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    inline = re.findall(rf"`({PROGRAM} [^`]+|\./scripts/[^`]+)`", prose)
    return list(dict.fromkeys([line for line in lines if line] + inline))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a reader would stand: the programs below it and, copied, beside it."""
    made = tmp_path_factory.mktemp("reader")
    (made / "dist").symlink_to(ROOT / "dist")
    return made


def words(command: str) -> list[str]:
    """Return the command's words; a program without a path is the one that was built."""
    return [
        str(ROOT / "dist" / word) if re.fullmatch(r"(relay|client)\.pyz", word) else word
        for word in shlex.split(command)
    ]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a reader whose state stays in the folder."""
    return {**os.environ, "XDG_STATE_HOME": str(folder / "state")}


def run(command: str, folder: Path, status: int = 0) -> str:
    """Run a command that ends with a status, and return what it printed."""
    done = subprocess.run(
        words(command),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


class Daemons:
    """The daemons that the README has started, of which one relay is up at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Process] = []

    def start(self, command: str, pattern: str) -> str:
        """Start a daemon and return what the pattern finds in its output."""
        os.environ["XDG_STATE_HOME"] = str(self.folder / "state")
        process = Process(words(command), self.folder, f"daemon-{len(self.running)}")
        self.running.append(process)
        return process.wait_for(pattern)[0]

    def stop(self) -> None:
        """End them as Ctrl-C does; each must end cleanly."""
        for process in self.running:
            if process.popen.poll() is None:
                process.signal(signal.SIGINT)
                assert process.wait() == 0
        self.running.clear()


@pytest.fixture
def daemons(folder: Path) -> Iterator[Daemons]:
    """Return a starter of daemons, which are gone when the test ends."""
    made = Daemons(folder)
    try:
        yield made
    finally:
        for process in made.running:
            process.popen.kill()


SERVED_BY_CI = ("./scripts/check", "./scripts/test", "./scripts/test-system")
DEMO = "./scripts/demo"
DEMO_ACME = "./scripts/demo --acme"
SCRIPTS: dict[str, list[str]] = {
    "./scripts/build": [],
    "./scripts/bench": ["--rounds", "1", "--seconds", "0.3", "ours-quic"],
    "./scripts/fuzz": ["5"],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs(script: str) -> None:
    run(" ".join([script, *SCRIPTS[script]]), ROOT)


def test_the_demo_shows_a_page_over_both_transports() -> None:
    said = run(DEMO, ROOT)
    for what in (
        r"ID: [0-9a-f]{32}",
        r"URL: https://\S+",
        "over quic, .*Hello",
        "over h2, .*Hello",
    ):
        assert re.search(what, said), f"{what!r} is not in:\n{said}"


def test_the_demo_shows_certificates_from_an_authority() -> None:
    said = run(DEMO_ACME, ROOT)
    pins = re.findall(r"relay's pin, .*(sha256:[0-9a-f]{64})", said)
    assert len(pins) == 2
    assert len(set(pins)) == 1
    issued = re.findall(r"(relay|client)'s certificate: issued by CN=Pebble .* to \d{4}-", said)
    assert issued == ["relay", "client", "client"]
    for transport in ("quic", "h2"):
        assert re.search(rf"over {transport}, certificate verified: .*Hello", said)


@pytest.mark.parametrize("script", SERVED_BY_CI)
def test_a_script_is_run_by_ci(script: str) -> None:
    assert script.removeprefix("./") in (ROOT / ".ci/run").read_text().splitlines()


RELAY_INIT = "./dist/relay.pyz init relay.toml"
RELAY_CHECK = "./dist/relay.pyz -c relay.toml --check"
RELAY_RUN = "./dist/relay.pyz -c relay.toml"
RELAY_QUICK = "relay.pyz --domain-suffix t.example.org --open"
CLIENT_QUICK = (
    "client.pyz --server relay.example.org --domain-suffix t.example.org "
    "--pin sha256:… --local 3000"
)
RELAY_ACME = (
    "relay.pyz --domain-suffix t.example.org --open --pub-port 443 "
    "--acme-domain relay.example.org --acme-email you@example.org"
)
CLIENT_ACME = f"{CLIENT_QUICK} --acme-email you@example.org"
CLIENT_INIT = "client.pyz init client.toml"
CLIENT_RUN = "client.pyz -c client.toml"
CLIENT_ID = "client.pyz id -c client.toml"
RELAY_STATUS = "relay.pyz status -c relay.toml"
RELAY_EXPLAIN = "relay.pyz explain www.t.example.org -c relay.toml"
RELAY_RELOAD = "relay.pyz reload -c relay.toml"
RELAY_DRAIN = "relay.pyz drain -c relay.toml"
CLIENT_DOCTOR = "client.pyz doctor -c client.toml"
CLIENT_READY = "client.pyz status --check -c client.toml"
STAY = "./scripts/demo --stay"
PIN = r"--pin sha256:[0-9a-f]{64}"


def test_a_relay_from_a_commented_file(folder: Path, daemons: Daemons) -> None:
    run(RELAY_INIT, folder)
    assert "no faults" in run(RELAY_CHECK, folder)
    daemons.start(RELAY_RUN, PIN)
    assert ": serving, ready\n" in run(RELAY_STATUS, folder)
    assert "www.t.example.org: turned away: nobody serves it" in run(RELAY_EXPLAIN, folder)
    assert run(RELAY_RELOAD, folder) == "reloaded: nothing\n"
    assert "draining" in run(RELAY_DRAIN, folder)
    assert daemons.running[-1].wait() == 0
    daemons.stop()


def test_a_relay_and_a_client_without_a_file(daemons: Daemons) -> None:
    pin = daemons.start(RELAY_QUICK, PIN)
    line = to_this_machine(CLIENT_QUICK, pin)
    assert daemons.start(line, r"URL: \S+").endswith(".t.example.org:8443")
    daemons.stop()


def to_this_machine(command: str, pin: str) -> str:
    """Return a client's command for a relay on this machine, which has that pin."""
    return command.replace("relay.example.org", "127.0.0.1").replace("--pin sha256:…", pin)


def test_a_relay_and_a_client_with_certificates_from_an_authority(
    folder: Path, daemons: Daemons
) -> None:
    port = free_port()  # in the place of 443, which others may have
    with pebble(folder / "authority", tls_port=port) as authority:
        private = f" --acme-directory {authority.directory_url} --acme-ca {authority.root_file}"
        relay = RELAY_ACME.replace("--pub-port 443", f"--pub-port {port}") + private
        pin = daemons.start(relay, PIN)
        daemons.running[-1].wait_for(r"certificate issued .*names=relay\.example\.org")
        daemons.start(to_this_machine(CLIENT_ACME, pin) + private, r"certificate issued ")
        url = daemons.running[-1].wait_for(rf"URL: https://(\S+):{port}")
        trusted = ssl.create_default_context(cadata=authority.issuing_roots())
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        with plain, trusted.wrap_socket(plain, server_hostname=url[1]) as visitor:
            assert visitor.version() == "TLSv1.3"
        daemons.stop()


def test_a_client_from_a_commented_file(folder: Path, daemons: Daemons) -> None:
    run(CLIENT_INIT, folder)
    assert "t.example.org" in run(CLIENT_ID, folder)
    daemons.start(CLIENT_RUN, r"eu\.example\.org")  # does not resolve: it says so, and goes on
    assert "no relay serves any name" in run(CLIENT_READY, folder, status=1)
    assert re.search(r"failed +dns +eu +eu\.example\.org", run(CLIENT_DOCTOR, folder, status=1))
    daemons.stop()


def test_the_demo_stays_until_ctrl_c(daemons: Daemons) -> None:
    daemons.folder = ROOT / ".cache"
    process = Process([str(ROOT / "scripts/demo"), "--stay"], daemons.folder, "demo")
    daemons.running.append(process)
    line = process.wait_for(r"curl --cacert .+", timeout=120)[0]
    assert b"Hello" in subprocess.run(shlex.split(line), capture_output=True, check=True).stdout
    daemons.stop()


def test_nothing_is_shown_that_is_not_run() -> None:
    known: tuple[Callable[..., object] | str, ...] = (
        *SCRIPTS,
        *SERVED_BY_CI,
        *(RELAY_INIT, RELAY_CHECK, RELAY_RUN, RELAY_QUICK),
        *(RELAY_ACME, CLIENT_ACME),
        *(RELAY_STATUS, RELAY_EXPLAIN, RELAY_RELOAD, RELAY_DRAIN, CLIENT_DOCTOR, CLIENT_READY),
        *(CLIENT_QUICK, CLIENT_INIT, CLIENT_RUN, CLIENT_ID, DEMO, DEMO_ACME, STAY),
    )
    assert sorted(shown()) == sorted(str(each) for each in known)
