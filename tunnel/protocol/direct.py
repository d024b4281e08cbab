"""Direct connections on the wire: the prelude of a spare, and the sealed stream header.

docs/protocol.md §7. Keys and ciphers come in from outside (`transport.direct.keys`): here is where
bytes begin and end, and which numbers may still come.
"""

from dataclasses import dataclass

from tunnel.errors import LocalProtocolError, RemoteProtocolError
from tunnel.protocol.frames import HEADER_LIMIT

MAGIC = b"TUNNEL/1"
SESSION_BYTES = 16
COUNTER_BYTES = 8
PROOF_BYTES = 32
PRELUDE_BYTES = len(MAGIC) + SESSION_BYTES + COUNTER_BYTES + PROOF_BYTES
COUNTER_MAX = 2 ** (8 * COUNTER_BYTES) - 1
SPARES_LIMIT = 64  # idle ones of one session
WINDOW = 4096  # counters below the highest one that may still come, each once
TAG_BYTES = 16  # of AES-GCM, at the end of what is sealed
SEALED_MAX_BYTES = HEADER_LIMIT + TAG_BYTES
LENGTH_BYTES = 2


@dataclass(frozen=True, slots=True)
class Prelude:
    """How a spare begins: whose it is, its number, and the proof of both."""

    session: bytes
    counter: int
    proof: bytes

    @property
    def claim(self) -> bytes:
        """The bytes that are proved."""
        return claim_of(self.session, self.counter)

    def __bytes__(self) -> bytes:
        return self.claim + self.proof


def claim_of(session: bytes, counter: int) -> bytes:
    """Return the beginning of a prelude, which its proof covers."""
    return MAGIC + session + counter.to_bytes(COUNTER_BYTES, "big")


def is_prelude(beginning: bytes) -> bool:
    """Say whether a connection begins as spares do: nothing else has this first byte."""
    return beginning[:1] == MAGIC[:1]


def parse_prelude(beginning: bytes) -> Prelude | None:
    """Return the prelude that a connection begins with, None until it is whole.

    Raises RemoteProtocolError with the first byte that is wrong, or one too many: a spare says
    nothing after its prelude.
    """
    if not MAGIC.startswith(beginning[: len(MAGIC)]):
        raise RemoteProtocolError("a prelude of another kind")
    if len(beginning) > PRELUDE_BYTES:
        raise RemoteProtocolError("more than a prelude")
    if len(beginning) < PRELUDE_BYTES:
        return None
    session, counter, proof = len(MAGIC), len(MAGIC) + SESSION_BYTES, PRELUDE_BYTES - PROOF_BYTES
    number = int.from_bytes(beginning[counter:proof], "big")
    return Prelude(beginning[session:counter], number, beginning[proof:])


class Counters:
    """The counters of one session: each is taken once, old ones never."""

    __slots__ = ("_highest", "_taken")

    def __init__(self) -> None:
        self._highest = -1
        self._taken = 0  # bit n: the one n below the highest

    def __repr__(self) -> str:
        return f"<Counters up to {self._highest}>"

    def take(self, counter: int) -> bool:
        """Take a counter; return whether it was new and within the window."""
        ahead = counter - self._highest
        if ahead > 0:
            shift = min(ahead, WINDOW + 1)  # a greater jump forgets all there was
            self._taken = (self._taken << shift | 1) & ((1 << WINDOW + 1) - 1)
            self._highest = counter
            return True
        if -ahead > WINDOW or self._taken >> -ahead & 1:
            return False
        self._taken |= 1 << -ahead
        return True


def sealed_frame(sealed: bytes) -> bytes:
    """Return a sealed header with its length before it; raises LocalProtocolError if too long."""
    if len(sealed) > SEALED_MAX_BYTES:
        raise LocalProtocolError(f"sealed header of {len(sealed)} bytes")
    return len(sealed).to_bytes(LENGTH_BYTES, "big") + sealed


def split_sealed(received: bytes) -> tuple[bytes, bytes] | None:
    """Return the sealed header and what came after it, None until it is whole.

    Raises RemoteProtocolError for a length that no header has.
    """
    if len(received) < LENGTH_BYTES:
        return None
    length = int.from_bytes(received[:LENGTH_BYTES], "big")
    if not TAG_BYTES < length <= SEALED_MAX_BYTES:
        raise RemoteProtocolError(f"sealed header of {length} bytes")
    end = LENGTH_BYTES + length
    return (received[LENGTH_BYTES:end], received[end:]) if len(received) >= end else None
