"""Ending registered connections in order: drain, deadline, goodbye."""

import asyncio
from collections.abc import Iterable

from tunnel.errors import Code, TunnelError
from tunnel.log import get_log
from tunnel.protocol.backoff import DISPLACED_INTERVAL
from tunnel.protocol.fields import Reason
from tunnel.protocol.messages import Drain, Serving
from tunnel.relay.sessions import Link, Session
from tunnel.runtime.control import part
from tunnel.runtime.supervision import Crowd

log = get_log(__name__)


class Farewell:
    """Sees links off, each in a task of `crowd`, within `drain_timeout` seconds."""

    def __init__(self, crowd: Crowd, drain_timeout: float) -> None:
        self._crowd = crowd
        self.drain_timeout = drain_timeout

    def dismiss(self, loser: Session) -> None:
        """Let a superseded session finish what runs; what runs without an answer moves on."""
        for cut in tuple(loser.unanswered):
            cut()
        for link in loser.links:
            names = sorted(loser.granted)
            self._crowd.start(self._drain(link, Code.SUPERSEDED, DISPLACED_INTERVAL, names))

    def drain(self, links: Iterable[Link], retry_after: float) -> None:
        """Ask clients to leave: come back in `retry_after` seconds."""
        for link in links:
            self._crowd.start(self._drain(link, Code.DRAINING, retry_after))

    def expel(self, links: Iterable[Link], code: Code, message: str) -> None:
        """Close connections that are not to be any more, saying why."""
        for link in links:
            self._crowd.start(part(link.connection, link.channel, code, message))

    def take_names(self, link: Link, names: Iterable[str], code: Code) -> None:
        """Tell a client unasked that it serves these names no more."""
        self._crowd.start(self._tell_lost(link, names, code))

    async def part_from(self, links: Iterable[Link]) -> None:
        """Say goodbye on every link and close its connection."""
        async with asyncio.TaskGroup() as group:
            for link in links:
                farewell = part(link.connection, link.channel, Code.DRAINING)
                group.create_task(farewell, name=f"part {link!r}")

    async def _drain(
        self, link: Link, code: Code, retry_after: float, lost_names: Iterable[str] = ()
    ) -> None:
        """Ask the client to leave this connection; close it at the deadline."""
        try:
            async with asyncio.timeout(self.drain_timeout):
                await self._tell_lost(link, lost_names, code)
                await link.channel.send(Drain(self.drain_timeout, retry_after))
                await link.connection.wait_closed()
        except TimeoutError:
            await part(link.connection, link.channel, code, retry_after=retry_after)
        except TunnelError as error:
            log.debug("lost while draining", cause=error)

    @staticmethod
    async def _tell_lost(link: Link, names: Iterable[str], code: Code) -> None:
        reason = Reason(code)
        for name in names:
            lost = Serving(name, visitors=False, challenge=False, reason=reason)
            await link.channel.send(lost)
