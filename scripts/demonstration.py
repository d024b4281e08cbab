"""Relay, client, a web service and visitors on this machine; run by scripts/demo."""

import argparse
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.pebble import Pebble, pebble
from tunnel.transport.options import ALPN_HTTP2

ROOT = Path(__file__).parents[1]
AGENTS_PORT, PUBLIC_PORT = 14433, 18443  # as the files in config/demo say
RELAY_NAME = "relay.demo.localhost"  # as config/demo/acme-relay.toml says
PAGE = b"<!doctype html><title>demo</title><p>Hello from behind the tunnel.</p>\n"
START_TIMEOUT = 30.0  # seconds; a first start also unpacks the zipapp
ISSUE_TIMEOUT = 60.0  # seconds, for a certificate
STOP_TIMEOUT = 10.0
LOOK_INTERVAL = 0.02
AUTHORITY_PROGRAMS = ("pebble", "pebble-challtestsrv")
UNAVAILABLE = 69  # EX_UNAVAILABLE
INTERRUPTED = 130  # what a shell says of a command that Ctrl-C has ended


class Page(BaseHTTPRequestHandler):
    """The service behind the client."""

    def do_GET(self) -> None:
        """Answer any path with the page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@contextmanager
def service() -> Iterator[int]:
    """Serve the page on loopback; yields the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class Interruption:
    """Notes Ctrl-C instead of raising in the midst of anything: whatever was started is ended."""

    def __init__(self) -> None:
        self.is_wanted = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, *_: object) -> None:
        self.is_wanted = True

    def check(self) -> None:
        """Raise SystemExit once somebody wants an end."""
        if self.is_wanted:
            raise SystemExit(INTERRUPTED)


@dataclass(frozen=True)
class Stage:
    """Where everything happens; `prefix` is that of the settings in config/demo."""

    folder: Path
    interruption: Interruption
    prefix: str = ""

    @contextmanager
    def program(self, name: str, *arguments: str) -> Iterator["Program"]:
        """Run a zipapp on its demo settings."""
        output = self.folder / f"{name}.txt"
        settings = f"config/demo/{self.prefix}{name}.toml"
        command = [sys.executable, f"dist/{name}.pyz", "-c", settings, *arguments]
        with output.open("w") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
        try:
            yield Program(name, process, output, self.interruption)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program, in order if it can."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Program:
    """A running relay or client, and the file that has its output."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path
    interruption: Interruption

    def wait_for(self, pattern: str, timeout: float = START_TIMEOUT) -> str:
        """Return what the pattern's group finds in the output."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.output.read_text())):
            self.interruption.check()
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(
                    f"demo: {self.name} said no {pattern!r}:\n{self.output.read_text()}"
                )
            time.sleep(LOOK_INTERVAL)
        return found[1]


def own_certificate(folder: Path) -> Path:
    """Return a file with the certificate that the client made for itself."""
    texts = [path.read_text() for path in (folder / "client").rglob("*.pem")]
    found = re.findall(r"-----BEGIN CERT.+?END CERTIFICATE-----\n", "".join(texts), re.DOTALL)
    trusted = folder / "client-certificate.pem"
    trusted.write_text("".join(found))
    return trusted


@contextmanager
def secured(host: str, port: int, trusted: Path, *alpn: str) -> Iterator[ssl.SSLSocket]:
    """Connect to a host on this machine, as somebody who trusts that certificate only."""
    context = ssl.create_default_context(cafile=str(trusted))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    with plain, context.wrap_socket(plain, server_hostname=host) as tls:
        yield tls


def leaf_of(tls: ssl.SSLSocket) -> x509.Certificate:
    """Return the certificate that the other end has shown."""
    return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")


def described(leaf: x509.Certificate) -> str:
    """Return the issuer and the dates of a certificate in words."""
    issuer, begin, end = leaf.issuer, leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return f"issued by {issuer.rfc4514_string()}, {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"


def pin_of(leaf: x509.Certificate) -> str:
    """Return the pin of a certificate's key."""
    key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{sha256(key).hexdigest()}"


def fetch(host: str, trusted: Path) -> tuple[bytes, x509.Certificate]:
    """Return the page at the host's URL, and the certificate that it came with."""
    with secured(host, PUBLIC_PORT, trusted) as tls:
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(tls)
        answer.begin()
        return answer.read(), leaf_of(tls)


