"""The relay's TCP ports: accept, tell clients from visitors, take visitors to their client."""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count

from tunnel.errors import Code, ConnectionLost, Refused, RemoteProtocolError, StreamReset
from tunnel.log import get_log
from tunnel.protocol.hello import UNRECOGNIZED_NAME_ALERT, Arrival, HelloRefused
from tunnel.protocol.messages import StreamHeader, StreamKind, leading_alpn
from tunnel.relay.agents import Entry
from tunnel.relay.arrivals import Guest, Offered, receive_guest
from tunnel.relay.counts import RelayVisits
from tunnel.relay.direct import DirectRouting, Unserved
from tunnel.relay.limits import AddressCounts
from tunnel.relay.refusal import alert_for, turn_away
from tunnel.relay.routing import REOPENINGS, Routing
from tunnel.relay.spares import Spares
from tunnel.relay.validation import OwnValidations
from tunnel.runtime.supervision import Crowd
from tunnel.settings.values import ListenerSettings, RelaySettings
from tunnel.stream import Address, Stream
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
        self._hello_timeout = settings.timeouts.client_hello
        self._ways = ways
        self._take_agent = take_agent
        self._own = own
        self._per_address = AddressCounts(settings.limits.visitors_per_address)
        self._numbers = count(1)
        self.visits = RelayVisits()
        self.crowd = Crowd("visitor")

    def reconfigure(self, settings: RelaySettings) -> None:
        """Meet whoever comes from now on as these settings say."""
        self._hello_timeout = settings.timeouts.client_hello
        self._per_address.limit = settings.limits.visitors_per_address

    async def accept_from(self, listener: TcpListener, settings: ListenerSettings) -> None:
        """Meet everybody who comes to a listener, for ever."""
        while True:
            sock = await listener.accept()
            self.crowd.start(self._meet(sock, listener, settings))

    async def _meet(
        self, sock: socket.socket, door: TcpListener, listener: ListenerSettings
    ) -> None:
        """Own the socket until somebody takes it over."""
        with ExitStack() as places:

            def admit(address: Address) -> None:
                places.enter_context(self._per_address.place(address))

            try:
                guest, peeker = await receive_guest(sock, listener, self._hello_timeout, admit)
                if isinstance(guest, Offered):
                    self._ways.spares.accept(sock, guest.prelude)
                    return
                if guest.kind is Arrival.AGENT:
                    self._take_agent(sock, guest.caller.peer, Entry.by(door, listener))
                    return
                hello = peeker.consume(guest.hello.size)
            except HelloRefused as refusal:
                log.debug("refused a visitor", cause=refusal)
                self.visits.turned_away[HELLO] += 1
                await turn_away(await wrap(sock), refusal.answer)
                return
            except (OSError, ConnectionLost, RemoteProtocolError, Refused) as error:
                log.debug("no visitor came of a connection", cause=error)
                self.visits.turned_away[_word(error)] += 1
                sock.close()
                return
            except BaseException:
                sock.close()
                raise
            if guest.kind is Arrival.VALIDATION or listener.kind == "agents":
                await self._forward(await wrap(sock), Unserved(hello), guest, listener)
            else:
                with self.visits.visit():
                    await self._visit(sock, hello, guest, listener)

    async def _visit(
        self, sock: socket.socket, hello: bytes, guest: Guest, listener: ListenerSettings
    ) -> None:
        """Take the visitor to its client, on a spare if there is one."""
        try:
            unserved = await self._ways.direct.forward(
                sock, hello, guest.hello.required_name, lambda: self._header(guest)
            )
        except BaseException:
            sock.close()
            raise
        if unserved is not None:
            await self._forward(await wrap(sock), unserved, guest, listener)

    async def _forward(
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
                await self._ways.routing.forward(visitor, hello, self._header(guest), reopenings)
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

    def _header(self, guest: Guest) -> StreamHeader:
        return StreamHeader(
            kind=_KINDS[guest.kind],
            id=f"{next(self._numbers):x}",
            name=guest.hello.required_name,
            peer=guest.caller.peer,
            local=guest.caller.local,
            alpn=leading_alpn(guest.hello.alpn),
        )


def _word(error: Exception) -> str:
    """Return the reason for which no visitor came of a connection, in one word."""
    if isinstance(error, Refused):
        return error.code.word
    return Code.PROTOCOL.word if isinstance(error, RemoteProtocolError) else LOST
