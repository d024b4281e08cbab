"""The relay as a whole: what it is made of, how it starts, how it ends."""

import asyncio
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address

from tunnel.errors import LocalProtocolError, SettingsError
from tunnel.log import get_log
from tunnel.relay.admission import Admission, SettingsAdmission
from tunnel.relay.agents import Agents, Door, Doors
from tunnel.relay.budget import RegisteredDomains
from tunnel.relay.certificate import SELF_SIGNED_NAME
from tunnel.relay.challenges import Challenges
from tunnel.relay.direct import DirectRouting
from tunnel.relay.front import Front, Ways
from tunnel.relay.listening import Bound, Ports, Sockets, close
from tunnel.relay.reload import Readied, Rooms, expected_names, review
from tunnel.relay.routing import Routing
from tunnel.relay.sessions import Link
from tunnel.relay.state import own_names, prepare_state, reset_key
from tunnel.relay.station import Station, alone
from tunnel.relay.status import OneProcess
from tunnel.relay.validation import OwnValidations
from tunnel.runtime.activation import InheritedSockets
from tunnel.runtime.rota import Rota
from tunnel.runtime.supervision import first_of
from tunnel.settings.reload import ReloadPlan, check_live
from tunnel.settings.values import RelaySettings
from tunnel.stream import Address
from tunnel.tls.certificates import dns_names
from tunnel.tls.slots import Certificate
from tunnel.transport.options import Share, TransportOptions
from tunnel.transport.parking import ParkingBudget

log = get_log(__name__)

NOT_RUNNING = "the relay is starting or ending: it takes no other settings now"


@dataclass(frozen=True, slots=True)
class Opening:
    """What a relay that has just begun to listen says of itself."""

    server: Address  # that clients dial: a host name where every address is listened on
    pin: bytes | None  # none of a key that the next certificate does not keep


@dataclass(frozen=True, slots=True)
class Census:
    """Who is at a relay now; `visitors` counts those, too, who have not said where they go."""

    clients: int = 0
    names: int = 0  # served ones
    visitors: int = 0

    def __str__(self) -> str:
        return f"clients: {self.clients}, names: {self.names}, visitors: {self.visitors}"