@dataclass(frozen=True)
class Visit:
    """A client over one transport, and a visitor; `root` is that of the authority, if there is one.

    Without, the visitor trusts the client's own certificate.
    """

    stage: Stage
    wanted: str
    arguments: tuple[str, ...] = ()
    root: Path | None = None

    def make(self, *, is_staying: bool) -> None:
        """Start the client, fetch the page through it, say how it went."""
        start = time.monotonic()
        is_first = not (self.stage.folder / "client").exists()
        with self.stage.program("client", *self.arguments) as client:
            name = client.wait_for(r"ID: (\S+)")
            url = client.wait_for(r"URL: (https://\S+)")
            transport = client.wait_for(r"transport changed .*transport=(quic|h2)\b")
            if transport != self.wanted:
                raise SystemExit(f"demo: the client came over {transport}, not over {self.wanted}")
            trusted = self._trusted(client, is_first=is_first)
            ready = time.monotonic()
            host = url.removeprefix("https://").partition(":")[0]
            page, leaf = fetch(host, trusted)
            done = time.monotonic()
            if page != PAGE:
                raise SystemExit(f"demo: another page came back: {page[:200]!r}")
            say(f"ID: {name}\nURL: {url}")
            if self.root:
                say(f"client's certificate: {described(leaf)}")
            text = page.decode().strip()
            say(f"fetched {len(page)} bytes over {transport}, certificate verified: {text}")
            say(f"client ready in {ready - start:.2f} s, page in {(done - ready) * 1000:.0f} ms\n")
            if is_staying:
                self._stay(url, host, trusted)

    def _trusted(self, client: Program, *, is_first: bool) -> Path:
        """Return the file of what the visitor trusts, once there is something to be trusted."""
        if self.root is None:
            return own_certificate(self.stage.folder)
        if is_first:
            client.wait_for(r"(certificate issued) ", ISSUE_TIMEOUT)
            say("client: ordered a certificate; the authority's validation came through the relay")
        else:
            say("client: has its certificate from before, and orders none")
        return self.root

    def _stay(self, url: str, host: str, trusted: Path) -> None:
        """Wait for Ctrl-C."""
        say("Still up until Ctrl-C. Try:")
        say(f"  curl --cacert {trusted} --resolve {host}:{PUBLIC_PORT}:127.0.0.1 {url}/")
        while not self.stage.interruption.is_wanted:
            time.sleep(LOOK_INTERVAL)


def follow_relay(relay: Program, pin: str, root: Path) -> None:
    """Wait for the relay's own certificate, and show that its pin has stayed."""
    say(f"relay's pin, self-signed: {pin}")
    relay.wait_for(r"(new certificate for new connections)", ISSUE_TIMEOUT)
    with secured(RELAY_NAME, AGENTS_PORT, root, ALPN_HTTP2) as tls:
        leaf = leaf_of(tls)
    say(f"relay's certificate: {described(leaf)}")
    say(f"relay's pin, certified:   {pin_of(leaf)}")
    if pin_of(leaf) != pin:
        raise SystemExit("demo: the relay's pin has changed")
    say("Both pins are the same: clients that were given it go on.\n")


def show(stage: Stage, authority: Pebble | None, *, is_staying: bool) -> None:
    """Start a relay, and a client over each transport in turn."""
    root = None
    if authority is not None:
        root = stage.folder / "authority-root.pem"
        root.write_text(authority.issuing_roots())
        say(f"authority: pebble, on {authority.directory_url}; visitors trust its root alone")
    with stage.program("relay") as relay:
        os.environ["DEMO_PIN"] = pin = relay.wait_for(r"--pin (sha256:[0-9a-f]{64})")
        if root:
            follow_relay(relay, pin, root)
        Visit(stage, "quic", (), root).make(is_staying=False)
        Visit(stage, "h2", ("--force-h2",), root).make(is_staying=is_staying)


def start_authority(stack: ExitStack, folder: Path) -> Pebble:
    """Start a private authority that validates on the visitors' port."""
    authority = stack.enter_context(pebble(folder / "pebble", tls_port=PUBLIC_PORT))
    os.environ["DEMO_DIRECTORY"] = authority.directory_url
    os.environ["DEMO_DIRECTORY_CA"] = str(authority.root_file)
    return authority


def run(interruption: Interruption, *, has_authority: bool, is_staying: bool) -> None:
    """Set the stage, show everything and clear up, however it went."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(service())
        os.environ |= {"DEMO_FOLDER": str(folder), "DEMO_TARGET_PORT": str(port)}
        authority = start_authority(stack, folder) if has_authority else None
        stage = Stage(folder, interruption, "acme-" if has_authority else "")
        show(stage, authority, is_staying=is_staying)


def say(text: str) -> None:
    """Print now."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the demonstration and return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--acme", action="store_true", help="certificates from a private authority")
    parser.add_argument("--stay", action="store_true", help="keep it up until Ctrl-C")
    arguments = parser.parse_args()
    if arguments.acme and not all(map(shutil.which, AUTHORITY_PROGRAMS)):
        sys.stderr.write("demo: --acme needs pebble, a small authority: apt-get install pebble\n")
        return UNAVAILABLE
    interruption = Interruption()
    try:
        run(interruption, has_authority=arguments.acme, is_staying=arguments.stay)
    except (AssertionError, OSError):
        if not interruption.is_wanted:  # at a terminal, Ctrl-C has reached the programs, too
            raise
        interruption.check()
    say("demo: done, nothing left running")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
