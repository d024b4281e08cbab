"""The process that was started, where a relay has several: it binds, decides, tells, and is asked.

It meets nobody itself but an authority that validates the relay's own names.
"""

import asyncio
import base64
import pickle
import socket
from collections.abc import Callable, Iterable, Mapping

from tunnel.errors import SettingsError
from tunnel.log import get_log
from tunnel.protocol.hello import UNRECOGNIZED_NAME_ALERT
from tunnel.relay.admission import SettingsAdmission
from tunnel.relay.arrivals import Guest
from tunnel.relay.budget import RegisteredDomains
from tunnel.relay.budget_file import budget_of
from tunnel.relay.certificate import OwnCertificate, Source
from tunnel.relay.challenges import Challenges
from tunnel.relay.listening import Ports, Sockets, close
from tunnel.relay.refusal import turn_away
from tunnel.relay.reload import expected_names, review
from tunnel.relay.server import NOT_RUNNING, Census, Opening, opening_of
from tunnel.relay.state import own_names, prepare_state
from tunnel.relay.station import settings_admission
from tunnel.relay.validation import OwnValidations
from tunnel.relay.workers.bound import SharedSockets, passed
from tunnel.relay.workers.crew import Crew
from tunnel.relay.workers.overview import Overview
from tunnel.relay.workers.parcels import HandedGuest, Parcel, parcel_of
from tunnel.relay.workers.rolls import HeadRegistry, Rolls
from tunnel.runtime.activation import InheritedSockets
from tunnel.runtime.rota import Rota
from tunnel.runtime.supervision import Crowd, first_of, restarted
from tunnel.runtime.workers.channel import Channel, Message
from tunnel.runtime.workers.mailbox import Tray
from tunnel.settings.reload import ReloadPlan, check_live
from tunnel.settings.values import RelaySettings
from tunnel.tls.slots import Certificate
from tunnel.transport.direct.stream import DirectStream
from tunnel.transport.options import TransportOptions

FAREWELL = 12.0  # seconds after `drain_timeout`, in which workers say goodbye to clients

log = get_log(__name__)


