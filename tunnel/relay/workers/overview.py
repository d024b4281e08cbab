"""All workers, as they are looked at: a View of `tunnel.relay.status`."""

import asyncio
from collections.abc import Callable, Iterable

from tunnel.relay.budget_file import BudgetFile
from tunnel.relay.certificate import OwnCertificate
from tunnel.relay.counts import Registrations, RelayVisits
from tunnel.relay.listening import Listening, Ports
from tunnel.relay.registry import Registry
from tunnel.relay.status import Processes, obstacle_of
from tunnel.relay.workers.crew import LOOK_TIMEOUT, Crew
from tunnel.relay.workers.rolls import FarChannel, FarConnection, Rolls
from tunnel.relay.workers.snapshots import DirectSums, Look, SpareSums, Sums, sums_of
from tunnel.settings.values import RelaySettings
from tunnel.stream import Address, Binding


class Overview:
    """Figures as of the last `gather`; who is there is known without."""

    def __init__(
        self,
        *,
        settings: RelaySettings,
        ports: Ports,
        rolls: Rolls,
        crew: Crew,
        certificate: OwnCertificate,
        budget: BudgetFile,
    ) -> None:
        self.settings = settings
        self.certificate = certificate
        self.budget = budget
        self.is_draining = False
        self.validations = 0  # of the relay's own names, that the head has answered
        self._ports = ports
        self._rolls = rolls
        self._crew = crew
        self._looks: dict[int, Look] = {}
        self._gone = Sums()  # what workers had counted that are no more
        self._sums = Sums()
        self._turn = asyncio.Lock()

    async def gather(self) -> None:
        """Ask every worker for its figures; of one that does not answer the last ones count."""
        async with self._turn:  # one at a time: figures cost whoever tells them
            await self._gather()

    async def _gather(self) -> None:
        for post, answer in (await self._crew.ask_all("look", LOOK_TIMEOUT)).items():
            if answer is not None and answer["look"] is not None:
                self._looks[post.index] = answer["look"]
                self._note_links(post.index, answer["look"])
        self._sums = sums_of(self._gone, self._looks.values())
        self._note_tallies()

    def lose(self, worker: int) -> None:
        """Keep what a worker had counted when it was last asked."""
        look = self._looks.pop(worker, None)
        if look is not None:
            self._gone.add_counted(look)

    def _note_links(self, worker: int, look: Look) -> None:
        for number, (transport, peer, streams, round_trip) in look["links"].items():
            link = self._rolls.numbered(worker, int(number))
            if link is not None and isinstance(link.connection, FarConnection):
                link.streams = streams
                link.connection.peer = Address(*peer)
                link.connection.binding = Binding(transport, b"")
                if isinstance(link.channel, FarChannel):
                    link.channel.round_trip = round_trip

    def _note_tallies(self) -> None:
        registry, sums = self._rolls.registry, self._sums
        registry.tally.forth, registry.tally.back = sums.forth, sums.back
        for session in {link.session for link in registry.links}:
            key = (session.fingerprint, session.instance)
            session.tally.forth, session.tally.back = sums.by_session.get(key, (0, 0))

    # -- a View

    def obstacle(self) -> str | None:
        """As of a View."""
        return obstacle_of(is_draining=self.is_draining)

    @property
    def listening(self) -> Callable[[], Iterable[Listening]]:
        """As of a View."""
        return self._ports.told

    @property
    def registry(self) -> Registry:
        """As of a View; its links are those of all workers."""
        return self._rolls.registry

    @property
    def registrations(self) -> Registrations:
        """As of a View."""
        return self._sums.registrations

    @property
    def unregistered(self) -> int:
        """As of a View."""
        return self._sums.unregistered

    @property
    def visits(self) -> RelayVisits:
        """As of a View."""
        visits = self._sums.visits
        visits.validations_relay = self.validations
        return visits

    @property
    def direct(self) -> DirectSums:
        """As of a View."""
        return self._sums.direct

    @property
    def spares(self) -> SpareSums:
        """As of a View."""
        return self._sums.spares

    @property
    def parked_bytes(self) -> int:
        """As of a View."""
        return self._sums.parked_bytes

    @property
    def processes(self) -> Processes:
        """As of a View."""
        posts = self._crew.posts
        pids = {each.index: each.process.pid for each in posts if each.process is not None}
        return Processes(pids, self._sums.handed_over, self._crew.restarts)
