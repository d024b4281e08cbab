"""One worker: a relay that meets visitors and clients, and does as the head decides."""

import asyncio
import base64
import os
import pickle
import socket
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tunnel.errors import Code, ListenFailed, LocalProtocolError, SettingsError
from tunnel.log import get_log
from tunnel.relay.agents import tell_given_up
from tunnel.relay.listening import close
from tunnel.relay.registry import NOTHING
from tunnel.relay.reload import Readied, Rooms
from tunnel.relay.server import Opening, Relay
from tunnel.relay.sessions import LinkState
from tunnel.relay.station import Station
from tunnel.relay.workers.directory import Directory
from tunnel.relay.workers.given import GivenCertificate, GrantedBudget, PassedSockets
from tunnel.relay.workers.parcels import HandedGuest, HandedListener, HandedSpare, Parcel, parcel_of
from tunnel.relay.workers.posts import HandingOver, HeadAdmission, WorkerRegistry
from tunnel.relay.workers.shares import AddressTable, share_of
from tunnel.relay.workers.snapshots import look_of
from tunnel.runtime.logs import set_up_logs
from tunnel.runtime.supervision import Crowd
from tunnel.runtime.workers.channel import Channel, Message
from tunnel.runtime.workers.mailbox import Tray
from tunnel.settings.values import GrantLimits, RelaySettings
from tunnel.tls.certificates import parse_certificate
from tunnel.tls.slots import Certificate
from tunnel.transport.options import Share

HEAD_IS_GONE = 70  # exit status, EX_SOFTWARE: nobody reads it
EARLY_MAX = 256  # sockets that may come before this worker has opened

log = get_log(__name__)


class Ends(NamedTuple):
    """What the head has given to talk by, in the order of the command line."""

    control: socket.socket
    tray: socket.socket
    table: int  # the descriptor of an AddressTable
    slots: list[socket.socket]  # the mailboxes of all workers, then the head's


