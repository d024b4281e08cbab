"""The visitors of one session who come on direct connections, past all of its links."""

from collections.abc import Sequence

from tunnel.client.events import DirectState
from tunnel.client.forward import Forwarder
from tunnel.client.link import Link
from tunnel.client.spares import Invitation, Spares
from tunnel.protocol.messages import StreamHeader
from tunnel.runtime.supervision import Crowd
from tunnel.transport.direct.stream import DirectStream


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
        self.crowd.start(self._forwarder.forward_direct(stream, header))


def _invitation(link: Link) -> Invitation | None:
    """Return what direct connections take, where the relay has offered them to this link."""
    if link.welcome is None or link.welcome.direct is None or link.peer is None:
        return None
    return Invitation(link.welcome.session, link.peer, link.welcome.direct)
