"""What a relay counts of those who come: plain figures, read when somebody asks."""

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tunnel.errors import Refused
from tunnel.log import clipped
from tunnel.runtime.visits import Visits
from tunnel.stream import Address

REFUSALS_KEPT = 32  # the last registrations that were refused


@dataclass(frozen=True, slots=True)
class RefusedClient:
    """A registration that was refused; the key is None where it was not proved."""

    at: datetime
    peer: Address
    fingerprint: bytes | None
    code: str
    message: str


@dataclass(slots=True)
class Registrations:
    """How many were refused, by code, and the last of them."""

    refused: Counter[str] = field(default_factory=Counter)
    latest: deque[RefusedClient] = field(default_factory=lambda: deque(maxlen=REFUSALS_KEPT))

    def refuse(self, peer: Address, fingerprint: bytes | None, refusal: Refused) -> None:
        """Count a refusal."""
        word = refusal.code.word
        self.refused[word] += 1
        message = clipped(refusal.message)
        self.latest.append(RefusedClient(datetime.now(UTC), peer, fingerprint, word, message))


@dataclass(slots=True)
class RelayVisits(Visits):
    """Visitors whose ClientHello was read, validations by authorities, and who was turned away."""

    validations_relay: int = 0  # answered by the relay itself
    validations_client: int = 0  # answered by a client
    turned_away: Counter[str] = field(default_factory=Counter)  # by code, or by what was wrong