class Head:
    """A relay on `settings` in several processes; used as `tunnel.relay.server.Relay` is.

    Raises SettingsError if keys, certificates or the state directory cannot be used.
    """

    def __init__(
        self,
        settings: RelaySettings,
        *,
        on_open: Callable[[Opening], None],
        inherited: InheritedSockets,
    ) -> None:
        prepare_state(settings.state_dir)
        self._settings = settings
        self._on_open = on_open
        self._inherited = inherited
        self._validations = OwnValidations(self._tell_own_names)
        self._certificate = OwnCertificate(settings, self._validations, self._tell_certificate)
        self._admission = settings_admission(settings, self._certificate)
        self._budget = budget_of(settings)
        self._ports = Ports(SharedSockets(inherited, settings.workers))
        self._rota = Rota()
        self._rolls: Rolls | None = None  # while it runs
        self._crew: Crew | None = None  # as well
        self.view: Overview | None = None  # of what runs, while it listens

    @property
    def settings(self) -> RelaySettings:
        """The settings in force."""
        return self._settings

    def census(self) -> Census:
        """Return how many there are of everybody; visitors as of a few seconds ago."""
        if self._rolls is None or self._crew is None:
            return Census()
        clients = {link.session for link in self._rolls.registry.links}
        visitors = sum(post.visitors for post in self._crew.posts)
        served = sum(bool(workers) for workers, _ in self._rolls.entries.values())
        return Census(len(clients), served, visitors)

    async def gather(self) -> None:
        """Ask all workers how they stand."""
        if self.view is not None:
            await self.view.gather()

    async def run(self, stop: asyncio.Event) -> None:
        """Have workers serve until `stop` is set, then drain. Raises as a Relay does."""
        settings = self._settings
        log.info("starting", relay=settings.name, workers=settings.workers)
        try:
            sockets = await self._ports.bind(settings.listeners.values())
            self._ports.adopt(sockets, TransportOptions())
            self._inherited.warn_of_unwanted()
            crew = self._crew = Crew(settings.workers, self)
            self._rolls = self._make_rolls(crew)
            async with crew, Crowd("validation") as crowd:
                await self._serve(crew, crowd, stop)
        finally:
            self._rolls = self._crew = self.view = None
            self._budget.close()
            await self._ports.close()

    async def _serve(self, crew: Crew, crowd: Crowd, stop: asyncio.Event) -> None:
        await crew.begun()
        tray = Tray(
            crew.mailbox.tray, parcel_of, lambda parcel, sock: self._take(crowd, parcel, sock)
        )
        self.view = self._make_view(crew)
        try:
            self._arrange()
            certificate, bound = self._certificate.slot.current, self._ports.bound.values()
            self._on_open(opening_of(self._settings, certificate, bound))
            await first_of(lambda: _wait(stop), self._rota.run)
            self.view.is_draining = True
            log.info("draining", visitors=self.census().visitors)
            await self._stop_accepting()
            await crew.drain(self._settings.drain_timeout + FAREWELL)
            crowd.cancel()
        finally:
            tray.close()

    async def _stop_accepting(self) -> None:
        """Close the TCP sockets; those of UDP keep their places until the last worker has ended."""
        kept = {wanted: each for wanted, each in self._ports.bound.items() if wanted[0] == "udp"}
        await close(self._ports.adopt(kept, TransportOptions()))

    def _make_rolls(self, crew: Crew) -> Rolls:
        settings = self._settings
        clock = asyncio.get_running_loop().time
        challenges = Challenges(self._budget, clock)
        expected = expected_names(settings)
        registry = HeadRegistry(settings.limits.connections, expected, challenges, clock)
        return Rolls(registry, self._admission, settings.workers, crew.tell)

    def _make_view(self, crew: Crew) -> Overview:
        return Overview(
            settings=self._settings,
            ports=self._ports,
            rolls=self._known(),
            crew=crew,
            certificate=self._certificate,
            budget=self._budget,
        )

    def _arrange(self) -> None:
        """Have done what the certificate needs."""
        upkeep = self._certificate.upkeep
        if upkeep is None:
            self._rota.arrange({})
        else:
            self._rota.arrange({("certificate", upkeep): lambda: restarted("certificate", upkeep)})

    def _known(self) -> Rolls:
        if self._rolls is None:
            raise SettingsError([NOT_RUNNING])
        return self._rolls

    # -- other settings

    async def reload(self, settings: RelaySettings) -> ReloadPlan:
        """As `Relay.reload`: in force in all workers, or in none."""
        plan = check_live(self._settings, settings)
        crew = self._crew
        if crew is None or self.view is None or self.view.is_draining:
            raise SettingsError([NOT_RUNNING])
        sockets = await self._ports.bind(settings.listeners.values())
        try:
            source = self._certificate.read(settings)
            admission = self._admission.anew(settings, own_names(settings, source.certificate))
            domains = RegisteredDomains(settings.suffixes.values())
            await self._ready(crew, settings, sockets)
        except BaseException:
            crew.tell_all("forsake")
            await self._ports.release(sockets)
            raise
        # From here on nothing is awaited and nothing can fail.
        gone = self._ports.adopt(sockets, TransportOptions())
        self._adopt(settings, source, admission)
        self._budget.reconfigure(domains)
        crew.adopt(certificate=_pem(self._certificate.slot.current))
        self._review()
        await close(gone)
        return plan

    async def _ready(self, crew: Crew, settings: RelaySettings, sockets: Sockets) -> None:
        """Have all workers make settings ready; raises SettingsError if one cannot."""
        keys = [key for key, _ in passed(sockets, 0)]
        new = {wanted: each for wanted, each in sockets.items() if wanted not in self._ports.bound}
        faults = await crew.ready(_packed(settings), keys, lambda worker: passed(new, worker))
        if self.view is None or self.view.is_draining:
            raise SettingsError([NOT_RUNNING])
        if faults:
            raise SettingsError(faults)

    def _adopt(self, settings: RelaySettings, source: Source, admission: SettingsAdmission) -> None:
        rolls = self._known()
        self._settings = settings
        self._certificate.adopt(source)
        self._admission = rolls.admission = admission
        rolls.registry.connections_max = settings.limits.connections
        rolls.registry.expected.reconfigure(expected_names(settings))
        self._arrange()
        if self.view is not None:
            self.view.settings = settings

    def _review(self) -> None:
        rolls = self._known()
        review(rolls.registry, rolls, rolls.admission, asyncio.get_running_loop().time())
        rolls.publish()
        rolls.share_out_all()

    # -- Orders (tunnel.relay.workers.crew)

    def briefing(self, worker: int) -> Mapping[str, object]:  # noqa: ARG002 - the same to each
        return {
            "settings": _packed(self._settings),
            "certificate": _pem(self._certificate.slot.current),
            "names": self._known().entries,
            "own": self._validations.names,
        }

    def sockets(self, worker: int) -> Iterable[tuple[str, socket.socket]]:
        return passed(self._ports.bound, worker)

    def hear(self, worker: int, channel: Channel, message: Message) -> None:
        rolls = self._known()
        match message["kind"]:
            case "enrol":
                channel.answer(message, **rolls.enrol(worker, message))
            case "serve":
                channel.answer(message, **rolls.serve(worker, message))
            case "left":
                rolls.left(worker, message)
            case "state":
                rolls.note_state(worker, message)

    def lost(self, worker: int) -> None:
        if self._rolls is not None:
            self._rolls.lose(worker)
        if self.view is not None:
            self.view.lose(worker)

    def _tell_own_names(self) -> None:
        if self._crew is not None:
            self._crew.tell_all("own", names=self._validations.names)

    def _tell_certificate(self, certificate: Certificate) -> None:
        if self._crew is not None:
            self._crew.tell_all("certificate", certificate=_pem(certificate))

    # -- validations of the relay's own names

    def _take(self, crowd: Crowd, parcel: Parcel, sock: socket.socket) -> None:
        if isinstance(parcel, HandedGuest):
            crowd.start(self._validate(sock, parcel.guest))
        else:
            sock.close()

    async def _validate(self, sock: socket.socket, guest: Guest) -> None:
        name, peer = guest.hello.required_name, guest.caller.peer.host
        try:
            hello = sock.recv(guest.hello.size)
            caller = DirectStream(sock)
        except OSError as error:
            sock.close()
            log.debug("validation not completed", name=name, peer=peer, cause=error)
            return
        try:
            if name not in self._validations:
                await turn_away(caller, UNRECOGNIZED_NAME_ALERT)
                return
            is_answered = await self._validations.answer(name, caller, hello, peer)
            if is_answered and self.view is not None:
                self.view.validations += 1
        finally:
            caller.abort()


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


def _packed(settings: RelaySettings) -> str:
    return base64.b64encode(pickle.dumps(settings)).decode()


def _pem(certificate: Certificate) -> str:
    return (certificate.chain_pem + certificate.key_pem).decode()
