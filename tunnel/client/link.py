"""One connection to a relay, from its dial to its end.

Which connections there are is decided elsewhere (`racing`, `uplink`); a link does what it is told
and reports what happens to it.
"""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from tunnel import __version__
from tunnel.client.ending import LEFT, Ending, ending_of
from tunnel.client.offers import Offers
from tunnel.client.passage import Passage
from tunnel.client.racing import Lane
from tunnel.errors import (
    Code,
    ConnectionLost,
    DialFailed,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
    TunnelError,
)
from tunnel.protocol.fields import Reason
from tunnel.protocol.heartbeat import Action
from tunnel.protocol.messages import (
    AuthBody,
    Bye,
    Drain,
    Hello,
    Ping,
    Pong,
    Reject,
    Serve,
    Serving,
    Welcome,
)
from tunnel.protocol.registration import ClientRegistration, FromRelay
from tunnel.runtime.control import ControlChannel, gone, keep_alive, part
from tunnel.runtime.supervision import Crowd, first_of
from tunnel.stream import Address, Connection

SOFTWARE = f"tunnel/{__version__}"
WITHDRAWAL_TIMEOUT = 5.0  # for the relay to confirm that no new visitors come

Channel = ControlChannel[FromRelay, Serve | Ping | Pong]


class LinkOwner(Protocol):
    """Whoever decides about links, and hears from them."""

    def registered(self, link: "Link") -> None:
        """The relay has welcomed the link; it may be told to leave right here."""

    def answered(self, name: str, reason: Reason | None) -> None:
        """The relay has begun or ended to serve a name; `reason` is set if it refuses."""

    def serving(self, link: "Link") -> None:
        """All offers of the link are answered, and visitors come."""

    def judged(self, link: "Link", action: Action) -> None:
        """The heartbeat says SUSPECT or RESTORE."""

    def aged(self, link: "Link") -> None:
        """It is time to ask anew for what was refused, by another connection in its place."""

    def vacated(self, link: "Link", ending: Ending) -> None:
        """The relay sends nobody here any more; the link goes on until its streams have ended."""

    async def relieved(self, link: "Link") -> None:
        """Wait until the session may do without this link, whose own streams have ended."""


@dataclass(slots=True)
class _Departure:
    """Whether a link is to leave, and when it has to be gone, in loop time; None: whenever."""

    deadline: float | None = None
    is_announced: bool = False  # the relay is to be told to send nobody any more
    grace: asyncio.Timeout | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def bring_forward(self, deadline: float) -> None:
        """Be gone by `deadline`, if that is earlier."""
        if self.deadline is None or deadline < self.deadline:
            self.deadline = deadline
            if self.grace is not None:
                self.grace.reschedule(deadline)


@dataclass(frozen=True, slots=True, eq=False)
class _Exchange:
    """A connection whose control stream is open."""

    connection: Connection
    channel: Channel
    registration: ClientRegistration

    @property
    def is_over(self) -> bool:
        """Whether one side has said its last word, or cannot say it any more."""
        return self.connection.is_closed or not self.registration.is_open


