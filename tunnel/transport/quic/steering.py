"""Several sockets on one UDP address, and which of them a datagram goes to: the kernel decides.

A program of the classic packet filter (bpf(4), SO_ATTACH_REUSEPORT_CBPF of socket(7)) looks at the
first byte of the destination connection id. A client's first one is random; whichever process that
leads to issues only ids that lead there too (`Share.mark`), wherever the client moves.
"""

import ctypes
import socket
import struct

from tunnel.stream import Address
from tunnel.transport.tcp import family_of

SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h, since Linux 4.5
LONG_HEADER = 0x80
LONG_AT, SHORT_AT = 6, 1  # where the id begins (RFC 8999 §5); a datagram too short for it is 0's

# linux/bpf_common.h: load a byte of the payload, jump, remainder, return what was loaded.
_LOAD, _JUMP_IF, _JUMP, _REMAINDER, _RETURN = 0x30, 0x45, 0x05, 0x94, 0x16
_INSTRUCTION = struct.Struct("HBBI")  # struct sock_filter: code, jump if true, if false, operand


def program(sockets: int) -> bytes:
    """Return the instructions that choose among so many sockets."""
    return b"".join(
        _INSTRUCTION.pack(*instruction)
        for instruction in (
            (_LOAD, 0, 0, 0),
            (_JUMP_IF, 0, 2, LONG_HEADER),
            (_LOAD, 0, 0, LONG_AT),
            (_JUMP, 0, 0, 1),
            (_LOAD, 0, 0, SHORT_AT),
            (_REMAINDER, 0, 0, sockets),
            (_RETURN, 0, 0, 0),
        )
    )


def bind_group(address: Address, count: int) -> list[socket.socket]:
    """Return `count` UDP sockets bound to one address, in the order of the processes' numbers.

    That order lasts as long as none of them is closed everywhere. Raises OSError.
    """
    group: list[socket.socket] = []
    try:
        for _ in range(count):
            group.append(_bound(address))
            address = Address(address.host, group[0].getsockname()[1])  # port 0: chosen once
        _attach(group[0], count)
    except OSError:
        for sock in group:
            sock.close()
        raise
    return group


def _bound(address: Address) -> socket.socket:
    sock = socket.socket(family_of(address.host), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.host, address.port))
    except OSError:
        sock.close()
        raise
    return sock


def _attach(sock: socket.socket, count: int) -> None:
    """Have the kernel choose by the program, in the whole group of `sock`."""
    instructions = program(count)
    kept = ctypes.create_string_buffer(instructions, len(instructions))
    length = len(instructions) // _INSTRUCTION.size
    described = struct.pack("HP", length, ctypes.addressof(kept))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, described)
