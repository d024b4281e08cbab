"""The narrow waist: what every transport offers and everything above it uses.

Nothing here knows a socket, a certificate or a wire format.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tunnel.errors import Code, ConnectionLost, StreamReset


class Address(NamedTuple):
    """One end of a socket: an IP address as text (never IPv4-mapped) or a host name, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def overlaps(self, other: "Address") -> bool:
        """Say whether both cannot be bound at once, by one protocol; [::] is for IPv6 alone."""
        if self.port != other.port or not self.port or (":" in self.host) != (":" in other.host):
            return False
        return self.host == other.host or not {"0.0.0.0", "::"}.isdisjoint((self.host, other.host))  # noqa: S104 - compared, not bound


BULK_BYTES = 240 * 1024  # that a stream reads at most; sealed, it is one chunk (inbox) still
TOLD_BYTES = 256 * 1024  # that a direction may have passed on before they are counted


@dataclass(frozen=True, slots=True)
class Binding:
    """What a proof of identity is bound to: the transport's word, SHA-256 of the relay's leaf."""

    transport: str
    leaf_hash: bytes
    # The leaf itself, DER; only at the end that was shown it.
    leaf: bytes = field(default=b"", repr=False, compare=False)


class Stream(Protocol):
    """A bidirectional byte stream with back-pressure and half-close.

    One task reads and one task writes; `abort` may come from any. After the connection under it
    died, `receive`, `send` and `finish` raise StreamReset.
    """

    async def receive(self) -> bytes:
        """Return some bytes (at most 256 KiB), or b"" once the peer has finished sending.

        Calling it says that the bytes returned before have left the process: only then is
        credit for them granted to the sender. Cancel-safe. Raises StreamReset if the stream was
        cut; bytes that arrived before a cut may be lost.
        """

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Queue all of `data` and return once the transport has room for more.

        Not cancel-safe: after a cancelled send only `abort` makes sense. Raises StreamReset if
        the stream was or is cut meanwhile, LocalProtocolError after `finish`.
        """

    async def finish(self) -> None:
        """Say that no more bytes will be sent (half-close); a second call does nothing."""

    def abort(self, code: Code = Code.ABORTED) -> None:
        """Cut both halves at once; the peer sees StreamReset(code). Never blocks, idempotent.

        After both halves have ended it does nothing visible; it must be called exactly then too,
        since it is what frees the stream's place (`async with` does it, see `closing`).
        """

    def join(self, far: "Stream", terms: "Splicing") -> Awaitable[None] | None:
        """Return what splices this pair below Python, or None if the pair has to be copied."""


class Connection(Protocol):
    """One authenticated-by-TLS link between a relay and a client, carrying streams."""

    @property
    def binding(self) -> Binding:
        """The transport and the relay's leaf certificate of this very handshake."""

    @property
    def peer(self) -> Address:
        """The far end, as seen by this end; changes when a QUIC peer migrates."""

    @property
    def last_heard(self) -> float:
        """Loop time at which authenticated bytes last came from the peer."""

    @property
    def is_closed(self) -> bool:
        """Whether it has ended: true before any of its streams is cut for that."""

    async def open_stream(self) -> Stream:
        """Open the next stream (relay only; the first one is the control stream).

        Waits while the peer's stream limit is reached; cancel-safe. Raises ConnectionLost.
        """

    async def accept_stream(self) -> Stream:
        """Return the next stream the peer opened (client only).

        Cancel-safe; raises ConnectionLost.
        """

    def close(self, code: Code = Code.OK, message: str = "") -> None:
        """End the connection now, telling the peer the code where the transport can.

        Every stream ends with StreamReset. Never blocks, idempotent.
        """

    async def wait_closed(self) -> ConnectionLost:
        """Wait until the connection has ended, by either side, and return why. Cancel-safe."""


class Listener(Protocol):
    """Accepts connections on one address of one transport."""

    @property
    def address(self) -> Address:
        """The address really bound (port 0 resolved)."""

    async def accept(self) -> Connection:
        """Return the next connection whose handshake is complete. Cancel-safe."""

    async def close(self) -> None:
        """Stop accepting; connections accepted before live on."""


