"""A front before pebble: it passes everything on, and can do what pebble 2.4 cannot.

It gives renewal information (RFC 9773), and misbehaves: refusals, nonsense, silence, no answer.
"""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.pebble import LOOPBACK, REQUEST_TIMEOUT, Pebble, certify, payload_of

RENEWAL_PATH = "/renewal-info"
NEW_ORDER_PATH = "/order-plz"
NEW_ACCOUNT_PATH = "/sign-me-up"
DIRECTORY_PATH = "/dir"
FINALIZE_PATH = "/finalize-order/"
CERTIFICATE_PATH = "/certZ/"
HANG_MAX = 60.0  # seconds
PASSED_BACK = ("Content-Type", "Location", "Link", "Replay-Nonce", "Retry-After")


@dataclass(frozen=True)
class Reply:
    """What is answered in the place of pebble; without a status nothing is."""

    status: int | None = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False  # instead of cutting the connection
    after: bool = False  # pebble did get the request: only its answer is lost

    @classmethod
    def problem(
        cls, status: int, code: str, detail: str, retry_after: str | None = None
    ) -> "Reply":
        """Return a refusal as an authority writes it."""
        kind = f"urn:ietf:params:acme:error:{code}"
        headers = {"Content-Type": "application/problem+json"}
        if retry_after is not None:
            headers["Retry-After"] = retry_after
        return cls(status, json.dumps({"type": kind, "detail": detail}).encode(), headers)


@dataclass
class _Planned:
    reply: Reply
    path: str
    left: int


class Front:
    """A server before pebble with a name, a certificate and moods of its own."""

    def __init__(self, ca: Pebble, folder: Path) -> None:
        self.ca = ca
        self.root_file = folder / "front-root.pem"
        self.window: tuple[datetime, datetime] | None = None  # None: no renewal information
        self.window_retry_after: str | None = None
        self.replaced: list[str] = []  # what new orders said that they replace
        self.requests: list[tuple[str, str]] = []  # methods and paths
        self._planned: list[_Planned] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server: _Server | None = None
        self._port = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "front.pem", folder / "front.key")

    @property
    def listen(self) -> str:
        return f"{LOOPBACK}:{self._port}"

    @property
    def directory_url(self) -> str:
        return f"https://{self.listen}{DIRECTORY_PATH}"

    def plan(self, reply: Reply, path: str = "", times: int = 1) -> None:
        """Answer the next requests whose path begins so with `reply`."""
        with self._lock:
            self._planned.append(_Planned(reply, path, times))

    def refuse_orders(self, times: int, retry_after: str) -> None:
        """Answer the next new orders with 429."""
        limited = Reply.problem(429, "rateLimited", "too many new orders recently", retry_after)
        self.plan(limited, NEW_ORDER_PATH, times)

    def down(self) -> None:
        """Refuse connections until `up`; pebble behind it forgets nothing."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None

    def up(self) -> None:
        """Listen, on the same port as before."""
        assert self._server is None
        server = _Server(self, self._port)
        server.socket = self._context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._port = server.server_port
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        self.down()

    # -- one request

    def next_planned(self, path: str) -> Reply | None:
        with self._lock:
            for planned in self._planned:
                if planned.left and path.startswith(planned.path):
                    planned.left -= 1
                    return planned.reply
        return None

    def hang(self) -> None:
        self._closing.wait(HANG_MAX)

    def renewal_info(self) -> Reply:
        assert self.window is not None
        start, end = (moment.isoformat() for moment in self.window)
        headers = {"Content-Type": "application/json"}
        if self.window_retry_after is not None:
            headers["Retry-After"] = self.window_retry_after
        body = json.dumps({"suggestedWindow": {"start": start, "end": end}}).encode()
        return Reply(200, body, headers)

    def forward(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return what pebble answers; it makes its URLs with the Host it is called by."""
        connection = http.client.HTTPSConnection(
            self.ca.listen, context=self.ca.trust(), timeout=REQUEST_TIMEOUT
        )
        try:
            connection.request(method, path, body or None, dict(headers))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if path == DIRECTORY_PATH and self.window is not None:
            known = json.loads(content)
            known["renewalInfo"] = f"https://{self.listen}{RENEWAL_PATH}"
            content = json.dumps(known).encode()
        passed = {k: v for k in PASSED_BACK if (v := response.headers[k]) is not None}
        return Reply(response.status, content, passed)

    def note(self, method: str, path: str, body: bytes) -> None:
        """Keep what tests want to know of a request."""
        self.requests.append((method, path))
        if path == NEW_ORDER_PATH:
            said: Any = payload_of(body)
            if "replaces" in said:
                self.replaced.append(said["replaces"])


class _Server(ThreadingHTTPServer):
    """Serves a front; each connection in a thread that ends when it is cut."""

    block_on_close = False

    def __init__(self, front: Front, port: int) -> None:
        self.front = front
        self._connections: set[socket.socket] = set()
        super().__init__((LOOPBACK, port), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            self._connections.discard(request)

    def cut(self) -> None:
        """Break off all connections that are open."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: handshakes that clients break off are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: "_Server"
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.request.settimeout(HANG_MAX)
        super().setup()

    def handle(self) -> None:
        with suppress(OSError):  # the client may go at any time
            super().handle()

    def do_GET(self) -> None:
        self._pass_on()

    def do_HEAD(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.front.note(self.command, self.path, body)
        planned = self.server.front.next_planned(self.path)
        if planned is None or planned.after:
            reply = self._true_reply(body)
        if planned is not None:
            reply = planned
        self._answer(reply)

    def _true_reply(self, body: bytes) -> Reply:
        front = self.server.front
        if front.window is not None and self.path.startswith(RENEWAL_PATH):
            return front.renewal_info()
        return front.forward(self.command, self.path, dict(self.headers), body)

    def _answer(self, reply: Reply) -> None:
        if reply.status is None:
            if reply.hangs:
                self.server.front.hang()
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its signature
        pass  # tests have their own say


@contextmanager
def fronted(ca: Pebble, folder: Path) -> Iterator[Front]:
    """Run a front before a pebble; `folder` gets its certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    certify(folder, "front")
    front = Front(ca, folder)
    front.up()
    try:
        yield front
    finally:
        front.close()
