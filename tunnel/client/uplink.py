"""One keypair's session with one relay: it dials what `racing.Course` says, and tells it what came.

Each connection is one task, in `link`; this one decides nothing but the order of things.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from tunnel.client import events
from tunnel.client.direct import DirectVisits
from tunnel.client.ending import Ending
from tunnel.client.endpoints import Endpoint
from tunnel.client.favourites import Favourites
from tunnel.client.journal import Journal
from tunnel.client.link import Link
from tunnel.client.passage import Passage
from tunnel.client.racing import Course, Lane
from tunnel.client.served import ServedNames
from tunnel.client.staying import Staying
from tunnel.client.terms import Terms
from tunnel.errors import Code
from tunnel.log import get_log
from tunnel.protocol.fields import Reason
from tunnel.protocol.heartbeat import Action
from tunnel.runtime.supervision import Crowd
from tunnel.stream import Address

log = get_log(__name__)


class Uplink:
    """All connections from one keypair to one relay, for as long as the client runs."""

    def __init__(
        self,
        passage: Passage,
        terms: Terms,
        journal: Journal,
        favourites: Favourites,
    ) -> None:
        self._passage = passage
        self._terms = terms
        self._journal = journal
        self._favourites = favourites
        remembered = favourites.get(passage.way.server.address)
        self._course = Course(terms.rules, random.random, remembered=remembered)
        self._links: dict[Lane, Link] = {}
        self._departing: set[Link] = set()
        self._replaced: set[Link] = set()  # of those, the ones that serve until another does
        self._served = ServedNames(passage.way.server.name, journal)
        self.staying = Staying(lambda: (*self._links.values(), *self._replaced))
        is_proxied = passage.way.server.proxy is not None
        forwarder = passage.forwarder
        self._direct = DirectVisits(self.server, terms.direct, forwarder, is_proxied=is_proxied)
        self._news = asyncio.Event()
        self._is_stopping = False
        self._has_served = asyncio.Event()

    def __repr__(self) -> str:
        claim = self._passage.claim
        return f"<Uplink {claim.keypair.name} → {self.server} {self._course!r}>"

    @property
    def server(self) -> str:
        """The name of the relay's settings."""
        return self._passage.way.server.name

    def carries(self, endpoint: Endpoint) -> bool:
        """Say whether the endpoint is served through this session."""
        return self._terms.endpoints.get(endpoint.names[0]) is endpoint

    @property
    def relay_hosts(self) -> frozenset[str]:
        """The relay's IP addresses as it is connected to; none are known behind a proxy."""
        return frozenset() if self._passage.way.server.proxy is not None else self.staying.peers

    @property
    def urls(self) -> Mapping[str, str]:
        """Where visitors find each name that the relay serves now."""
        return self._served.urls

    def reconfigure(self, terms: Terms) -> None:
        """Go on with other terms: new streams follow them, and connections that begin from now on.

        Their endpoints have the names that were claimed.
        """
        self._terms, passage = terms, self._passage
        passage.forwarder.reconfigure(terms.endpoints, terms.linger_timeout)
        self._passage = replace(
            passage,
            way=replace(passage.way, options=terms.options),
            register_timeout=terms.register_timeout,
            heartbeat=terms.heartbeat,
        )
        self._course.probe_every(terms.rules.probe_interval, _now())
        self._invite()
        self._news.set()

    def hand_over(self, urls_elsewhere: Callable[[], Mapping[str, str]]) -> None:
        """Leave it to the session in place of this one to tell of the names that it serves."""
        self._served.urls_elsewhere = urls_elsewhere

    def stop(self) -> None:
        """Ask `run` to end in order: visitors elsewhere, streams finished, everything closed.

        That takes `drain_timeout` at most. To be called on the event loop.
        """
        self._leave_all(_now() + self._terms.drain_timeout)

    def retire(self) -> None:
        """As `stop`, but streams may take as long as they need, until `stop`."""
        self._leave_all(None)

    async def served(self) -> None:
        """Wait until a relay has answered all that a connection offers, or for `stop`."""
        await self._has_served.wait()

    async def run(self) -> None:
        """Keep the session up until `stop`."""
        now = asyncio.get_running_loop().time
        self._course.start(now())
        async with self._direct.crowd as visitors:
            async with Crowd(f"link to {self.server}") as crowd:
                while not self._is_stopping:
                    for lane in self._course.take_due(now()):
                        link = self._links[lane] = Link(lane, self._passage, self)
                        crowd.start(self._drive(link))
                    await self._wait(self._course.next_timeout())
            visitors.cancel()

    async def _wait(self, until: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._news.wait()
        self._news.clear()

    def _leave_all(self, deadline: float | None) -> None:
        self._is_stopping = True
        self._has_served.set()
        self._departing.update(self._links.values())
        self._links.clear()
        for link in self._departing:
            link.leave(deadline)
        self._invite()
        self._passage.challenges.tell()
        self._news.set()

    async def _drive(self, link: Link) -> None:
        try:
            ending = await link.run()
        except Exception as error:  # noqa: BLE001 - the boundary at which a bug is logged
            log.error("link failed", server=self.server, lane=link.lane, exception=error)
            ending = Ending(Code.INTERNAL, "a bug of ours, see the log")
        self._departing.discard(link)
        self._replaced.discard(link)
        if link.welcome is not None:
            self._journal.disconnected(link.lane.transport, ending)
        if self._links.get(link.lane) is link:
            self._give_up(link, ending)
        self._invite()
        self._compare_names()
        self._passage.challenges.tell()

    def _give_up(self, link: Link, ending: Ending) -> None:
        """Take a link out of the course, which plans the next attempt."""
        del self._links[link.lane]
        self._course.ended(link.lane, _now(), ending)
        retry_in = _until(self._course.next_timeout())
        self._journal.ended(link.lane.transport, ending, retry_in)
        self._apply()

    # -- what links report

    def registered(self, link: Link) -> None:
        """Count a link in that the relay has welcomed, if it is still wanted."""
        if not self._is_current(link) or link.welcome is None:
            return
        observed = str(Address(*link.welcome.observed))
        self._journal.connected(link.lane.transport, observed, link.relay)
        for name, reason in link.refused.items():
            self._journal.refused(reason.code, str(reason), name)
        self._course.registered(link.lane, _now())
        self._apply()

    def answered(self, name: str, reason: Reason | None) -> None:
        """Note what the relay does for a name."""
        if reason is not None:
            self._journal.refused(reason.code, str(reason), name)
        self._compare_names()
        self._passage.challenges.tell()

    def serving(self, link: Link) -> None:
        """Let the course know that visitors come over this link."""
        if self._is_current(link):
            self._course.serving(link.lane, _now())
            self._apply()
            self._has_served.set()
            while self._replaced:
                self._replaced.pop().leave()

    def judged(self, link: Link, action: Action) -> None:
        """Pass the heartbeat's verdict on to the course."""
        if not self._is_current(link):
            return
        if action is Action.SUSPECT:
            self._course.suspect(link.lane, _now())
        elif action is Action.RESTORE:
            self._course.restored(link.lane)
        self._apply()

    def vacated(self, link: Link, ending: Ending) -> None:
        """Replace a link that goes on only for the streams it has."""
        if self._is_current(link):
            self._departing.add(link)
            self._give_up(link, ending)
        self._invite()
        self._passage.challenges.tell()

    def aged(self, link: Link) -> None:
        """Dial a link in place of one that goes on serving until the new one does."""
        if self._is_current(link):
            del self._links[link.lane]
            self._departing.add(link)
            self._replaced.add(link)
            self._course.ended(link.lane, _now(), Ending(Code.OK, "asks anew"))
            self._apply()

    async def relieved(self, link: Link) -> None:
        """Wait for the visitors on direct connections, which need a link of their session."""
        await self._direct.ended(self.staying.links, link)

    def _is_current(self, link: Link) -> bool:
        return self._links.get(link.lane) is link

    # -- what follows from it

    def _apply(self) -> None:
        """Let surplus links leave, and wake `run` for what is due.

        They have no deadline: that another transport is used now is no reason to cut a visitor.
        """
        for lane in self._course.take_surplus():
            link = self._links.pop(lane)
            self._departing.add(link)
            link.leave()
        self._journal.carried_by(self._course.transport, self._course.reason)
        self._invite()
        self._favourites.put(self._passage.way.server.address, self._course.favourite)
        self._passage.challenges.tell()
        self._news.set()

    def _invite(self) -> None:
        self._direct.follow(self.staying.links, self._terms.direct)

    def _compare_names(self) -> None:
        self._served.compare((*self._links.values(), *self._departing), self._terms.endpoints)

    def state(self, names: frozenset[str]) -> events.ServerState:
        """Return how the session stands, as far as these names are concerned."""
        links = self._links.values()
        welcomes = [link.welcome for link in links if link.welcome is not None]
        return events.ServerState(
            server=self.server,
            transport=self._course.transport,
            reason=self._course.reason,
            connections=len(welcomes),
            names=tuple(sorted(names & self._served.urls.keys())),
            observed=str(Address(*welcomes[0].observed)) if welcomes else None,
            last_error=self._journal.last_error,
            retry_in=_until(self._course.next_race),
            round_trip=_round_trip(links),
            probe_in=_until(self._course.next_probe),
            direct=self._direct.state(self.staying.links),
        )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _round_trip(links: Iterable[Link]) -> float | None:
    """Return the shortest that is known."""
    return min((link.round_trip for link in links if link.round_trip is not None), default=None)


def _until(due: float | None) -> float | None:
    return None if due is None else max(0.0, round(due - _now(), 3))
