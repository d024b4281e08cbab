"""Clients' connections: registration, control stream, drain. One coroutine per connection."""

import asyncio
import secrets
import socket
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tunnel.errors import Code, ConnectionLost, Refused, RemoteProtocolError
from tunnel.log import Log, clipped, get_log
from tunnel.protocol.fields import DirectOffer, Reason
from tunnel.protocol.heartbeat import Action
from tunnel.protocol.messages import (
    MESSAGE_LIMIT,
    RETRY_AFTER_LIMIT,
    Bye,
    Hello,
    Ping,
    Pong,
    Serve,
    Serving,
    Welcome,
)
from tunnel.protocol.registration import VERSIONS, Claim, RelayRegistration
from tunnel.relay.admission import Admission, Decision
from tunnel.relay.counts import Registrations
from tunnel.relay.farewell import Farewell
from tunnel.relay.limits import AddressCounts, address_key
from tunnel.relay.once import Once
from tunnel.relay.registry import Claimant, Registry, ServeOutcome
from tunnel.relay.sessions import Kinds, Link, RelayChannel, retire
from tunnel.relay.spares import Spares
from tunnel.runtime.control import ControlChannel, keep_alive, part
from tunnel.runtime.supervision import Crowd, first_of
from tunnel.settings.values import ListenerSettings, RelaySettings
from tunnel.stream import Address, Connection, Listener
from tunnel.tls.identity import authenticate
from tunnel.tls.slots import CertificateSlot
from tunnel.transport.accepting import TcpListener
from tunnel.transport.doors import accept_socket, takes_direct
from tunnel.transport.options import TransportOptions

log = get_log(__name__)

REPLICA = "replica"  # the feature of instances that serve a name side by side
CONNECTIONS_PER_ADDRESS = 4096  # a whole fleet may sit behind one address
UNREGISTERED_FACTOR = 10  # times `half_open`: how many may be registering at once
UNREGISTERED_PER_ADDRESS_FACTOR = 4  # the same for one address: a fleet may come back at once
HEARTBEAT_FULL = 2000  # connections up to which the heartbeat is as set; above, it slows down
HEARTBEAT_SLOWEST = 30.0
RETRY_AFTER_DRAIN = 1.0  # seconds after which clients may come back: a restart takes about that


Door = Listener | TcpListener  # one address that clients come in by


@dataclass(frozen=True, slots=True)
class Entry:
    """How a connection came in, and whether spare direct connections may come the same way."""

    door: Door | None = None
    offers_direct: bool = False

    @classmethod
    def by(cls, door: Door, settings: ListenerSettings) -> "Entry":
        """Return the entry by a door of a listener."""
        return cls(door, takes_direct(settings.transports))

    def offer(self, spares: Spares, link: Link, decision: Decision) -> DirectOffer | None:
        """Return what direct connections take; none where a rate is kept, which takes copying."""
        is_offered = self.offers_direct and decision.limits.rate is None
        return spares.offer(link.session) if is_offered else None


@dataclass(frozen=True, slots=True)
class Doors:
    """What new connections are let in with."""

    slot: CertificateSlot
    options: TransportOptions
    spares: Spares = field(default_factory=Spares)


_SOMEHOW = Entry()


