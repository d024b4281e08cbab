"""Pebble, a real ACME server for tests, the DNS it asks, and a front that lets it misbehave.

Every server is a child of the test's process and is gone when its `with` block is left. Several
run side by side: all of their ports are their own.
"""

import base64
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme

from tests.ports import free_port

LOOPBACK = "127.0.0.1"
READY_TIMEOUT = 20.0  # seconds; the machine may be busy
STOP_TIMEOUT = 5.0
REQUEST_TIMEOUT = 10.0
LOOK_INTERVAL = 0.02


@dataclass(frozen=True)
class Options:
    """How a pebble behaves; percentages are of all requests or orders."""

    validity: int | None = None  # seconds
    eab_keys: Mapping[str, str] = field(default_factory=dict)  # kid → key, base64url; then required
    blocklist: Sequence[str] = ()
    bad_nonces: int = 0
    authz_reuse: int = 0
    strict: bool = True
    chain_length: int = 1  # intermediates

    def settings(self) -> dict[str, Any]:
        """Return this part of pebble's settings."""
        chosen: dict[str, Any] = {
            "externalAccountBindingRequired": bool(self.eab_keys),
            "externalAccountMACKeys": dict(self.eab_keys),
            "domainBlocklist": list(self.blocklist),
        }
        if self.validity is not None:
            chosen["certificateValidityPeriod"] = self.validity
        return chosen

    def environment(self) -> dict[str, str]:
        """Return the environment in which it runs: nothing of the test's that begins so."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PEBBLE_")}
        return inherited | {
            "PEBBLE_VA_NOSLEEP": "1",
            "PEBBLE_WFE_NONCEREJECT": str(self.bad_nonces),
            "PEBBLE_AUTHZREUSE": str(self.authz_reuse),
            "PEBBLE_CHAIN_LENGTH": str(self.chain_length),
        }


class Program:
    """One server as a process of its own; started, stopped and started again on the same ports."""

    def __init__(
        self,
        command: Sequence[str],
        ports: Sequence[int],
        log: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._command = command
        self._ports = ports
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once all ports are open; raises AssertionError with the end of its log."""
        assert self._process is None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + READY_TIMEOUT
        while not all(is_open(port) for port in self._ports):
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"{self._command[0]} did not start: {self._tail()}")
            time.sleep(LOOK_INTERVAL)

    def stop(self) -> None:
        """End it, at once and whatever it is doing; does nothing if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT)
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


class Dns:
    """What pebble is told of names: all have the address of this machine, unless said here."""

    def __init__(self, address: str, management: str) -> None:
        self.address = address
        self.management = management

    def add_a(self, name: str, *addresses: str) -> None:
        self._tell("add-a", host=_dotted(name), addresses=addresses)

    def add_caa(self, name: str, *policies: tuple[str, str]) -> None:
        """Add CAA records; a policy is a tag and its value, such as ("issue", "example.org")."""
        told = [{"tag": tag, "value": value} for tag, value in policies]
        self._tell("add-caa", host=_dotted(name), policies=told)

    def fail(self, name: str) -> None:
        """Answer every query for the name with SERVFAIL."""
        self._tell("set-servfail", host=_dotted(name))

    def set_default(self, address: str) -> None:
        """Give this IPv4 address to all names of which nothing is known; "" for none."""
        self._tell("set-default-ipv4", ip=address)

    def reset(self, name: str) -> None:
        """Forget what was said of the name."""
        for forgotten in ("clear-a", "clear-aaaa", "clear-caa", "clear-servfail"):
            self._tell(forgotten, host=_dotted(name))

    def _tell(self, verb: str, **body: object) -> None:
        connection = http.client.HTTPConnection(self.management, timeout=REQUEST_TIMEOUT)
        try:
            connection.request("POST", f"/{verb}", json.dumps(body))
            assert connection.getresponse().status == http.client.OK
        finally:
            connection.close()


class Pebble:
    """A running ACME server. What it knows is in its memory: it is lost with `stop`."""

    def __init__(
        self, program: Program, listen: str, management: str, root: Path, dns: Dns
    ) -> None:
        self.directory_url = f"https://{listen}/dir"
        self.listen = listen
        self.management = management
        self.root_file = root  # trust for the directory itself
        self.dns = dns
        self._program = program

    @property
    def dns_address(self) -> str:
        """Where its DNS is asked, as host:port, UDP and TCP."""
        return self.dns.address

    def issuing_roots(self) -> str:
        """Return the root of what it issues, as PEM: another one after each start."""
        connection = http.client.HTTPSConnection(
            self.management, context=self.trust(), timeout=REQUEST_TIMEOUT
        )
        try:
            connection.request("GET", "/roots/0")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def trust(self) -> ssl.SSLContext:
        """Return a client context that trusts the server itself."""
        return ssl.create_default_context(cafile=self.root_file)

    def stop(self) -> None:
        """End it: connections are refused, accounts and orders forgotten."""
        self._program.stop()

    def start(self) -> None:
        """Start it again on the same ports, as if it were another authority."""
        self._program.start()

    def pause(self) -> None:
        """Let it answer nothing at all until `resume`, without forgetting anything."""
        self._program.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._program.signal(signal.SIGCONT)


@contextmanager
def pebble(
    folder: Path,
    *,
    tls_port: int,
    validity: int | None = None,
    eab_keys: Mapping[str, str] | None = None,
    blocklist: Sequence[str] = (),
    bad_nonces: int = 0,
    authz_reuse: int = 0,
    strict: bool = True,
    chain_length: int = 1,
) -> Iterator[Pebble]:
    """Run an ACME server whose validations go to `tls_port` of the address that its DNS knows.

    `folder` gets its files and logs. The options are those of `Options`.
    """
    options = Options(
        validity, eab_keys or {}, blocklist, bad_nonces, authz_reuse, strict, chain_length
    )
    folder.mkdir(parents=True, exist_ok=True)
    certify(folder, "pebble")
    with ExitStack() as stack:
        dns = stack.enter_context(_dns(folder))
        program, listen, management = _program(folder, tls_port, options, dns)
        stack.callback(program.stop)
        program.start()
        yield Pebble(program, listen, management, folder / "pebble-root.pem", dns)


def _program(folder: Path, tls_port: int, options: Options, dns: Dns) -> tuple[Program, str, str]:
    ports = (free_port(), free_port())
    listen, management = (f"{LOOPBACK}:{port}" for port in ports)
    settings = options.settings() | {
        "listenAddress": listen,
        "managementListenAddress": management,
        "certificate": str(folder / "pebble.pem"),
        "privateKey": str(folder / "pebble.key"),
        "httpPort": 1,  # nobody answers there
        "tlsPort": tls_port,
    }
    file = folder / "pebble.json"
    file.write_text(json.dumps({"pebble": settings}))
    command = ["pebble", "-config", str(file), "-dnsserver", dns.address]
    if options.strict:
        command.append("-strict")
    program = Program(command, ports, folder / "pebble.log", options.environment())
    return program, listen, management


@contextmanager
def _dns(folder: Path) -> Iterator[Dns]:
    ports = (free_port(), free_port())
    address, management = (f"{LOOPBACK}:{port}" for port in ports)
    command = ["pebble-challtestsrv", "-dns01", address, "-management", management]
    for unused in ("defaultIPv6", "http01", "https01", "tlsalpn01"):
        command += [f"-{unused}", ""]
    program = Program(command, ports, folder / "dns.log", os.environ)
    program.start()
    try:
        yield Dns(address, management)
    finally:
        program.stop()


def certify(folder: Path, name: str) -> None:
    """Write `name.pem`, `name.key` for this machine, and the `name-root.pem` that vouches."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", LOOPBACK)
    authority.cert_pem.write_to_path(folder / f"{name}-root.pem")
    certificate.private_key_pem.write_to_path(folder / f"{name}.key")
    (folder / f"{name}.pem").write_bytes(
        b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    )


def is_open(port: int) -> bool:
    """Return whether somebody accepts connections on a port of this machine."""
    with suppress(OSError), socket.create_connection((LOOPBACK, port), STOP_TIMEOUT):
        return True
    return False


def payload_of(request: bytes) -> Any:
    """Return what a signed request says (RFC 8555 §6.2), without looking at the signature."""
    text: str = json.loads(request)["payload"]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) or b"null")


def _dotted(name: str) -> str:
    return name.rstrip(".") + "."
