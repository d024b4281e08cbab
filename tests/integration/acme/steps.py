"""Whole orders in few words, and a server that proves names to an authority."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.acme_front import Front
from tests.pebble import LOOPBACK, Pebble
from tunnel.acme.authority import Authority
from tunnel.acme.challenge import ALPN, PendingAnswer, challenge_context
from tunnel.acme.directories import directory_of
from tunnel.acme.order import Order
from tunnel.settings.values import AcmeSettings, EabSettings
from tunnel.tls.slots import Certificate, CertificateKey

DEADLINE = 20.0  # seconds, for anything that an authority is to come to see
HANDSHAKE_TIMEOUT = 5.0


class Answerer:
    """Shows each name's challenge certificate to whoever asks for it (RFC 8737)."""

    def __init__(self) -> None:
        self._answers: dict[str, PendingAnswer] = {}
        self.on_asked: Callable[[], object] = lambda: None  # in a thread, before each answer
        self._listener = socket.create_server((LOOPBACK, 0))
        self._thread = threading.Thread(target=self._serve)
        self.port: int = self._listener.getsockname()[1]

    def show(self, name: str, digest: bytes) -> None:
        self.present(name, PendingAnswer(challenge_context(name, digest, datetime.now(UTC))))

    def present(self, name: str, answer: PendingAnswer) -> None:
        self._answers[name] = answer

    def forget(self, name: str) -> None:
        self._answers.pop(name, None)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return
            visitor.settimeout(HANDSHAKE_TIMEOUT)
            # Whatever an authority that lost patience does is no fault of the test's.
            with (
                visitor,
                suppress(OSError),
                self._door().wrap_socket(visitor, server_side=True) as tls,
            ):
                tls.recv(1)

    def _door(self) -> ssl.SSLContext:
        door = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        door.set_alpn_protocols([ALPN])
        door.sni_callback = self._choose
        return door

    def _choose(self, tls: ssl.SSLObject, name: str | None, _door: ssl.SSLContext) -> int | None:
        self.on_asked()
        answer = self._answers.get(name or "")
        if answer is None or answer.context is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        tls.context = answer.context
        return None


def settings_for(
    ca: Pebble | Front, *, email: str | None = None, eab: EabSettings | None = None
) -> AcmeSettings:
    return AcmeSettings(directory=ca.directory_url, ca=ca.root_file, email=email, eab=eab)


def authority(
    ca: Pebble | Front, file: Path, *, email: str | None = None, eab: EabSettings | None = None
) -> Authority:
    """Return an authority as a process has it that has just begun."""
    settings = settings_for(ca, email=email, eab=eab)
    return Authority(settings, directory_of(settings.directory), file)


def new_key() -> CertificateKey:
    return ec.generate_private_key(ec.SECP256R1())


def prove(order: Order, answerer: Answerer) -> None:
    """Have all names proved."""
    for name, digest in order.challenges.items():
        answerer.show(name, digest)
    order.answer()
    until_proved(order)


def until_proved(order: Order) -> None:
    deadline = time.monotonic() + DEADLINE
    while (pause := order.poll_proofs()) is not None:
        assert time.monotonic() < deadline
        time.sleep(pause)


def collected(order: Order, key: CertificateKey) -> Certificate:
    """Finalize, and wait for the certificate."""
    order.finalize(key)
    return until_issued(order, key)


def until_issued(order: Order, key: CertificateKey) -> Certificate:
    deadline = time.monotonic() + DEADLINE
    while isinstance(seen := order.poll_certificate(key), float):
        assert time.monotonic() < deadline
        time.sleep(seen)
    return seen


def ordered(ca: Authority, names: Sequence[str], answerer: Answerer) -> Certificate:
    """Return a new certificate, from the order to its end."""
    order = ca.place(names)
    prove(order, answerer)
    return collected(order, new_key())


def sans(certificate: x509.Certificate) -> set[str]:
    """Return the DNS names in a certificate."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(found.value.get_values_for_type(x509.DNSName))
