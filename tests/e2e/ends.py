"""Both far ends of a tunnelled connection, held by a test: how one ends, how the other sees it.

The socket stays in the test's hands under TLS, so that close_notify, FIN and RST are told apart.
"""

import socket
import ssl
import struct
import threading
from contextlib import suppress
from enum import Enum

READ_BYTES = 1 << 16


class Ending(Enum):
    """How a direction came to its end, as its reader sees it."""

    FINISHED = "FIN, after close_notify where there is TLS"
    TRUNCATED = "FIN without close_notify"
    CUT = "RST"


class PlainEnd:
    """A TCP socket without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.seen: Ending | None = None

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def receive(self) -> bytes:
        """Return some bytes; b"" at the end, `seen` says which."""
        data = self._read_socket()
        if not data and self.seen is None:
            self.seen = Ending.FINISHED
        return data

    def receive_exactly(self, size: int) -> bytes:
        """Return `size` bytes, fewer only if the end comes first."""
        parts: list[bytes] = []
        while size and (part := self.receive()):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def ending(self) -> Ending:
        """Read to the end and return how it came; bytes before it are dropped."""
        while self.receive():
            pass
        assert self.seen is not None
        return self.seen

    def finish(self) -> None:
        """Send FIN; the other direction stays open."""
        self.sock.shutdown(socket.SHUT_WR)

    def truncate(self) -> None:
        """Send FIN and nothing before it, whatever the protocol above would want."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Send RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Let go of the socket."""
        self.sock.close()

    def _read_socket(self) -> bytes:
        try:
            return self.sock.recv(READ_BYTES)
        except ConnectionResetError:
            self.seen = Ending.CUT
            return b""


class TlsEnd(PlainEnd):
    """A TCP socket with TLS over it, whose halves end one by one (RFC 8446 §6.1)."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None = None
    ) -> None:
        super().__init__(sock)
        # Python 3.11.2 would take a FIN without close_notify for a clean end.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )
        self._lock = threading.Lock()  # OpenSSL's object is shared by a test's two directions

    def shake_hands(self) -> None:
        """Do the handshake; blocks until it is over, or `seen` says that it was cut."""
        while self.seen is None:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
            else:
                self._flush()
                return

    def send(self, data: bytes) -> None:
        with self._lock:
            self._tls.write(data)
            sealed = self._outgoing.read()
        self.sock.sendall(sealed)

    def receive(self) -> bytes:
        while self.seen is None:
            try:
                with self._lock:
                    data = self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                self._feed()
            except ssl.SSLZeroReturnError:  # after close_notify, if ours has gone out before
                self._expect_fin()
            except ssl.SSLError as error:  # Python 3.11.2 has no class of its own for this one
                if error.reason != "UNEXPECTED_EOF_WHILE_READING":
                    raise
                self.seen = Ending.TRUNCATED
            else:
                if data:
                    return data
                self._expect_fin()
        return b""

    def finish(self) -> None:
        with self._lock:
            with suppress(ssl.SSLWantReadError):  # ours is written, the other's is still to come
                self._tls.unwrap()
            sealed = self._outgoing.read()
        self.sock.sendall(sealed)
        super().finish()

    def _expect_fin(self) -> None:
        """Read what stands behind close_notify: a FIN, unless somebody cut the connection."""
        assert not self._read_socket(), "bytes after close_notify"
        if self.seen is None:
            self.seen = Ending.FINISHED

    def _feed(self) -> None:
        data = self._read_socket()
        if data:
            self._incoming.write(data)
        elif self.seen is None:
            self._incoming.write_eof()

    def _flush(self) -> None:
        self.sock.sendall(self._outgoing.read())
