"""The service behind every contender: `python -m scripts.benchmarks.target CERTIFICATE.pem`.

Prints its port. It takes what comes as it is: bare bytes, bytes behind a ClientHello that says so
(a tunnel that passes TLS through carries them like any other), or TLS, which it ends. Then:
`get` sends until the visitor closes, `put` counts until the visitor ends, anything else is echoed.
"""

import socket
import ssl
import sys
import threading
from contextlib import suppress

from scripts.benchmarks.hello import RAW, RECORD_HEADER, is_hello, record_length

BLOCK = bytes(1 << 18)
READ_BYTES = 1 << 18


def main() -> None:
    """Accept for ever."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock, context), daemon=True).start()


def serve(sock: socket.socket, context: ssl.SSLContext) -> None:
    """Serve one visitor."""
    with suppress(OSError), sock:  # a visitor that has seen enough
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        first = sock.recv(4096, socket.MSG_PEEK)
        if not is_hello(first):
            answer(sock)
        elif RAW.encode() in first:
            read_exactly(sock, RECORD_HEADER + record_length(first))
            answer(sock)
        else:
            with context.wrap_socket(sock, server_side=True) as inner:
                answer(inner)


def read_exactly(sock: socket.socket, size: int) -> None:
    """Drop so many bytes."""
    while size:
        got = len(sock.recv(size))
        if not got:
            raise ConnectionResetError
        size -= got


def answer(sock: socket.socket) -> None:
    """Do what the visitor asks for."""
    message = sock.recv(READ_BYTES)
    if message == b"get":
        while True:
            sock.sendall(BLOCK)
    elif message.startswith(b"put"):
        sock.sendall(f"{len(message) - 3 + count(sock)}".encode())
    else:
        echo(sock, message)


def count(sock: socket.socket) -> int:
    """Return how many bytes come before the visitor ends."""
    total, buffer = 0, bytearray(READ_BYTES)
    while got := sock.recv_into(buffer):
        total += got
    return total


def echo(sock: socket.socket, message: bytes) -> None:
    """Return what comes."""
    while message:
        sock.sendall(message)
        message = sock.recv(READ_BYTES)


if __name__ == "__main__":
    main()
