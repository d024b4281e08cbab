"""The visitors of one session who come on direct connections, past all of its links."""

from collections.abc import Sequence

from tunnel.client.events import DirectState
from tunnel.client.forward import TARGET_TIMEOUT, Forwarder, Straight, fields_of
from tunnel.client.link import Link
from tunnel.client.spares import Invitation, Spares
from tunnel.errors import Code, DialFailed
from tunnel.log import get_log
from tunnel.protocol.messages import StreamHeader
from tunnel.runtime.supervision import Crowd
from tunnel.transport.direct.crossing import Crossing
from tunnel.transport.direct.joint import Terms
from tunnel.transport.direct.poller import poller
from tunnel.transport.direct.stream import DirectStream

log = get_log(__name__)


class DirectVisits:
    """Keeps spares as long as a link stays whose relay has offered them.

    `crowd` is to be entered while the session runs. Through a proxy nothing is opened: it was
    asked for the relay's connections, not for hundreds of others.
    """

    def __init__(self, server: str, mode: str, forwarder: Forwarder, *, is_proxied: bool) -> None:
        self._forwarder = forwarder
        self._is_proxied = is_proxied
        self._spares = Spares(mode, self._arrived)
        self.crowd = Crowd(f"direct visitor of {server}")

    def __repr__(self) -> str:
        return f"<DirectVisits {len(self.crowd)} visitors, {self._spares!r}>"

    def follow(self, staying: Sequence[Link], mode: str) -> None:
        """Keep spares as these links offer now, and as the mode says."""
        offers = () if self._is_proxied else (_invitation(link) for link in staying)
        self._spares.follow(next((each for each in offers if each is not None), None), mode)

    def state(self, staying: Sequence[Link]) -> DirectState:
        """Return how it stands, and why."""
        if self._is_proxied:
            return self._spares.state("the relay is reached through a proxy")
        return self._spares.state("not offered by the relay" if staying else "nothing registered")

    async def ended(self, staying: Sequence[Link], link: Link) -> None:
        """Wait for all visitors if no other link than this one holds their session open."""
        if not any(other is not link for other in staying):
            await self.crowd.emptied()

    def _arrived(self, stream: DirectStream, header: StreamHeader) -> None:
        straight = self._forwarder.straight(header)
        if straight is None:
            self.crowd.start(self._forwarder.forward_direct(stream, header))
        else:
            StraightVisit(self.crowd, straight, header).begin(stream)


class StraightVisit:
    """A visitor whose bytes go to the target as they are, without a task."""

    __slots__ = ("_crossing", "_crowd", "_header", "_straight")

    def __init__(self, crowd: Crowd, straight: Straight, header: StreamHeader) -> None:
        self._crowd = crowd
        self._straight = straight
        self._header = header
        self._crossing: Crossing | None = None

    def begin(self, stream: DirectStream) -> None:
        """Take the visitor to the target."""
        straight = self._straight
        log.debug("visitor", **fields_of(self._header, straight.endpoint))
        straight.endpoint.visits.enter()
        self._crowd.enter(self)
        sock, first = stream.part()
        terms = Terms(
            straight.linger_timeout,
            tally=straight.endpoint.visits.tally,
            before_close=stream.before_close,
        )
        self._crossing = Crossing(poller(), sock, terms, self)
        self._crossing.begin(straight.place, straight.preface(self._header) + first, TARGET_TIMEOUT)

    def cut(self) -> None:
        """End it."""
        if self._crossing is not None:
            self._crossing.cut()

    def ended(self, code: Code) -> None:
        if code is not Code.OK:
            fields = fields_of(self._header, self._straight.endpoint)
            log.debug("visitor ended", code=code.word, **fields)
        self._leave()

    def unreached(self, failure: DialFailed) -> None:
        endpoint = self._straight.endpoint
        endpoint.visits.target_failures += 1
        log.debug("target did not answer", endpoint=endpoint.name, cause=failure)
        self._leave()

    def _leave(self) -> None:
        self._straight.endpoint.visits.leave()
        self._crowd.leave(self)


def _invitation(link: Link) -> Invitation | None:
    """Return what direct connections take, where the relay has offered them to this link."""
    if link.welcome is None or link.welcome.direct is None or link.peer is None:
        return None
    return Invitation(link.welcome.session, link.peer, link.welcome.direct)
