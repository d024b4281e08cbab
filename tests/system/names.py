"""A name server for one network namespace, and the files that lead a process there to it."""

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.system.network import inside

HERE = "127.0.0.1"  # of each namespace
PORT = 53
TTL = 60


@contextmanager
def name_server(namespace: str, zone: str, address: str) -> Iterator[None]:
    """Answer in a namespace, on its loopback: every name under `zone` has `address`, and no other.

    Only IPv4: names without an IPv6 address are the rule.
    """
    with inside(namespace):
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.bind((HERE, PORT))
    thread = threading.Thread(target=_serve, args=(sock, zone, address))
    thread.start()
    try:
        yield
    finally:
        with inside(namespace), socket.socket(type=socket.SOCK_DGRAM) as last:
            last.sendto(b"", (HERE, PORT))
        thread.join()
        sock.close()


def _serve(sock: socket.socket, zone: str, address: str) -> None:
    while True:
        wire, asker = sock.recvfrom(2048)
        if not wire:
            return
        sock.sendto(_answer(dns.message.from_wire(wire), zone, address).to_wire(), asker)


def _answer(query: dns.message.Message, zone: str, address: str) -> dns.message.Message:
    answer = dns.message.make_response(query, recursion_available=True)
    (question,) = query.question
    name = question.name.to_text(omit_final_dot=True).lower()
    if not name.endswith(f".{zone}"):
        answer.set_rcode(dns.rcode.NXDOMAIN)
    elif question.rdtype == dns.rdatatype.A:
        answer.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "A", address))
    return answer


@contextmanager
def asking(namespace: str, server: str = HERE) -> Iterator[Path]:
    """Have what `ip netns exec` starts in a namespace ask a name server; yields its resolv.conf."""
    folder = Path("/etc/netns", namespace)  # ip-netns(8)
    folder.mkdir(parents=True)
    try:
        (folder / "resolv.conf").write_text(f"nameserver {server}\n")
        (folder / "hosts").write_text("127.0.0.1 localhost\n")
        yield folder / "resolv.conf"
    finally:
        shutil.rmtree(folder)
