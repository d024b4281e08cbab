"""The relay's TCP ports: accept, tell clients from visitors, take visitors to their client."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from itertools import count
from typing import Protocol

from tunnel.errors import Code, Refused, RemoteProtocolError
from tunnel.log import get_log
from tunnel.protocol.direct import Prelude
from tunnel.protocol.hello import UNRECOGNIZED_NAME_ALERT, Arrival, HelloRefused
from tunnel.protocol.messages import StreamHeader, StreamKind, leading_alpn
from tunnel.relay.agents import Entry
from tunnel.relay.arrivals import Door, Greeting, Guest, Offered
from tunnel.relay.counts import RelayVisits
from tunnel.relay.direct import DirectRouting, Unserved, Visit
from tunnel.relay.limits import AddressCounts
from tunnel.relay.refusal import alert_for, turn_away
from tunnel.relay.routing import REOPENINGS, Routing
from tunnel.relay.spares import Spares
from tunnel.relay.validation import OwnValidations
from tunnel.runtime.supervision import Crowd, Work
from tunnel.settings.values import ListenerSettings, RelaySettings
from tunnel.stream import Address, Stream
from tunnel.transport.accepting import TcpListener
from tunnel.transport.direct.poller import Poller, poller
from tunnel.transport.direct.stream import DirectStream

log = get_log(__name__)

HELLO = "hello"  # the reason of those whose ClientHello was none, or named nobody
LOST = "lost"  # of those who went before it was whole

_KINDS = {Arrival.VISITOR: StreamKind.VISITOR, Arrival.VALIDATION: StreamKind.CHALLENGE}


@dataclass(frozen=True, slots=True, eq=False)
class Ways:
    """How visitors come to their clients, and where spares are kept that some of them take."""

    routing: Routing
    direct: DirectRouting
    spares: Spares


class Fate(Enum):
    """What becomes of a visitor who may belong to another process."""

    STAYS = auto()
    AWAITED = auto()  # nobody serves the name now, but may soon, here or elsewhere
    STAYED = auto()  # for as long as one may be held, and nobody came
    LEFT = auto()  # with its descriptor; the socket here is only to be closed


class Elsewhere(Protocol):
    """Other processes, to which a socket may be handed that they know more about."""

    def take(self, sock: socket.socket, guest: Guest, so_far: Unserved | None = None) -> Fate:
        """Hand a visitor to the process that serves its name, if another one does.

        `so_far` is what was read off the socket. Raises Refused where that process has no room.
        """

    async def wait(self, sock: socket.socket, guest: Guest, so_far: Unserved | None) -> Fate:
        """The same for one that is AWAITED, as long as a visitor may be held."""

    def take_spare(self, sock: socket.socket, prelude: Prelude) -> bool:
        """Hand a spare to the process of its session; False if that is this one."""


class Front:
    """Meets everybody who connects by TCP; `elsewhere` are other processes that do so too."""

    def __init__(
        self,
        settings: RelaySettings,
        ways: Ways,
        take_agent: Callable[[socket.socket, Address, Entry], None],
        own: OwnValidations,
        elsewhere: Elsewhere | None = None,
        per_address: AddressCounts | None = None,
    ) -> None:
        self.hello_timeout = settings.timeouts.client_hello
        self.ways = ways
        self.take_agent = take_agent
        self._own = own
        self.elsewhere = elsewhere
        self.per_address = per_address or AddressCounts(0)
        self.per_address.limit = settings.limits.visitors_per_address
        self._numbers = count(1)
        self.visits = RelayVisits()
        self.crowd = Crowd("visitor")
        self._poller = poller()  # now, and not when descriptors may be short

    def reconfigure(self, settings: RelaySettings) -> None:
        """Meet whoever comes from now on as these settings say."""
        self.hello_timeout = settings.timeouts.client_hello
        self.per_address.limit = settings.limits.visitors_per_address

    async def accept_from(self, listener: TcpListener, settings: ListenerSettings) -> None:
        """Meet everybody who comes to a listener, for ever."""
        door = Door(listener, settings)
        while True:
            for sock, peer in await listener.accept_some():
                Newcomer(self, self._poller, sock, door).begin(peer)

    def welcome(self, sock: socket.socket, guest: Guest, so_far: Unserved | None) -> None:
        """Meet a visitor that another process has handed over; it stays here."""
        Newcomer(self, self._poller, sock, None).resume(guest, so_far)

    def welcome_spare(self, sock: socket.socket, prelude: Prelude) -> None:
        """Keep a spare that another process has handed over, or close it."""
        try:
            self.ways.spares.accept(sock, prelude)
        except (Refused, OSError) as error:
            log.debug("spare not kept", cause=error)
            sock.close()

    async def forward(
        self, visitor: Stream, so_far: Unserved, guest: Guest, *, is_wrong_door: bool
    ) -> None:
        """Take the visitor to its client, or tell it why not; our own validations stay here."""
        name, hello = guest.hello.required_name, so_far.said
        try:
            if is_wrong_door:
                self.visits.turned_away[Code.NOT_SERVING.word] += 1
                await turn_away(visitor, UNRECOGNIZED_NAME_ALERT)
            elif guest.kind is Arrival.VALIDATION and name in self._own:
                peer = guest.caller.peer.host
                is_answered = await self._own.answer(name, visitor, hello, peer)
                self.visits.validations_relay += is_answered  # others were counted meanwhile
            else:
                reopenings = REOPENINGS - so_far.attempts
                header, may_wait = self.header(guest), so_far.may_wait
                await self.ways.routing.forward(
                    visitor, hello, header, reopenings, may_wait=may_wait
                )
                self.visits.validations_client += guest.kind is Arrival.VALIDATION
        except Refused as refusal:
            log.debug("visitor not served", name=name, peer=guest.caller.peer, cause=refusal)
            self.visits.turned_away[refusal.code.word] += 1
            answer = alert_for(refusal.code)
            if answer is not None:
                await turn_away(visitor, answer)
            else:
                visitor.abort(refusal.code)
        finally:
            visitor.abort()

    def header(self, guest: Guest) -> StreamHeader:
        """Return the header of a new stream, with a number of its own."""
        return StreamHeader(
            kind=_KINDS[guest.kind],
            id=f"{next(self._numbers):x}",
            name=guest.hello.required_name,
            peer=guest.caller.peer,
            local=guest.caller.local,
            alpn=leading_alpn(guest.hello.alpn),
        )


class Newcomer:
    """Somebody who has connected: what they want, and on if a direct connection takes them.

    None of that needs a task; whoever goes on in other ways is given one. A place of its address
    is held all the while, but for clients and their spares. Without a door they have come from
    another process, and stay in this one.
    """

    __slots__ = (
        "_door",
        "_front",
        "_greeting",
        "_guest",
        "_is_visitor",
        "_place",
        "_poller",
        "_sock",
        "_visit",
    )

    _guest: Guest  # once it is met

    def __init__(self, front: Front, at: Poller, sock: socket.socket, door: Door | None) -> None:
        self._front = front
        self._poller = at
        self._sock = sock
        self._door = door
        self._greeting: Greeting | None = None
        self._place: str | None = None
        self._is_visitor = False
        self._visit: Visit | None = None

    def begin(self, peer: Address) -> None:
        """Find out what they want."""
        self._front.crowd.enter(self)
        if self._door is not None:
            self._greeting = Greeting(self._poller, self._sock, peer, self._door, self)
            self._greeting.begin(self._front.hello_timeout)

    def resume(self, guest: Guest, so_far: Unserved | None) -> None:
        """Take a visitor on that another process has met."""
        self._front.crowd.enter(self)
        self._guest = guest
        try:
            self.admit(guest.caller.peer)
            self._take_on(so_far)
        except (OSError, Refused) as error:
            self.failed(error)
        except BaseException:
            self._close()
            raise

    def cut(self) -> None:
        """End it, whatever it has come to."""
        if self._visit is not None:
            self._visit.cut()
        elif self._greeting is not None:
            self._greeting.stop()
            self._close()

    # -- what the greeting tells

    def admit(self, address: Address) -> None:
        self._place = self._front.per_address.take(address)

    def failed(self, error: Exception) -> None:
        if isinstance(error, HelloRefused):
            log.debug("refused a visitor", cause=error)
            self._front.visits.turned_away[HELLO] += 1
            self._give(partial(self._answer, error.answer))
        else:
            log.debug("no visitor came of a connection", cause=error)
            self._front.visits.turned_away[_word(error)] += 1
            self._close()

    def met(self, guest: Guest | Offered) -> None:
        try:
            if isinstance(guest, Offered):
                self._keep_spare(guest.prelude)
            else:
                self._receive(guest)
        except (OSError, Refused) as error:
            self.failed(error)
        except BaseException:
            self._close()
            raise

    def _keep_spare(self, prelude: Prelude) -> None:
        elsewhere = self._front.elsewhere
        if elsewhere is not None and elsewhere.take_spare(self._sock, prelude):
            self._leave()
        else:
            self._front.ways.spares.accept(self._sock, prelude)
            self._end()

    def _receive(self, guest: Guest) -> None:
        """Take in a client, a visitor, or an authority that validates a name."""
        self._guest = guest
        if guest.kind is Arrival.AGENT and self._door is not None:
            self._poller.forget(self._sock)
            entry = Entry.by(self._door.listener, self._door.settings)
            self._front.take_agent(self._sock, guest.caller.peer, entry)
            self._end()
        elif self._is_wrong_door or not self._is_elsewhere(None):
            self._take_on(None)

    @property
    def _is_wrong_door(self) -> bool:
        return self._door is not None and self._door.settings.kind == "agents"

    def _is_elsewhere(self, so_far: Unserved | None) -> bool:
        """Hand the visitor over, or see whether somebody comes, if that is to be done."""
        elsewhere = self._front.elsewhere
        if elsewhere is None or self._door is None:
            return False
        fate = elsewhere.take(self._sock, self._guest, so_far)
        if fate is Fate.LEFT:
            self._leave()
        elif fate is Fate.AWAITED:
            self._give(partial(self._wait, elsewhere, so_far))
        return fate is not Fate.STAYS

    def _take_on(self, so_far: Unserved | None) -> None:
        """Take the visitor to its client from here."""
        front, guest = self._front, self._guest
        so_far = so_far or Unserved(self._sock.recv(guest.hello.size))
        if guest.kind is Arrival.VALIDATION or self._is_wrong_door:
            self._give(partial(self._forward, so_far))
            return
        self._is_visitor = True
        front.visits.enter()
        name = guest.hello.required_name
        visit = Visit(front.ways.direct, self._poller, self._sock, so_far, name, self)
        self._visit = visit
        visit.attempt()

    # -- what the visit tells

    def header(self) -> StreamHeader:
        return self._front.header(self._guest)

    def served(self) -> None:
        self._end()

    def unserved(self, visitor: Unserved) -> None:
        self._visit = None
        try:
            is_gone = bool(visitor.attempts) and self._is_elsewhere(visitor)
        except Refused as error:
            self.failed(error)
            return
        if not is_gone:
            self._give(partial(self._forward, visitor))

    # -- tasks, where there are any

    async def _forward(self, so_far: Unserved) -> None:
        visitor, is_wrong_door = DirectStream(self._sock), self._is_wrong_door
        await self._front.forward(visitor, so_far, self._guest, is_wrong_door=is_wrong_door)

    async def _wait(self, elsewhere: Elsewhere, so_far: Unserved | None) -> None:
        """Have the visitor wait for whoever comes to serve its name, anywhere."""
        try:
            fate = await elsewhere.wait(self._sock, self._guest, so_far)
            if fate is Fate.LEFT:
                self._sock.close()
                return
            so_far = so_far or Unserved(self._sock.recv(self._guest.hello.size))
        except BaseException:
            self._sock.close()
            raise
        await self._forward(replace(so_far, may_wait=fate is not Fate.STAYED))

    async def _answer(self, answer: bytes) -> None:
        await turn_away(DirectStream(self._sock), answer)

    def _give(self, work: Work) -> None:
        """Leave the socket to a task, which takes this one's place in the crowd."""
        self._poller.forget(self._sock)
        self._front.crowd.start(self._work(work))
        self._front.crowd.leave(self)

    async def _work(self, work: Work) -> None:
        try:
            await work()
        finally:
            self._end()

    # -- the end

    def _leave(self) -> None:
        """Let go of a socket that another process has: the poller would hear of it for ever."""
        self._poller.forget(self._sock)
        self._close()

    def _close(self) -> None:
        self._poller.close(self._sock)
        self._end()

    def _end(self) -> None:
        """Give back what was held; the socket is somebody else's, or closed."""
        if self._place is not None:
            self._front.per_address.release(self._place)
            self._place = None
        if self._is_visitor:
            self._front.visits.leave()
            self._is_visitor = False
        self._front.crowd.leave(self)


def _word(error: Exception) -> str:
    """Return the reason for which no visitor came of a connection, in one word."""
    if isinstance(error, Refused):
        return error.code.word
    return Code.PROTOCOL.word if isinstance(error, RemoteProtocolError) else LOST
