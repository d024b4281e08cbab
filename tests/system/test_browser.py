"""Chromium loads a page of 200 resources through the self-signed endpoint, every byte right."""

import base64
import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.e2e.tunnels import Tunnel, new_tunnel
from tests.e2e.world import TRANSPORTS
from tests.system.gallery import EACH, Gallery, hung

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

VERDICT_TIMEOUT = 60  # seconds; a browser takes its time to start
PARALLEL = 6  # connections that Chromium opens to one host
FLAGS = (
    "--headless",
    "--no-sandbox",  # it runs as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * 127.0.0.1",
)


def key_hash(tunnel: Tunnel) -> str:
    """Return the hash by which Chromium is told to trust one key whoever signed it."""
    [text] = tunnel.client.certificates()
    key = x509.load_pem_x509_certificate(text.encode()).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(info).digest()).decode()


def chromium(folder: Path, trusted: str, *arguments: str) -> list[str]:
    """Return the command of a browser with a new profile that trusts one key."""
    profile = f"--user-data-dir={folder / 'profile'}"
    trust = f"--ignore-certificate-errors-spki-list={trusted}"
    return ["chromium", *FLAGS, profile, trust, *arguments]


@contextmanager
def browsing(folder: Path, trusted: str, url: str) -> Iterator[Path]:
    """Have a browser open a URL; yields the file with its complaints."""
    complaints = folder / "chromium.log"
    with (
        complaints.open("wb") as log,
        subprocess.Popen(
            chromium(folder, trusted, url),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "HOME": str(folder)},
            start_new_session=True,
        ) as browser,
    ):
        try:
            yield complaints
        finally:
            os.killpg(browser.pid, signal.SIGKILL)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_browser_shows_every_resource_right(transport: str, tmp_path: Path) -> None:
    gallery = Gallery()
    with hung(gallery) as target, new_tunnel(tmp_path, transport, target) as tunnel:
        url = f"https://{tunnel.client.host}:{tunnel.relay.public_port}/"
        with browsing(tmp_path, key_hash(tunnel), url) as complaints:
            try:
                verdict = gallery.verdicts.get(timeout=VERDICT_TIMEOUT)
            except Empty:
                pytest.fail(f"no verdict; Chromium says:\n{complaints.read_text()}")
    assert verdict == {"right": 4 * EACH, "wrong": []}
    assert 2 <= len(gallery.connections) <= 2 * PARALLEL


def test_a_browser_that_trusts_another_key_shows_nothing(tmp_path: Path) -> None:
    gallery = Gallery()
    with hung(gallery) as target, new_tunnel(tmp_path, "quic", target) as tunnel:
        url = f"https://{tunnel.client.host}:{tunnel.relay.public_port}/"
        other = base64.b64encode(bytes(32)).decode()
        command = chromium(tmp_path, other, "--dump-dom", url)
        shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "ERR_CERT_AUTHORITY_INVALID" in shown.stderr
    assert not gallery.connections
