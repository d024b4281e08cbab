"""Relay, client, a web service and two visitors on this machine; run by scripts/demo."""

import argparse
import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[1]
PUBLIC_PORT = 18443  # as config/demo/relay.toml says
PAGE = b"<!doctype html><title>demo</title><p>Hello from behind the tunnel.</p>\n"
START_TIMEOUT = 30.0  # seconds; a first start also unpacks the zipapp


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


@contextmanager
def program(name: str, folder: Path, *arguments: str) -> Iterator[Callable[[str], str]]:
    """Run a zipapp on its demo settings; yields a function that waits for a line of output."""
    output = folder / f"{name}.txt"
    command = [sys.executable, f"dist/{name}.pyz", "-c", f"config/demo/{name}.toml", *arguments]
    with output.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)

    def wait_for(pattern: str) -> str:
        deadline = time.monotonic() + START_TIMEOUT
        while not (found := re.search(pattern, output.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"demo: {name} did not start:\n{output.read_text()}")
            time.sleep(0.02)
        return found[1]

    try:
        yield wait_for
    finally:
        process.terminate()
        process.wait()


def trust_file(folder: Path) -> Path:
    """Return a file with the certificate that the client made for itself."""
    texts = [path.read_text() for path in (folder / "client").rglob("*.pem")]
    found = re.findall(r"-----BEGIN CERT.+?END CERTIFICATE-----\n", "".join(texts), re.DOTALL)
    trusted = folder / "client-certificate.pem"
    trusted.write_text("".join(found))
    return trusted


def fetch(host: str, trusted: Path) -> bytes:
    """Return the page at the host's URL, as a visitor who trusts that certificate only."""
    context = ssl.create_default_context(cafile=str(trusted))
    plain = socket.create_connection(("127.0.0.1", PUBLIC_PORT), timeout=10)
    with plain, context.wrap_socket(plain, server_hostname=host) as secured:
        secured.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(secured)
        answer.begin()
        return answer.read()


def visit(folder: Path, wanted: str, *arguments: str, is_staying: bool) -> None:
    """Start a client, fetch the page through it over the transport wanted, say how it went."""
    start = time.monotonic()
    with program("client", folder, *arguments) as wait_for:
        name = wait_for(r"ID: (\S+)")
        url = wait_for(r"URL: (https://\S+)")
        transport = wait_for(r"transport changed .*transport=(quic|h2)\b")
        if transport != wanted:
            raise SystemExit(f"demo: the client came over {transport}, not over {wanted}")
        ready = time.monotonic()
        host = url.removeprefix("https://").partition(":")[0]
        page = fetch(host, trust_file(folder))
        done = time.monotonic()
        if page != PAGE:
            raise SystemExit(f"demo: another page came back: {page[:200]!r}")
        say(f"ID: {name}\nURL: {url}")
        text = page.decode().strip()
        say(f"fetched {len(page)} bytes over {transport}, certificate verified: {text}")
        say(f"client ready in {ready - start:.2f} s, page in {(done - ready) * 1000:.0f} ms\n")
        if is_staying:
            stay(url, host, folder)


def stay(url: str, host: str, folder: Path) -> None:
    """Wait for Ctrl-C."""
    trusted = folder / "client-certificate.pem"
    say("Still up until Ctrl-C. Try:")
    say(f"  curl --cacert {trusted} --resolve {host}:{PUBLIC_PORT}:127.0.0.1 {url}/")
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


def say(text: str) -> None:
    """Print now."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--stay", action="store_true", help="keep it up until Ctrl-C")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, service() as port:
        folder = Path(name)
        os.environ |= {"DEMO_FOLDER": name, "DEMO_TARGET_PORT": str(port)}
        with program("relay", folder) as wait_for:
            os.environ["DEMO_PIN"] = wait_for(r"--pin (sha256:[0-9a-f]{64})")
            visit(folder, "quic", is_staying=False)
            visit(folder, "h2", "--force-h2", is_staying=arguments.stay)
    say("demo: done, nothing left running")


if __name__ == "__main__":
    main()
