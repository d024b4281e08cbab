"""The relay's TCP ports: accept, tell clients from visitors, take visitors to their client."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

from tunnel.errors import Code, Refused, RemoteProtocolError, StreamReset
from tunnel.log import get_log
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
from tunnel.transport.direct.poller import Poller, poller
from tunnel.transport.tcp import TcpListener, wrap

log = get_log(__name__)

HELLO = "hello"  # the reason of those whose ClientHello was none, or named nobody
ANSWERS_TOLD = 16  # validations that one order is told at INFO: anybody may ask for more
LOST = "lost"  # of those who went before it was whole

_KINDS = {Arrival.VISITOR: StreamKind.VISITOR, Arrival.VALIDATION: StreamKind.CHALLENGE}


@dataclass(frozen=True, slots=True, eq=False)
class Ways:
    """How visitors come to their clients, and where spares are kept that some of them take."""

    routing: Routing
    direct: DirectRouting
    spares: Spares


class Front:
    """Meets everybody who connects by TCP."""

    def __init__(
        self,
        settings: RelaySettings,
        ways: Ways,
        take_agent: Callable[[socket.socket, Address, Entry], None],
        own: OwnValidations,
    ) -> None:
        self.hello_timeout = settings.timeouts.client_hello
        self.ways = ways
        self.take_agent = take_agent
        self._own = own
        self.per_address = AddressCounts(settings.limits.visitors_per_address)
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

    async def forward(
        self, visitor: Stream, so_far: Unserved, guest: Guest, listener: ListenerSettings
    ) -> None:
        """Take the visitor to its client, or tell it why not; our own validations stay here."""
        name, hello = guest.hello.required_name, so_far.said
        try:
            if listener.kind == "agents":
                self.visits.turned_away[Code.NOT_SERVING.word] += 1
                await turn_away(visitor, UNRECOGNIZED_NAME_ALERT)
            elif guest.kind is Arrival.VALIDATION and name in self._own:
                await self._validate(visitor, hello, guest)
            else:
                reopenings = REOPENINGS - so_far.attempts
                await self.ways.routing.forward(visitor, hello, self.header(guest), reopenings)
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

    async def _validate(self, caller: Stream, hello: bytes, guest: Guest) -> None:
        name, peer = guest.hello.required_name, guest.caller.peer.host
        try:
            answers = await self._own.answer(name, caller, hello)
        except (StreamReset, RemoteProtocolError) as error:
            log.debug("validation not completed", name=name, peer=peer, cause=error)
        else:
            self.visits.validations_relay += 1
            tell = log.info if answers <= ANSWERS_TOLD else log.debug
            tell("answered a validation", name=name, peer=peer)

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
    is held all the while, but for clients and their spares.
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

    def __init__(self, front: Front, at: Poller, sock: socket.socket, door: Door) -> None:
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
        self._greeting = Greeting(self._poller, self._sock, peer, self._door, self)
        self._greeting.begin(self._front.hello_timeout)

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
                self._front.ways.spares.accept(self._sock, guest.prelude)
                self._end()
            else:
                self._receive(guest)
        except (OSError, Refused) as error:
            self.failed(error)
        except BaseException:
            self._close()
            raise

    def _receive(self, guest: Guest) -> None:
        """Take in a client, a visitor, or an authority that validates a name."""
        front, settings = self._front, self._door.settings
        self._guest = guest
        if guest.kind is Arrival.AGENT:
            self._poller.forget(self._sock)
            entry = Entry.by(self._door.listener, settings)
            front.take_agent(self._sock, guest.caller.peer, entry)
            self._end()
            return
        hello = self._sock.recv(guest.hello.size)
        if guest.kind is Arrival.VALIDATION or settings.kind == "agents":
            self.unserved(Unserved(hello))
            return
        self._is_visitor = True
        front.visits.enter()
        name = guest.hello.required_name
        visit = self._visit = Visit(front.ways.direct, self._poller, self._sock, hello, name, self)
        visit.attempt()

    # -- what the visit tells

    def header(self) -> StreamHeader:
        return self._front.header(self._guest)

    def served(self) -> None:
        self._end()

    def unserved(self, visitor: Unserved) -> None:
        self._visit = None
        self._give(partial(self._forward, visitor))

    # -- tasks, where there are any

    async def _forward(self, so_far: Unserved) -> None:
        visitor = await wrap(self._sock)
        await self._front.forward(visitor, so_far, self._guest, self._door.settings)

    async def _answer(self, answer: bytes) -> None:
        await turn_away(await wrap(self._sock), answer)

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
