"""Sessions and their links as the registry keeps them: state, no input or output."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from tunnel.protocol.messages import Drain, Ping, Pong, Serving, Welcome
from tunnel.protocol.registration import FromClient
from tunnel.relay.limits import ClientUse
from tunnel.runtime.control import ControlChannel
from tunnel.stream import Connection, Tally

RelayMessage = Welcome | Serving | Ping | Pong | Drain
RelayChannel = ControlChannel[FromClient, RelayMessage]


class LinkState(Enum):
    """Whether new streams may go over a link."""

    READY = auto()
    SUSPECT = auto()  # a heartbeat is missing
    DRAINING = auto()
    SUPERSEDED = auto()  # draining, since a newer instance has taken over
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
    channel: RelayChannel
    session: "Session"
    state: LinkState = LinkState.READY
    serving: dict[str, Kinds] = field(default_factory=dict)
    streams: int = 0  # open ones
    since: float = 0.0  # when it registered, in loop time

    def __repr__(self) -> str:
        peer, transport = self.connection.peer, self.connection.binding.transport
        return f"<Link {peer} {transport} {self.state.name} {self.streams} streams>"

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
    tally: Tally = field(default_factory=Tally)  # of its visitors' bytes
    is_replica: bool = False
    granted: frozenset[str] = frozenset()
    links: list[Link] = field(default_factory=list)
    predecessors: list[bytes] = field(default_factory=list)  # instances it has superseded
    unanswered: set[Callable[[], None]] = field(default_factory=set)  # cuts of silent streams
    on_end: set[Callable[[], None]] = field(default_factory=set)  # called after its last link
    label: str = field(init=False)  # for logs: the key's fingerprint in short, and which run

    def __post_init__(self) -> None:
        self.label = f"{self.fingerprint.hex()[:16]}/{self.instance.hex()[:4]}"

    def serves(self, name: str) -> bool:
        """Say whether any link of any state serves visitors of the name."""
        return any(name in link.serving and link.serving[name].visitors for link in self.links)

    def validates(self, name: str) -> bool:
        """Say whether any link of any state waits for validations of the name."""
        return any(name in link.serving and link.serving[name].challenge for link in self.links)

    def __repr__(self) -> str:
        states = ",".join(link.state.name for link in self.links)
        return f"<Session {self.label} [{states}]>"


def retire(links: Iterable[Link]) -> list[Link]:
    """Take links out of rotation for good.

    Returns those whose clients do not know it yet: what was superseded is draining already, and
    must not serve again.
    """
    leaving = [each for each in links if each.state is not LinkState.SUPERSEDED]
    for link in leaving:
        link.state = LinkState.DRAINING
    return leaving