class Link:
    """A connection that registers, serves, and leaves in order."""

    def __init__(self, lane: Lane, passage: Passage, owner: LinkOwner) -> None:
        self.lane = lane
        self.welcome: Welcome | None = None
        self.relay = ""  # what the relay calls itself
        self.refused: dict[str, Reason] = {}  # names that were claimed and not granted
        self.offers = Offers((), random.random)
        self._passage = passage
        self._owner = owner
        self._departure = _Departure()
        self._news = asyncio.Event()  # an answer came, or it is time to go
        self._exchange: _Exchange | None = None
        self._streams = Crowd(f"stream {lane}")

    def __repr__(self) -> str:
        state = self._exchange.registration.state.name if self._exchange else "DIALLING"
        leaving = " leaving" if self._departure.asked.is_set() else ""
        return f"<Link {self._passage.way.server.name} {self.lane} {state}{leaving}>"

    def leave(self, deadline: float | None = None, *, announce: bool = True) -> None:
        """Ask the link to finish its streams and to be gone by `deadline` (loop time).

        None lets them take as long as they need. With `announce` the relay is told first to send
        nobody any more. Asking again can only bring the deadline forward.
        """
        departure = self._departure
        if not departure.asked.is_set():
            departure.is_announced = announce
        if deadline is not None:
            departure.bring_forward(deadline)
        departure.asked.set()
        self._news.set()

    @property
    def is_staying(self) -> bool:
        """Whether the relay has welcomed the link, and nobody has asked it to leave."""
        return self.welcome is not None and not self._departure.asked.is_set()

    @property
    def round_trip(self) -> float | None:
        """Seconds of the last ping that the relay has answered, None before."""
        return self._exchange.channel.round_trip if self._exchange is not None else None

    @property
    def peer(self) -> Address | None:
        """Where it is connected to, None before it is."""
        return self._exchange.connection.peer if self._exchange is not None else None

    def reconsider(self) -> None:
        """Make the offers anew that other validations are expected for by now."""
        self._news.set()

    async def run(self) -> Ending:
        """Dial, register and serve until the end, which is returned.

        Raises LocalProtocolError, a bug of ours.
        """
        try:
            await self._register_in_time()
            if self._exchange is not None:
                await self._use(self._exchange)
        except LocalProtocolError:
            if self._exchange is not None:
                self._exchange.connection.close(Code.INTERNAL)
            raise
        except TunnelError as error:
            ending = await self._ending(error)
            await self._close(error, ending)
            return ending
        finally:
            if self._exchange is not None:
                self._exchange.connection.close()
        return Ending(Code.OK, LEFT)

    async def _ending(self, error: TunnelError) -> Ending:
        if not isinstance(error, ConnectionLost):
            return ending_of(error)
        if self._departure.asked.is_set():
            return await _left(self._exchange)
        if self._exchange is not None and self._exchange.connection.is_closed:
            # Its streams were only cut; the connection knows why.
            return ending_of(await self._exchange.connection.wait_closed())
        return ending_of(error)

    async def _close(self, error: TunnelError, ending: Ending) -> None:
        """Tell the relay why, if it may still be listening."""
        exchange = self._exchange
        if exchange is None or exchange.is_over:
            return
        if isinstance(error, Refused | RemoteProtocolError):
            await _part(exchange, ending)
        else:
            exchange.connection.close(ending.closing_code, ending.message)

    async def _use(self, exchange: _Exchange) -> None:
        if self.welcome is None:  # told to leave while registering
            await _part(exchange, Ending(Code.OK, LEFT))
            return
        self._owner.registered(self)
        await self._stay(exchange, self.welcome)

    async def _register_in_time(self) -> None:
        timeout = self._passage.register_timeout
        try:
            async with asyncio.timeout(timeout):
                await first_of(self._register, self._wait_for_departure)
        except TimeoutError as error:
            if self._exchange is not None:
                self._exchange.connection.close(Code.TIMEOUT)
            raise DialFailed(f"not registered within {timeout:g} s") from error

    async def _wait_for_departure(self) -> None:
        await self._departure.asked.wait()

    async def _register(self) -> None:
        self._exchange = exchange = await self._open()
        hello = accept_only(await exchange.channel.receive())
        if isinstance(hello, Hello):  # the machine takes nothing else first
            self.relay = hello.relay
        claim, registration = self._passage.claim, exchange.registration
        body = AuthBody(
            version=registration.version,
            key=claim.keypair.signer.public_key,
            instance=claim.instance,
            names=claim.names,
            features=(),
            software=SOFTWARE,
            extension=claim.extension,
        )
        await exchange.channel.write(registration.auth(body, claim.keypair.signer.sign))
        answer = accept_only(await exchange.channel.receive())
        if isinstance(answer, Welcome):
            self._welcome(answer)

    async def _open(self) -> _Exchange:
        connection = await self._passage.way.dial(self.lane)
        try:
            stream = await connection.accept_stream()
        except BaseException:
            connection.close()
            raise
        binding = connection.binding
        registration = ClientRegistration(binding.transport, binding.leaf_hash)
        return _Exchange(connection, Channel(stream, registration), registration)

    def _welcome(self, welcome: Welcome) -> None:
        claimed, refused = self._passage.claim.names, welcome.refused
        names = [name for name in claimed if name in welcome.granted]
        # A relay may say what it likes of names that nobody claimed.
        self.refused = {name: refused[name] for name in claimed if name in refused}
        if not names:
            code = next((reason.code for reason in self.refused.values()), Code.NAME_REFUSED)
            raise Refused(code, "the relay grants none of the names")
        now = asyncio.get_running_loop().time()
        expected = self._passage.challenges.get
        refused = self.refused
        self.offers = Offers(names, random.random, expected=expected, refused=refused, now=now)
        self.welcome = welcome

    async def _stay(self, exchange: _Exchange, welcome: Welcome) -> None:
        interval = max(welcome.heartbeat, self._passage.heartbeat)
        async with self._streams as streams:
            try:
                await first_of(
                    partial(self._listen, exchange.channel),
                    partial(
                        keep_alive, exchange.connection, exchange.channel, interval, self._judge
                    ),
                    partial(self._accept, exchange.connection),
                    partial(self._tend, exchange),
                )
            finally:
                streams.cancel()

    def _judge(self, action: Action) -> None:
        self._owner.judged(self, action)

    async def _accept(self, connection: Connection) -> None:
        while True:
            stream = await connection.accept_stream()
            self._streams.start(self._passage.forwarder.forward(stream))

    async def _listen(self, channel: Channel) -> None:
        while True:
            match await channel.receive():
                case Ping(number):
                    await channel.send(Pong(number))
                case Serving() as answer:
                    self._note(answer)
                case Drain() as drain:
                    self._drained(drain)
                case Bye() as bye:
                    raise Refused(bye.reason.code, bye.message, bye.retry_after)
                case _:
                    pass  # pong: that it came is what counts, and the transport has noted that

    def _note(self, answer: Serving) -> None:
        was_complete = self.offers.is_complete
        reason = self.offers.answered(answer, asyncio.get_running_loop().time())
        self._owner.answered(answer.name, reason)
        if self.offers.is_complete and not was_complete:
            self._owner.serving(self)
        self._news.set()

    def _drained(self, drain: Drain) -> None:
        code = Code.SUPERSEDED if self.offers.is_superseded else Code.DRAINING
        self._owner.vacated(self, Ending(code, "drained by the relay", drain.retry_after))
        self.leave(asyncio.get_running_loop().time() + drain.deadline, announce=False)

    async def _tend(self, exchange: _Exchange) -> None:
        """Offer what was granted, again where it is due, and leave when asked to."""
        now = asyncio.get_running_loop().time
        channel, departure = exchange.channel, self._departure
        if not departure.asked.is_set():
            await _send(channel, self.offers.open())
        while not departure.asked.is_set():
            await self._wait_for_news(self.offers.next_timeout())
            await _send(channel, self.offers.take_due(now()))
            if self.offers.take_aged(now()):
                self._owner.aged(self)
        if departure.is_announced:
            await self._withdraw(channel)
        try:
            async with asyncio.timeout_at(departure.deadline) as departure.grace:
                await self._streams.emptied()
                await self._owner.relieved(self)
        except TimeoutError:
            pass  # what is left is cut by the goodbye
        finally:
            departure.grace = None  # cancelled here, the link may still be told to hurry
        await _part(exchange, Ending(Code.OK, LEFT))

    async def _wait_for_news(self, until: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._news.wait()
        self._news.clear()

    async def _withdraw(self, channel: Channel) -> None:
        """Have the relay send its visitors elsewhere before anything else is given up."""
        latest = asyncio.get_running_loop().time() + WITHDRAWAL_TIMEOUT
        if self._departure.deadline is not None:
            latest = min(latest, self._departure.deadline)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(latest):
                await _send(channel, self.offers.withdraw())
                while self.offers.serving:
                    await self._wait_for_news(None)


def accept_only(message: FromRelay) -> FromRelay:
    """Return a message of the registration; raises Refused if it is the relay's no."""
    if isinstance(message, Reject | Bye):
        raise Refused(message.reason.code, message.message, message.retry_after)
    return message


async def _left(exchange: _Exchange | None) -> Ending:
    """Return how it ended once nothing is left of the connection, which the relay closed first."""
    if exchange is not None:
        exchange.connection.close()
        await gone(exchange.connection)
    return Ending(Code.OK, LEFT)


async def _part(exchange: _Exchange, ending: Ending) -> None:
    await part(exchange.connection, exchange.channel, ending.closing_code, ending.message)


async def _send(channel: Channel, offers: list[Serve]) -> None:
    for offer in offers:
        await channel.send(offer)
