"""What was seen of one relay, as values that others judge."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from tunnel.client.racing import Lane
from tunnel.runtime.lookups import Lookup
from tunnel.stream import Address
from tunnel.tls.leaf import Leaf


class Silence(Enum):
    """In which way an attempt came to nothing."""

    REFUSED = auto()  # the host answers, and says that nothing listens there
    UNANSWERED = auto()
    UNREACHABLE = auto()  # this machine, or a router, knows no way
    OTHER = auto()  # somebody answers, but not as a relay


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an attempt came to nothing, for the judge and for people."""

    silence: Silence
    words: str


@dataclass(frozen=True, slots=True)
class Route:
    """Whether this machine knows a way to an address; `trouble` is empty if it does."""

    address: Address
    trouble: str = ""

    @property
    def is_ipv6(self) -> bool:
        """Whether the address is of the newer family."""
        return ":" in self.address.host


@dataclass(frozen=True, slots=True)
class Meeting:
    """A relay that has answered: its certificate, not verified yet, and its clock beside ours."""

    leaf: Leaf
    ours: datetime
    theirs: datetime | None  # None: it does not tell
    distrust: str = ""  # why chain or name are not accepted, where they are what is verified


@dataclass(frozen=True, slots=True)
class Knock:
    """One attempt: over one transport, at one address, with a meeting or a trouble."""

    lane: Lane
    address: Address
    met: Meeting | None = None
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class ProxySight:
    """What came of asking the proxy for the relay; `trouble` is empty if it has joined us to it."""

    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Sight:
    """All that was seen of one relay. `lanes` are those that settings allow."""

    lanes: tuple[Lane, ...]
    lookup: Lookup | None  # None: it is for the proxy to resolve the name
    routes: tuple[Route, ...] = ()
    proxy: ProxySight | None = None  # None: there is none in the settings
    knocks: tuple[Knock, ...] = ()

    @property
    def meetings(self) -> tuple[tuple[Knock, Meeting], ...]:
        """The attempts that a relay has answered."""
        return tuple((knock, knock.met) for knock in self.knocks if knock.met is not None)
