"""A UDP socket of our own: many datagrams for each wake-up, bounded memory, no task.

Knows nothing of QUIC. UDP promises nothing, so what cannot be sent is dropped, except for a
full socket buffer, which is waited for. Where the kernel can, one system call carries dozens of
datagrams of one size, in either direction (udp(7): UDP_SEGMENT since Linux 4.18, UDP_GRO since
5.0): half of what a packet would cost.
"""

import asyncio
import errno
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from tunnel.log import get_log
from tunnel.stream import Address
from tunnel.transport.options import SOCKET_BUFFER_BYTES
from tunnel.transport.quic.arrivals import Arrivals
from tunnel.transport.quic.trains import Burst, Datagram, Train, by_address, trains_of
from tunnel.transport.tcp import address_of

log = get_log(__name__)

BATCH_DATAGRAMS = 256  # and what comes with the last: then the rest of the loop has its turn
ANCILLARY_BYTES = socket.CMSG_SPACE(4)  # room for one int: how long the joined datagrams are
BACKLOG_DATAGRAMS = 1024
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # linux/udp.h: to be cut, to be joined
SO_RCVBUFFORCE, SO_SNDBUFFORCE = 33, 32

_told: set[str] = set()  # advice that this process has given once


class Endpoint:
    """Sends and receives; `receive` gets what one wake-up brings, `fail` the network's errors."""

    def __init__(
        self,
        sock: socket.socket,
        receive: Callable[[Sequence[Burst]], None],
        fail: Callable[[OSError], None] = lambda _error: None,
    ) -> None:
        self._socket = sock
        self._receive = receive
        self._fail = fail
        self._peer = _peer_of(sock)
        self._loop = asyncio.get_running_loop()
        self._backlog: deque[Datagram] = deque(maxlen=BACKLOG_DATAGRAMS)
        self._waiting: dict[Callable[[], None], None] = {}
        self._has_segmentation = True
        _join_arrivals(sock)
        self._loop.add_reader(sock, self._read)

    @property
    def address(self) -> Address:
        """The address the socket is bound to."""
        return address_of(self._socket.getsockname())

    @property
    def is_full(self) -> bool:
        """Whether datagrams wait because the socket's buffer is full."""
        return bool(self._backlog)

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, as soon as the socket takes datagrams again."""
        self._waiting[resume] = None

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
        self._waiting.clear()

    def _read(self) -> None:
        arrivals = Arrivals()
        read = self._socket.recvmsg_into
        try:
            while arrivals.count < BATCH_DATAGRAMS and arrivals.has_room:
                size, ancillary, _, source = read([arrivals.room], ANCILLARY_BYTES)
                arrivals.add(size, _segment_bytes(ancillary), source)
        except (BlockingIOError, InterruptedError):
            pass  # everything has been read
        except OSError as error:
            self._fail(error)  # what the network said of an earlier datagram
            self._watch_again()
        if arrivals.count:
            self._receive(arrivals.take())
        else:
            self._watch_again()  # the error has been told to a sender meanwhile

    def _watch_again(self) -> None:
        """Be woken again after an error of the network: libuv then stops watching a descriptor."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.add_reader(self._socket, self._read)

    def send(self, bursts: Sequence[Burst]) -> None:
        """Send datagrams, or keep them until the socket takes them; the oldest are dropped."""
        if self._socket.fileno() < 0:
            return
        if self._backlog:
            self._keep(bursts)
            return
        unsent = self._send_now(bursts)
        if unsent:
            self._keep(unsent)
            self._loop.add_writer(self._socket, self._resume)

    def _keep(self, bursts: Sequence[Burst]) -> None:
        for payloads, address in bursts:
            self._backlog.extend((payload, address) for payload in payloads)

    def _resume(self) -> None:
        waiting = list(self._backlog)
        self._backlog.clear()
        self._keep(self._send_now(by_address(waiting)))
        if self._backlog:
            return
        self._loop.remove_writer(self._socket)
        resumed, self._waiting = self._waiting, {}
        for resume in resumed:
            resume()

    def _send_now(self, bursts: Sequence[Burst]) -> Sequence[Burst]:
        """Send until the socket is full; return what is left."""
        trains = [(train, address) for each, address in bursts for train in self._trains_of(each)]
        for index, (train, address) in enumerate(trains):
            try:
                self._send_train(train, address)
            except (BlockingIOError, InterruptedError):
                return trains[index:]
            except OSError as error:
                if len(train) > 1 and error.errno in {errno.EIO, errno.EINVAL, errno.EMSGSIZE}:
                    self._has_segmentation = False  # this device cannot; send one by one
                    return self._send_now(trains[index:])
                self._fail(error)
        return ()

    def _trains_of(self, payloads: Sequence[bytes]) -> Iterable[Train]:
        """Return what goes out by one system call each."""
        if not self._has_segmentation:
            return (Train(payload, len(payload)) for payload in payloads)
        return (payloads,) if isinstance(payloads, Train) else trains_of(payloads)

    def _send_train(self, train: Train, address: Any) -> None:
        target = () if self._peer is not None else (address,)
        is_single = len(train.joined) <= train.size
        cutting = [] if is_single else [(SOL_UDP, UDP_SEGMENT, struct.pack("H", train.size))]
        self._socket.sendmsg([train.joined], cutting, 0, *target)


def _segment_bytes(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    for level, kind, value in ancillary:
        if (level, kind) == (SOL_UDP, UDP_GRO):
            return int.from_bytes(value[:4], sys.byteorder)
    return 0


def _join_arrivals(sock: socket.socket) -> None:
    with suppress(OSError):  # an older kernel hands them over one by one
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)


def enlarge_buffers(sock: socket.socket) -> None:
    """Ask for socket buffers that hold a burst; where the kernel caps them, log what lifts it."""
    for option, forced, sysctl in (
        (socket.SO_RCVBUF, SO_RCVBUFFORCE, "net.core.rmem_max"),
        (socket.SO_SNDBUF, SO_SNDBUFFORCE, "net.core.wmem_max"),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER_BYTES)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        granted = sock.getsockopt(socket.SOL_SOCKET, option) // 2  # Linux reports the double
        if granted < SOCKET_BUFFER_BYTES and sysctl not in _told:
            _told.add(sysctl)
            log.info("socket buffer was capped", advice=f"sysctl -w {sysctl}={SOCKET_BUFFER_BYTES}")


def _peer_of(sock: socket.socket) -> tuple[Any, ...] | None:
    try:
        return tuple(sock.getpeername())
    except OSError:
        return None
