"""From a visitor's ClientHello to the client that serves the name, and on until both have ended."""

import asyncio
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tunnel.errors import Code, ConnectionLost, Refused, StreamReset
from tunnel.log import get_log
from tunnel.protocol.frames import HEADER_LIMIT, frame
from tunnel.protocol.messages import StreamHeader, StreamKind, encode
from tunnel.relay.registry import Registry
from tunnel.relay.replay import ReplayableVisitor
from tunnel.relay.sessions import Link, Session
from tunnel.relay.throttle import ThrottledStream
from tunnel.runtime.supervision import first_of
from tunnel.settings.values import RelayTimeouts
from tunnel.stream import Stream, splice

log = get_log(__name__)

REOPENINGS = 3
REOPENABLE = frozenset({Code.NOT_SERVING, Code.DRAINING, Code.BUSY, Code.SUPERSEDED})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, and whether another connection may do better."""

    code: Code
    may_reopen: bool


class Routing:
    """Takes visitors to the clients that serve their names."""

    def __init__(self, timeouts: RelayTimeouts, registry: Registry) -> None:
        self._timeouts = timeouts
        self._registry = registry

    def reconfigure(self, timeouts: RelayTimeouts) -> None:
        """Keep to other deadlines wherever one begins from now on."""
        self._timeouts = timeouts

    async def forward(
        self,
        visitor: Stream,
        hello: bytes,
        header: StreamHeader,
        reopenings: int = REOPENINGS,
        *,
        may_wait: bool = True,
    ) -> None:
        """Forward until both sides have ended; `hello` was read from the visitor already.

        Where nobody serves the name, a visitor that `may_wait` is held as long as settings say.
        After a first attempt that nobody answers there are up to `reopenings` more.
        Raises Refused if nobody answered: the visitor is untouched then. Otherwise the visitor
        has ended or was cut.
        """
        challenge = header.kind is StreamKind.CHALLENGE
        if not may_wait and self._registry.route(header.name, challenge=challenge) is None:
            raise Refused(Code.NOT_SERVING, "nobody came to serve the name")
        use = (await self._find(header)).session.use
        async with use.stream_place(self._timeouts.open_stream):
            replay = ReplayableVisitor(visitor, hello, asyncio.get_running_loop().time)
            await self._try_links(replay, header, reopenings)

    async def _try_links(
        self, replay: ReplayableVisitor, header: StreamHeader, reopenings: int
    ) -> None:
        """Attempt it over one link after another; raises Refused if none answered."""
        tried: set[Link] = set()
        failure = Failure(Code.NOT_SERVING, may_reopen=True)
        while len(tried) <= reopenings and failure.may_reopen:
            link = await self._find(header, tried, failure.code)
            outcome = await self._attempt(replay, link, header)
            if outcome is None or not replay.is_replayable:
                return
            failure = outcome
            log.debug("stream not answered", id=header.id, code=failure.code.word)
            tried.add(link)
            replay.rewind()
        raise Refused(failure.code)

    async def _find(
        self,
        header: StreamHeader,
        tried: Container[Link] = (),
        why_not: Code = Code.NOT_SERVING,
    ) -> Link:
        """Return a link not yet tried, holding the visitor of an expected name for a moment.

        Raises Refused(why_not) if there is none.
        """
        challenge = header.kind is StreamKind.CHALLENGE
        link = self._registry.route(header.name, challenge=challenge, without=tried)
        if link is not None:
            return link
        if challenge or not self._is_worth_holding(header.name):
            raise Refused(why_not)
        try:
            async with asyncio.timeout(self._timeouts.visitor_hold):
                while link is None:
                    await self._registry.served(header.name)
                    link = self._registry.route(header.name, without=tried)
        except TimeoutError:
            raise Refused(why_not, "nobody came to serve the name") from None
        return link

    def _is_worth_holding(self, name: str) -> bool:
        """Say whether nobody serves the name now, not even who refused, but soon may."""
        return self._registry.route(name) is None and self._registry.is_expected(name)

    async def _attempt(
        self, replay: ReplayableVisitor, link: Link, header: StreamHeader
    ) -> Failure | None:
        """Forward over one link; return why it failed, or None after a clean end."""
        link.streams += 1
        where = {"session": link.session.label, "name": header.name, "peer": header.peer}
        log.debug("stream to a client", id=header.id, kind=header.kind, **where)
        try:
            far = await self._open(link, header)
            with _unanswered(link.session, replay, far):
                await self._splice(replay, far, link.session)
        except StreamReset as reset:
            is_lost = link.connection.is_closed
            return Failure(reset.code, may_reopen=is_lost or reset.code in REOPENABLE)
        except ConnectionLost as loss:
            return Failure(loss.code, may_reopen=True)
        except TimeoutError:
            return Failure(Code.TIMEOUT, may_reopen=True)
        finally:
            link.streams -= 1
        return None

    async def _open(self, link: Link, header: StreamHeader) -> Stream:
        async with asyncio.timeout(self._timeouts.open_stream):
            far = await link.connection.open_stream()
            try:
                await far.send(frame(encode(header), HEADER_LIMIT))
            except BaseException:
                far.abort(Code.TIMEOUT)
                raise
            return far

    async def _splice(self, replay: ReplayableVisitor, far: Stream, session: Session) -> None:
        linger, idle = self._timeouts.linger, self._timeouts.idle_visitor
        bucket, tally = session.use.bucket, session.tally
        paced = ThrottledStream(far, bucket) if bucket is not None else far
        if idle is None:
            await splice(replay, paced, linger, tally)
        else:
            await first_of(
                lambda: splice(replay, paced, linger, tally),
                lambda: _expire(replay, idle),
            )


@contextmanager
def _unanswered(session: Session, replay: ReplayableVisitor, far: Stream) -> Iterator[None]:
    """Let the session's successor take the stream over as long as nothing has come back."""

    def cut() -> None:
        if replay.is_replayable:
            far.abort(Code.SUPERSEDED)

    session.unanswered.add(cut)
    try:
        yield
    finally:
        session.unanswered.discard(cut)


async def _expire(replay: ReplayableVisitor, idle: float) -> None:
    """Return once no byte has passed for `idle` seconds."""
    now = asyncio.get_running_loop().time
    left = idle
    while left > 0:
        await asyncio.sleep(left)
        left = replay.last_active + idle - now()
