"""Programs that people use fetch pages through the tunnel, the self-signed certificate verified."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.e2e.targets import pattern
from tests.e2e.tunnels import Tunnel
from tests.e2e.visitors import parse

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

PROGRAMS = Path(__file__).parent / "programs"
SIZE = 300_000  # bytes of the page: several records and windows of every kind
BUILD_TIMEOUT = 240  # seconds; Go compiles its own library first
# Nobody else sees the /etc/hosts that $1 is put in place of.
WITH_HOSTS = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


@dataclass(frozen=True)
class Visit:
    """What a program is told: where to go, and by which certificates to know who answers."""

    host: str
    port: int
    trusted: Path
    folder: Path

    @property
    def path(self) -> str:
        """The page."""
        return f"/bytes/{SIZE}"

    @property
    def url(self) -> str:
        """The page's URL."""
        return f"https://{self.host}:{self.port}{self.path}"


def fetch_with_curl(visit: Visit) -> bytes:
    resolve = f"{visit.host}:{visit.port}:127.0.0.1"
    options = ("--silent", "--show-error", "--fail", "--noproxy", "*", "--resolve", resolve)
    return _run(["curl", *options, "--cacert", visit.trusted, visit.url])


def fetch_with_wget(visit: Visit) -> bytes:
    hosts = visit.folder / "hosts"
    hosts.write_text(f"127.0.0.1 {visit.host}\n")
    options = ("--no-proxy", "--tries=1", "--output-document=-")
    wget = ["wget", "--no-verbose", *options, f"--ca-certificate={visit.trusted}", visit.url]
    return _run(["unshare", "--mount", "sh", "-c", WITH_HOSTS, "sh", hosts, *wget])


def fetch_with_openssl(visit: Visit) -> bytes:
    name = ("-servername", visit.host, "-verify_hostname", visit.host)
    trust = ("-verify_return_error", "-CAfile", visit.trusted, "-no-CApath")
    command = ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{visit.port}"]
    request = f"GET {visit.path} HTTP/1.1\r\nHost: {visit.host}\r\nConnection: close\r\n\r\n"
    return parse(_run([*command, *name, *trust], request.encode())).body


def fetch_with_go(visit: Visit) -> bytes:
    address = f"127.0.0.1:{visit.port}"
    return _run([visit.folder / "fetch", visit.url, visit.trusted, address])


def fetch_with_node(visit: Visit) -> bytes:
    return _run(["node", PROGRAMS / "fetch.mjs", visit.url, visit.trusted, "127.0.0.1"])


def _run(command: list[str | Path], given: bytes | None = None) -> bytes:
    """Return what a command prints; raises CalledProcessError if it fails."""
    return subprocess.run(command, input=given, capture_output=True, check=True, timeout=30).stdout


Fetch = Callable[[Visit], bytes]
FETCHES = {
    "curl": fetch_with_curl,
    "wget": fetch_with_wget,
    "openssl": fetch_with_openssl,
    "go": fetch_with_go,
    "node": fetch_with_node,
}
every_program = pytest.mark.parametrize("fetch", FETCHES.values(), ids=FETCHES)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the program that was written in Go."""
    folder = tmp_path_factory.mktemp("programs")
    subprocess.run(
        ["go", "build", "-o", folder / "fetch", PROGRAMS / "fetch.go"],
        env={
            **os.environ,
            "CGO_ENABLED": "0",
            "GOTOOLCHAIN": "local",
            "GOCACHE": str(folder / "go"),
        },
        check=True,
        timeout=BUILD_TIMEOUT,
    )
    return folder


@pytest.fixture
def visit(tunnel: Tunnel, built: Path) -> Visit:
    """Return a visit of somebody who trusts the client's self-signed certificate only."""
    host = tunnel.client.host
    trusted = built / "trusted.pem"
    trusted.write_text("".join(f"{text}\n" for text in tunnel.client.certificates()))
    return Visit(host, tunnel.relay.public_port, trusted, built)


@pytest.mark.timeout(BUILD_TIMEOUT + 60)  # the first one builds
@every_program
def test_a_program_fetches_a_page(fetch: Fetch, visit: Visit) -> None:
    assert fetch(visit) == pattern(SIZE)


@pytest.mark.timeout(BUILD_TIMEOUT + 60)
@every_program
def test_a_program_that_trusts_somebody_else_fetches_nothing(fetch: Fetch, visit: Visit) -> None:
    trustme.CA().cert_pem.write_to_path(str(visit.trusted))
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        fetch(visit)
    assert b"certificate" in refusal.value.stderr.lower()
    assert pattern(SIZE)[:100] not in refusal.value.stdout