class Prefixed:
    """A stream of which something was read already: `first` is received before the rest."""

    __slots__ = ("_first", "_stream")

    def __init__(self, stream: Stream, first: bytes) -> None:
        self._stream = stream
        self._first = first

    def __repr__(self) -> str:
        return f"<Prefixed {len(self._first)} bytes before {self._stream!r}>"

    async def receive(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        return await self._stream.receive()

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send(data)

    async def finish(self) -> None:
        await self._stream.finish()

    def abort(self, code: Code = Code.ABORTED) -> None:
        self._stream.abort(code)

    def join(self, far: Stream, terms: "Splicing") -> Awaitable[None] | None:
        return None if self._first else self._stream.join(far, terms)


async def send_last(
    stream: Stream, data: bytes, *, linger_timeout: float, dropped_bytes: int
) -> None:
    """Send the last bytes, finish, and let the far end read them and go; the caller aborts then.

    What the far end has still in flight is read and dropped, up to `dropped_bytes`: closing a
    socket with unread bytes makes the kernel send RST, and an RST overtakes the answer (RFC 9112
    §9.6). All of it takes `linger_timeout` seconds at most. Raises StreamReset.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(linger_timeout):
            await stream.send(data)
            await stream.finish()
            dropped = 0
            while dropped < dropped_bytes and (unread := await stream.receive()):
                dropped += len(unread)


class Tally:
    """Bytes that were passed on, `forth` from the near side and `back` to it.

    They are counted in `whole` too, of which this tally is a part. What runs on is up to TOLD_BYTES
    ahead of it in each direction.
    """

    __slots__ = ("_whole", "back", "forth")

    def __init__(self, whole: "Tally | None" = None) -> None:
        self._whole = whole
        self.forth = 0
        self.back = 0

    def __repr__(self) -> str:
        return f"<Tally {self.forth} forth, {self.back} back>"

    def count_forth(self, size: int) -> None:
        """Count bytes that the far side was given."""
        self.forth += size
        if self._whole is not None:
            self._whole.count_forth(size)

    def count_back(self, size: int) -> None:
        """Count bytes that the near side was given."""
        self.back += size
        if self._whole is not None:
            self._whole.count_back(size)


@dataclass(frozen=True, slots=True)
class Splicing:
    """What holds for a pair while it is spliced; see `splice`."""

    linger_timeout: float | None
    tally: Tally


async def splice(
    near: Stream,
    far: Stream,
    linger_timeout: float | None = None,
    tally: Tally | None = None,
) -> None:
    """Join two streams both ways until both have ended; a cut in either direction cuts both.

    After one side has finished, the other has `linger_timeout` seconds without a byte in which
    to do so (None: for ever). What is passed on is counted in `tally`. Raises StreamReset if the
    pair was cut. Both streams are aborted (which is invisible after a clean end) when this returns
    or raises, also when cancelled.
    """
    try:
        terms = Splicing(linger_timeout, tally or Tally())
        joined = near.join(far, terms)
        if joined is None:
            joined = _splice_by_copying(near, far, terms)
        await joined
    finally:
        near.abort()
        far.abort()


async def _splice_by_copying(near: Stream, far: Stream, terms: Splicing) -> None:
    linger = _Linger((near, far), terms.linger_timeout)
    cuts: list[Code] = []
    forth = _Way(near, far, terms.tally.count_forth)
    back = _Way(far, near, terms.tally.count_back)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy_one_way(back, linger, cuts), name="splice")
            # Here and now: what has been read of a visitor leaves together with its header.
            await _copy_one_way(forth, linger, cuts)
    finally:
        linger.stop()
    if cuts:
        raise StreamReset(cuts[0])


class _Way(NamedTuple):
    """One direction of a pair, and who is told how much went that way."""

    source: Stream
    sink: Stream
    tell: Callable[[int], None]


async def _copy_one_way(way: _Way, linger: "_Linger", cuts: list[Code]) -> None:
    """Copy, and note a cut instead of raising it: a task group would wrap it in another class.

    Its code only: an exception kept in a local would refer to itself through its traceback.
    """
    try:
        await _copy(way, linger)
    except StreamReset as reset:
        cuts.append(reset.code)
    else:
        linger.start()


async def _copy(way: _Way, linger: "_Linger") -> None:
    source, sink, tell = way
    now = asyncio.get_running_loop().time
    untold = 0  # bytes passed on: a call for each chunk would show in what a gigabyte costs
    try:
        while data := await source.receive():
            linger.moved_at = now()
            size, sending = len(data), sink.send(data)
            del data  # a sink that has sealed it for its own wire need not hold it while it waits
            await sending
            linger.moved_at = now()
            untold += size
            if untold >= TOLD_BYTES:
                tell(untold)
                untold = 0
        await sink.finish()
    except StreamReset as reset:
        source.abort(reset.code)
        sink.abort(reset.code)
        raise
    finally:
        tell(untold)


class _Linger:
    """Cuts a pair once one way has ended and the other moved nothing for `timeout` seconds.

    One timer per pair, armed when the first way ends and again only when it fires: a chunk costs
    a reading of the clock.
    """

    __slots__ = ("_pair", "_timeout", "_timer", "moved_at")

    def __init__(self, pair: tuple[Stream, Stream], timeout: float | None) -> None:
        self._pair = pair
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self.moved_at = 0.0

    def start(self) -> None:
        if self._timeout is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self.moved_at = loop.time()
            self._arm(loop, self._timeout)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._timer = loop.call_at(self.moved_at + timeout, self._check, loop, timeout)

    def _check(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        if loop.time() < self.moved_at + timeout:
            self._arm(loop, timeout)
            return
        for stream in self._pair:
            stream.abort(Code.TIMEOUT)
