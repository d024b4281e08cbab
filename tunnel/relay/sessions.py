"""Sessions and their links as the registry keeps them: state, no input or output."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from tunnel.relay.limits import ClientUse
from tunnel.stream import Connection


class LinkState(Enum):
    """Whether new streams may go over a link."""

    READY = auto()
    SUSPECT = auto()  # a heartbeat is missing
    DRAINING = auto()
    GONE = auto()


@dataclass(frozen=True, slots=True)
class Kinds:
    """What a link serves under one name."""

    visitors: bool
    challenge: bool


@dataclass(slots=True, eq=False)
class Link:
    """One registered connection of a session."""

    connection: Connection
    session: "Session"
    state: LinkState = LinkState.READY
    serving: dict[str, Kinds] = field(default_factory=dict)
    streams: int = 0  # open ones

    def serves(self, name: str, *, challenge: bool) -> bool:
        """Say whether a stream of this kind for `name` may be opened here now."""
        kinds = self.serving.get(name)
        if kinds is None or self.state is not LinkState.READY:
            return False
        return kinds.challenge if challenge else kinds.visitors


@dataclass(slots=True, eq=False)
class Session:
    """All links of one client process (`instance`) under one key."""

    token: bytes  # 16 bytes, announced in welcome
    fingerprint: bytes
    instance: bytes
    use: ClientUse
    is_replica: bool = False
    is_superseded: bool = False
    granted: dict[str, int] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    unanswered: set[Callable[[], None]] = field(default_factory=set)  # cuts of silent streams

    def pick(self, name: str, *, challenge: bool = False) -> Link | None:
        """Return the serving link with the fewest open streams, if any serves the name."""
        serving = (link for link in self.links if link.serves(name, challenge=challenge))
        return min(serving, key=lambda link: link.streams, default=None)

    def serves(self, name: str) -> bool:
        """Say whether any link of any state serves visitors of the name."""
        return any(name in link.serving and link.serving[name].visitors for link in self.links)

    def __repr__(self) -> str:
        states = ",".join(link.state.name for link in self.links)
        return f"<Session {self.fingerprint.hex()[:16]} [{states}]>"