class Worker:
    """Runs until the head tells it to drain, or is gone."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._stop = asyncio.Event()
        self._begun: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._relay: Relay | None = None
        self._parts: Rooms | None = None  # of the relay, from its opening on
        self._directory = Directory()
        self._sockets = PassedSockets()
        self._early: list[tuple[Parcel, socket.socket]] = []
        self._crowd = Crowd("worker")
        self._readied: Readied | None = None
        self._is_over = False
        self._head = Channel(self._hear, self._lose_head)
        self._verbs: dict[str, Callable[[Message], None]] = {
            "begin": self._begun.set_result,
            "names": self._note_names,
            "own": lambda message: self._directory.expect_own(message["names"]),
            "drain": self._drain,
            "ping": self._answer_ping,
            "look": self._answer_look,
        }

    async def run(self) -> None:
        """Begin as the head says, and run."""
        await self._head.open(self._ends.control)
        message = await self._begun
        settings = self._read_settings(message)
        set_up_logs(settings.log, identifier="tunnel-relay")
        self._sockets.announce(message["ticket"], message["sockets"])
        self._directory.apply(message["names"])
        self._directory.expect_own(message["own"])
        relay = self._relay = self._make_relay(settings, message)
        tray = Tray(self._ends.tray, parcel_of, self._take)
        try:
            async with self._crowd:
                await relay.run(self._stop)
                self._parts = None
                self._crowd.cancel()
        except (SettingsError, ListenFailed) as error:
            faults = error.faults if isinstance(error, SettingsError) else [str(error)]
            self._head.tell("failed", faults=faults)
            raise
        finally:
            self._is_over = True
            tray.close()
            self._head.close()

    def _read_settings(self, message: Message) -> RelaySettings:
        """Return the settings that the head has sent, with this worker's share of the limits."""
        content = base64.b64decode(message["settings"])
        settings: RelaySettings = pickle.loads(content)  # noqa: S301 - the head's own, by a pipe that nobody else has
        return share_of(settings, settings.workers)

    def _make_relay(self, settings: RelaySettings, message: Message) -> Relay:
        share = Share(message["index"], settings.workers)
        self._certificate = certificate = GivenCertificate(settings, _certificate(message))
        self._verbs["certificate"] = lambda message: certificate.swap(_certificate(message))
        self._handing = HandingOver(
            share,
            self._directory,
            self._ends.slots,
            lambda: self._running.settings.timeouts.visitor_hold,
        )
        station = Station(
            certificate=self._certificate,
            admission=HeadAdmission(self._head),
            budget=GrantedBudget(),
            opener=self._sockets.opener,
            registry=partial(WorkerRegistry, self._head, share),
            elsewhere=self._handing.over,
            visitors_per_address=AddressTable(self._ends.table, settings.workers, share.index),
            share=share,
        )
        return Relay(settings, on_open=self._open, station=station)

    def _open(self, _opening: Opening) -> None:
        """Listen to the head from now on, and meet whoever came before."""
        self._parts = self._running.rooms
        self._verbs |= {
            "supersede": self._supersede,
            "give_up": self._give_up,
            "expel": self._expel,
            "take": self._take_name,
            "limits": self._limit,
            "ready": lambda message: self._crowd.start(self._ready(message)),
            "adopt": self._adopt,
            "forsake": lambda _message: self._crowd.start(self._forsake()),
        }
        early, self._early = self._early, []
        for parcel, sock in early:
            self._deliver(parcel, sock)
        self._head.tell("open")

    # -- what comes by descriptor

    def _take(self, parcel: Parcel, sock: socket.socket) -> None:
        if isinstance(parcel, HandedListener):
            self._sockets.put(parcel, sock)
        elif self._stop.is_set() or len(self._early) >= EARLY_MAX:
            sock.close()
        elif self._is_open:
            self._deliver(parcel, sock)
        else:
            self._early.append((parcel, sock))

    def _deliver(self, parcel: Parcel, sock: socket.socket) -> None:
        front = self._rooms.front
        match parcel:
            case HandedGuest(guest, so_far):
                front.welcome(sock, guest, so_far)
            case HandedSpare(prelude):
                front.welcome_spare(sock, prelude)

    # -- what the head says

    def _hear(self, message: Message) -> None:
        verb = self._verbs.get(message["kind"])
        if verb is not None:
            verb(message)

    def _drain(self, _message: Message) -> None:
        """Begin to end; what the head decides from now on is of no use here."""
        self._stop.set()
        kept = ("names", "ping", "look", "certificate")
        self._verbs = {kind: verb for kind, verb in self._verbs.items() if kind in kept}

    @property
    def _running(self) -> Relay:
        if self._relay is None:
            raise LocalProtocolError("this worker has not begun")
        return self._relay

    @property
    def _is_open(self) -> bool:
        return self._parts is not None

    @property
    def _rooms(self) -> Rooms:
        if self._parts is None:
            raise LocalProtocolError("this worker does not run")
        return self._parts

    @property
    def _registry(self) -> WorkerRegistry:
        registry = self._rooms.registry
        if not isinstance(registry, WorkerRegistry):
            raise LocalProtocolError("this worker has another registry")
        return registry

    def _note_names(self, message: Message) -> None:
        lost = self._directory.apply(message["names"])
        if self._is_open:
            registry = self._registry
            for name in lost:
                registry.expected.note(name)
            for name in message["names"]:
                registry.wake(name)

    def _supersede(self, message: Message) -> None:
        key = bytes.fromhex(message["fingerprint"]), bytes.fromhex(message["instance"])
        session = self._registry.session(*key)
        if session is not None:
            self._registry.stand_down(session)
            self._rooms.agents.farewell.dismiss(session)

    def _give_up(self, message: Message) -> None:
        link = self._registry.numbered(message["number"])
        if link is not None:
            self._registry.give_up(link, message["name"])
            self._rooms.agents.crowd.start(tell_given_up(link, message["name"]))

    def _expel(self, message: Message) -> None:
        link = self._registry.numbered(message["number"])
        if link is not None:
            self._registry.leave(link)
            code = Code[message["code"].upper()]
            self._rooms.agents.farewell.expel([link], code, message["message"])

    def _take_name(self, message: Message) -> None:
        link, names = self._registry.numbered(message["number"]), message["names"]
        if link is not None:
            link.session.granted -= set(names)
            for name in names:
                self._registry.settle(link, name, NOTHING)
            code = Code[message["code"].upper()]
            self._rooms.agents.farewell.take_names(link, names, code)

    def _limit(self, message: Message) -> None:
        limits = GrantLimits(**message["limits"])
        self._registry.limit(bytes.fromhex(message["fingerprint"]), limits)

    # -- what the head asks

    def _answer_ping(self, message: Message) -> None:
        visitors = len(self._rooms.front.crowd) if self._is_open else 0
        self._head.answer(message, visitors=visitors)

    def _answer_look(self, message: Message) -> None:
        look = None
        if self._is_open and (view := self._running.view) is not None:
            look = look_of(view, self._registry, self._handing.handed)
        self._head.answer(message, look=look)

    async def _ready(self, message: Message) -> None:
        """Make other settings ready, and say what stands against them."""
        try:
            await self._forsake()
            self._sockets.announce(message["ticket"], message["sockets"])
            self._readied = await self._running.ready(self._read_settings(message))
        except (SettingsError, ListenFailed) as error:
            faults = error.faults if isinstance(error, SettingsError) else (str(error),)
            self._head.answer(message, faults=faults)
        else:
            self._head.answer(message)

    def _adopt(self, message: Message) -> None:
        readied, self._readied = self._readied, None
        if readied is None or not self._is_open:
            return
        self._certificate.swap(_certificate(message))
        before = self._running.settings.log
        gone = self._running.adopt(readied)
        if readied.settings.log != before:
            set_up_logs(readied.settings.log, identifier="tunnel-relay")
        for _, link in list(self._registry.numbers):
            if link.state is LinkState.DRAINING:
                self._registry.tell_state(link)
        self._crowd.start(close(gone))

    async def _forsake(self) -> None:
        self._sockets.forsake()
        readied, self._readied = self._readied, None
        if readied is not None:
            await self._running.forsake(readied)

    def _lose_head(self) -> None:
        """End at once: a worker without its head can decide nothing, and holds its addresses."""
        if not self._is_over:
            os._exit(HEAD_IS_GONE)


def _certificate(message: Message) -> Certificate:
    return parse_certificate(message["certificate"].encode())