class Agents:
    """The relay's side of every client connection."""

    def __init__(
        self, settings: RelaySettings, registry: Registry, admission: Admission, doors: Doors
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._admission = admission
        self._doors = doors
        self._per_address = AddressCounts(CONNECTIONS_PER_ADDRESS)
        half_open = settings.limits.half_open
        self._unregistered_per_address = AddressCounts(half_open * UNREGISTERED_PER_ADDRESS_FACTOR)
        self._unregistered = 0
        self._told = Once()
        self.registrations = Registrations()
        self.is_draining = False
        self.crowd = Crowd("agent")
        self._came_by: dict[Connection, Entry] = {}
        self.farewell = Farewell(self.crowd, settings.drain_timeout)

    def reconfigure(self, settings: RelaySettings, admission: Admission, doors: Doors) -> None:
        """Let in whoever comes from now on as these say; who is in, is not asked anew."""
        self._settings = settings
        self._admission = admission
        self._doors = doors
        half_open = settings.limits.half_open
        self._unregistered_per_address.limit = half_open * UNREGISTERED_PER_ADDRESS_FACTOR
        self.farewell.drain_timeout = settings.drain_timeout

    # -- letting in

    async def accept_from(self, listener: Listener, settings: ListenerSettings) -> None:
        """Serve every connection of a listener, for ever."""
        entry = Entry.by(listener, settings)
        while True:
            connection = await listener.accept()
            self.crowd.start(self.serve(connection, entry))

    def take_socket(self, sock: socket.socket, peer: Address, entry: Entry = _SOMEHOW) -> None:
        """Serve the client at `peer` whose ClientHello waits unread on an accepted socket."""
        self.crowd.start(self._serve_socket(sock, peer, entry))

    async def _serve_socket(self, sock: socket.socket, peer: Address, entry: Entry) -> None:
        doors = self._doors
        try:
            with self._registering(peer):
                connection = await accept_socket(sock, doors.slot, doors.options, peer)
        except OSError as error:  # a reset may come at any time
            sock.close()
            raise ConnectionLost("reset before registration") from error
        except Refused:
            sock.close()
            raise
        await self.serve(connection, entry)

    @property
    def unregistered(self) -> int:
        """How many connections are registering now."""
        return self._unregistered

    @contextmanager
    def _registering(self, peer: Address) -> Iterator[None]:
        """Hold a place of those who have not proved who they are; raises Refused(BUSY)."""
        if self._unregistered >= self._settings.limits.half_open * UNREGISTERED_FACTOR:
            raise Refused(Code.BUSY, "too many registrations under way")
        self._unregistered += 1
        try:
            with self._unregistered_per_address.place(peer):
                yield
        finally:
            self._unregistered -= 1

    async def serve(self, connection: Connection, entry: Entry = _SOMEHOW) -> None:
        """Register the connection that came in so, answer it until it ends, close it."""
        self._came_by[connection] = entry
        try:
            with self._per_address.place(connection.peer):
                await self._serve(connection)
        except Refused as refusal:
            connection.close(refusal.code, refusal.message)
        except Exception:
            connection.close(Code.INTERNAL)
            raise
        finally:
            del self._came_by[connection]
            connection.close()

    async def _serve(self, connection: Connection) -> None:
        bound = log.bind(peer=connection.peer, transport=connection.binding.transport)
        with self._registering(connection.peer):
            link = await self._register(connection, bound)
        if link is not None:
            await self._live(link, bound.bind(session=link.session.label))

    # -- registration

    async def _register(self, connection: Connection, bound: Log) -> Link | None:
        """Return the new link, or None once a client that got none was told why."""
        registration = self._registration(connection)
        channel: RelayChannel | None = None
        claim: Claim | None = None
        try:
            async with asyncio.timeout(self._settings.timeouts.register):
                stream = await connection.open_stream()
                channel = ControlChannel(stream, registration)
                await channel.write(registration.greeting())
                claim = await self._claim(channel)
                return await self._welcome(connection, channel, claim)
        except (TimeoutError, Refused, RemoteProtocolError) as error:
            refusal = _as_refusal(error)
            proved = claim.fingerprint if claim is not None else None
            self.registrations.refuse(connection.peer, proved, refusal)
            is_news = self._told.is_new((address_key(connection.peer.host), refusal.code))
            tell = bound.warning if is_news else bound.debug
            tell("refused a client", code=refusal.code.word, cause=refusal.message)
            if channel is None:
                connection.close(refusal.code, refusal.message)
            else:
                retry_after = refusal.retry_after
                if retry_after is not None:  # an admission of somebody else's may ask for more
                    retry_after = min(retry_after, RETRY_AFTER_LIMIT)
                await part(connection, channel, refusal.code, refusal.message, retry_after)
        except ConnectionLost as loss:
            bound.debug("lost before registration", cause=loss)
            _close_after(connection, loss)
        return None

    def _registration(self, connection: Connection) -> RelayRegistration:
        nonce, clock = secrets.token_bytes(32), int(datetime.now(UTC).timestamp())
        hello = Hello(VERSIONS, nonce, self._settings.name[:64], (REPLICA,), clock)
        binding = connection.binding
        return RelayRegistration(hello, binding.transport, binding.leaf_hash, authenticate)

    async def _claim(self, channel: RelayChannel) -> Claim:
        event = await channel.receive()
        if isinstance(event, Claim):
            return event
        raise ConnectionLost("left before it registered", Code.OK)

    async def _welcome(self, connection: Connection, channel: RelayChannel, claim: Claim) -> Link:
        decision = await self._admission.decide(claim, connection.peer)
        if self.is_draining:
            raise Refused(Code.DRAINING, "the relay is going away", RETRY_AFTER_DRAIN)
        is_replica = REPLICA in claim.features
        claimant = Claimant(claim.fingerprint, claim.instance, is_replica, connection, channel)
        link = self._registry.join(claimant, decision)
        try:
            await channel.send(self._welcome_message(link, decision))
        except BaseException:
            self._registry.leave(link)
            raise
        log.info(
            "registered",
            session=link.session.label,
            peer=connection.peer,
            transport=connection.binding.transport,
            names=list(decision.granted),
            software=clipped(claim.software),
        )
        return link

    def _welcome_message(self, link: Link, decision: Decision) -> Welcome:
        return Welcome(
            session=link.session.token,
            granted=decision.granted,
            refused={name: Reason(code) for name, code in decision.refused.items()},
            heartbeat=self._heartbeat_interval(),
            streams=decision.limits.streams,
            observed=link.connection.peer,
            direct=self._came_by[link.connection].offer(self._doors.spares, link, decision),
        )

    def _heartbeat_interval(self) -> float:
        interval = self._settings.timeouts.heartbeat
        crowding = self._registry.connections / HEARTBEAT_FULL
        return max(interval, min(interval * crowding, HEARTBEAT_SLOWEST))

    # -- the registered life

    async def _live(self, link: Link, bound: Log) -> None:
        interval = self._heartbeat_interval()

        def judge(action: Action) -> None:
            self._judge(link, action, bound)

        try:
            await first_of(
                lambda: self._answer(link, bound),
                lambda: keep_alive(link.connection, link.channel, interval, judge),
            )
        except RemoteProtocolError as error:
            bound.warning("peer broke the protocol", cause=error)
            self._registry.leave(link)
            await part(link.connection, link.channel, Code.PROTOCOL, str(error))
        except ConnectionLost as loss:
            bound.info("connection ended", cause=loss, code=loss.code.word)
            _close_after(link.connection, loss)
        finally:
            self._registry.leave(link)

    def _judge(self, link: Link, action: Action, bound: Log) -> None:
        if action is Action.SUSPECT and self._registry.suspect(link):
            bound.info("no answer to a ping: out of rotation")
        elif action is Action.RESTORE and self._registry.resume(link):
            bound.info("answers again: back in rotation")

    async def _answer(self, link: Link, bound: Log) -> None:
        """Answer the control stream until the client says goodbye."""
        while True:
            match await link.channel.receive():
                case Serve() as wish:
                    await self._serve_name(link, wish, bound)
                case Ping(seq):
                    await link.channel.send(Pong(seq))
                case Bye(reason):
                    bound.info("client left", code=reason)
                    return

    async def _serve_name(self, link: Link, wish: Serve, bound: Log) -> None:
        kinds = Kinds(visitors=wish.visitors, challenge=wish.challenge)
        outcome = await self._registry.agree(link, wish.name, kinds, renewal=wish.renewal)
        for loser in outcome.superseded:
            bound.info("took over", name=wish.name, superseded=loser.label)
            self.farewell.dismiss(loser)
        for other in outcome.given_up:
            bound.info("validation given up", name=wish.name, session=other.session.label)
            self.crowd.start(tell_given_up(other, wish.name))
        await link.channel.send(_answer(wish.name, outcome))
        now = outcome.kinds
        bound.debug("serving", name=wish.name, visitors=now.visitors, challenge=now.challenge)

    # -- ending

    def drain(self) -> None:
        """Ask every client to leave, and let nobody register any more."""
        self.is_draining = True
        self.farewell.drain(retire(self._registry.links), RETRY_AFTER_DRAIN)

    def leave_by(self, doors: Container[Door | None]) -> None:
        """Ask every client to leave that came in by one of these doors, which are shut by now."""
        came = [
            each
            for each in self._registry.links
            if self._came_by.get(each.connection, _SOMEHOW).door in doors
        ]
        self.farewell.drain(retire(came), RETRY_AFTER_DRAIN)

    async def part_from_all(self) -> None:
        """Say goodbye to every client that is left and close its connection."""
        await self.farewell.part_from(self._registry.links)


def _answer(name: str, outcome: ServeOutcome) -> Serving:
    reason = Reason(outcome.code) if outcome.code is not None else None
    now, message = outcome.kinds, outcome.message[:MESSAGE_LIMIT]
    return Serving(name, now.visitors, now.challenge, reason, outcome.retry_after, message)


async def tell_given_up(link: Link, name: str) -> None:
    """Say unasked that validations no longer come here; a client that does not read is cut."""
    visitors = link.serving[name].visitors if name in link.serving else False
    await link.channel.send(Serving(name, visitors, challenge=False, reason=Reason(Code.TIMEOUT)))


def _close_after(connection: Connection, loss: ConnectionLost) -> None:
    """Close what is still open: an end of the control stream without a last word is a fault."""
    code = loss.code if loss.code in (Code.OK, Code.TIMEOUT) else Code.PROTOCOL
    connection.close(code, str(loss))


def _as_refusal(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, RemoteProtocolError):
        return Refused(Code.PROTOCOL, str(error))
    return Refused(Code.TIMEOUT, "registration took too long")