class Relay:
    """A relay on `settings`: `run` it until `stop` is set.

    `admission` takes the place of the settings' own rules; `on_open` is called once everything
    listens; `inherited` are the sockets that `fd:` in settings speaks of; `station` is its place
    among several processes. Raises SettingsError if keys, certificates or the state directory
    cannot be used.
    """

    def __init__(
        self,
        settings: RelaySettings,
        *,
        admission: Admission | None = None,
        on_open: Callable[[Opening], None] | None = None,
        inherited: InheritedSockets | None = None,
        station: Station | None = None,
    ) -> None:
        prepare_state(settings.state_dir)
        self._settings = settings
        self._on_open = on_open
        self._inherited = inherited or InheritedSockets()
        self._count: Callable[[], Census] = Census
        self._validations = OwnValidations()
        self._station = station or alone(settings, self._validations, self._inherited, admission)
        self._certificate = self._station.certificate
        self._doors = Doors(self._certificate.slot, _options(settings, self._station.share))
        self._admission = self._station.admission
        self._budget = self._station.budget
        self.view: OneProcess | None = None  # of what runs, while it listens
        self._rooms: Rooms | None = None  # while it runs

    def census(self) -> Census:
        """Return how many there are of everybody; nobody before `run`."""
        return self._count()

    async def gather(self) -> None:
        """Do nothing: one process knows all of itself."""

    @property
    def settings(self) -> RelaySettings:
        """The settings in force."""
        return self._settings

    @property
    def rooms(self) -> Rooms | None:
        """The parts of it, while it runs."""
        return self._rooms

    async def run(self, stop: asyncio.Event) -> None:
        """Listen and serve until `stop` is set, then drain. Raises ListenFailed."""
        settings = self._settings
        rooms = self._make_rooms()
        agents, front, ports = rooms.agents, rooms.front, rooms.ports
        self._count = lambda: _census(rooms.registry.links, len(front.crowd))
        log.info("starting", relay=settings.name)
        try:
            sockets = await ports.bind(settings.listeners.values())
            ports.adopt(sockets, self._doors.options)
            self._inherited.warn_of_unwanted()
            self.view = self._view(rooms)
            async with agents.crowd, front.crowd:
                rooms.arrange(sockets, self._certificate.upkeep)
                self._rooms = rooms
                if self._on_open is not None:
                    certificate = self._doors.slot.current
                    self._on_open(opening_of(self._settings, certificate, sockets.values()))
                await first_of(lambda: _wait(stop), rooms.rota.run)
                self._rooms = None
                await ports.close()
                await self._drain(agents, front)
        finally:
            self._rooms = self.view = None
            self._budget.close()
            await ports.close()

    def _make_rooms(self) -> Rooms:
        settings = self._settings
        clock = asyncio.get_running_loop().time
        challenges = Challenges(self._budget, clock)
        expected = expected_names(settings)
        station = self._station
        registry = station.registry(settings.limits.connections, expected, challenges, clock)
        agents = Agents(settings, registry, self._admission, self._doors)
        routing = Routing(settings.timeouts, registry)
        spares = self._doors.spares
        ways = Ways(routing, DirectRouting(settings.timeouts, registry, spares), spares)
        front = Front(
            settings,
            ways,
            agents.take_socket,
            self._validations,
            station.elsewhere(registry),
            station.visitors_per_address,
        )
        ports = Ports(station.opener(self._doors))
        return Rooms(registry, agents, ways, front, ports, Rota())

    def _view(self, rooms: Rooms) -> OneProcess:
        return OneProcess(
            settings=self._settings,
            listening=rooms.ports.told,
            registry=rooms.registry,
            agents=rooms.agents,
            front=rooms.front,
            ways=rooms.ways,
            certificate=self._certificate,
            budget=self._budget,
            parked=self._doors.options.budget,
        )

    # -- other settings

    async def reload(self, settings: RelaySettings) -> ReloadPlan:
        """Bring other settings into force, and return what was different; all of them or none.

        What has not changed is not touched. Raises SettingsError if anything of them cannot be
        used, or needs a restart, and ListenFailed. To be called while `run` runs, one at a time.
        """
        plan = check_live(self._settings, settings)
        readied = await self.ready(settings)
        # From here on nothing is awaited and nothing can fail.
        gone = self.adopt(readied)
        await close(gone)
        return plan

    async def ready(self, settings: RelaySettings) -> Readied:
        """Bind and read what other settings need; nothing that runs is touched.

        What is read is what is in force when this returns: a certificate that was renewed during
        a wait would be taken back.
        """
        rooms = self._rooms
        if rooms is None:
            raise SettingsError([NOT_RUNNING])
        sockets = await rooms.ports.bind(settings.listeners.values())
        try:
            return self._read(settings, sockets)
        except BaseException:
            await rooms.ports.release(sockets)
            raise

    def _read(self, settings: RelaySettings, sockets: Sockets) -> Readied:
        if self._rooms is None:  # it has begun to end while it bound
            raise SettingsError([NOT_RUNNING])
        source = self._certificate.read(settings)
        admission = None
        if isinstance(self._admission, SettingsAdmission):
            own = own_names(settings, source.certificate)
            admission = self._admission.anew(settings, own)
        return Readied(
            settings=settings,
            source=source,
            admission=admission,
            domains=RegisteredDomains(settings.suffixes.values()),
            options=_followed(self._doors.options, settings),
            sockets=sockets,
        )

    async def forsake(self, readied: Readied) -> None:
        """Let go of what was made ready."""
        if self._rooms is not None:
            await self._rooms.ports.release(readied.sockets)

    def adopt(self, readied: Readied) -> list[Door]:
        """Bring what is ready into force; return the doors that are to be closed.

        Nothing can fail, as long as it is called in the turn in which `ready` has returned, or
        before the end of `run`.
        """
        rooms = self._rooms
        if rooms is None:
            raise LocalProtocolError(NOT_RUNNING)
        settings, options = readied.settings, readied.options
        self._settings = settings
        self._certificate.adopt(readied.source)
        self._admission = readied.admission or self._admission
        self._doors = replace(self._doors, options=options)
        options.budget.total = settings.limits.buffer_total
        self._budget.reconfigure(readied.domains)
        rooms.adopt(readied)
        rooms.agents.reconfigure(settings, self._admission, self._doors)
        gone = rooms.ports.adopt(readied.sockets, options)
        rooms.arrange(readied.sockets, self._certificate.upkeep)
        now = asyncio.get_running_loop().time()
        if readied.admission is not None:
            review(rooms.registry, rooms.agents.farewell, readied.admission, now)
        rooms.agents.leave_by(gone)
        if self.view is not None:
            self.view = replace(self.view, settings=settings)
        return gone

    # -- beginning and end

    async def _drain(self, agents: Agents, front: Front) -> None:
        """Let what runs finish, at most `drain_timeout` seconds, and say goodbye to clients."""
        log.info("draining", visitors=len(front.crowd), clients=len(agents.crowd))
        agents.drain()
        try:
            async with asyncio.timeout(self._settings.drain_timeout):
                await front.crowd.emptied()
        except TimeoutError:
            log.warning("visitors cut at the end of the drain", visitors=len(front.crowd))
            front.crowd.cancel()
        await agents.part_from_all()
        agents.crowd.cancel()


def opening_of(
    settings: RelaySettings, certificate: Certificate, bound: Iterable[Bound]
) -> Opening:
    """Return what is said of a relay that listens on these addresses."""
    address = next(each.address for each in bound if each.settings.kind != "public")
    if ip_address(address.host).is_unspecified:
        address = Address(_public_host(certificate), address.port)
    chosen = settings.certificate
    is_lasting = chosen.mode != "acme" or chosen.keep_key
    return Opening(address, certificate.pin if is_lasting else None)


def _census(links: list[Link], visitors: int) -> Census:
    served = {name for link in links for name, kinds in link.serving.items() if kinds.visitors}
    return Census(len({link.session for link in links}), len(served), visitors)


def _public_host(certificate: Certificate) -> str:
    """Return the name by which clients most likely reach this machine."""
    names = sorted(dns_names(certificate.leaf) - {SELF_SIGNED_NAME})
    return next((name for name in names if not name.startswith("*.")), socket.gethostname())


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _options(settings: RelaySettings, share: Share) -> TransportOptions:
    return TransportOptions(
        flow=settings.flow,
        quic=settings.quic,
        budget=ParkingBudget(settings.limits.buffer_total),
        half_open=settings.limits.half_open,
        handshake_timeout=settings.timeouts.register,
        reset_key=reset_key(settings.state_dir),
        share=share,
    )


def _followed(options: TransportOptions, settings: RelaySettings) -> TransportOptions:
    """Return the options of new connections by other settings; the account and the key stay."""
    return replace(
        options,
        flow=settings.flow,
        quic=settings.quic,
        half_open=settings.limits.half_open,
        handshake_timeout=settings.timeouts.register,
    )
