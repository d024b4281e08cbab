"""The relay as a whole: what it is made of, how it starts, how it ends."""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from tunnel.errors import ListenFailed
from tunnel.log import get_log
from tunnel.protocol.names import client_id
from tunnel.relay.admission import Admission, SettingsAdmission
from tunnel.relay.agents import Agents, Doors
from tunnel.relay.budget_file import budget_of
from tunnel.relay.certificate import SELF_SIGNED_NAME, OwnCertificate
from tunnel.relay.challenges import Challenges
from tunnel.relay.front import Front
from tunnel.relay.known_keys import KnownKeys
from tunnel.relay.registry import Registry
from tunnel.relay.routing import Routing
from tunnel.relay.sessions import Link
from tunnel.relay.state import own_names, prepare_state, reset_key
from tunnel.relay.validation import OwnValidations
from tunnel.runtime.activation import InheritedSockets
from tunnel.runtime.supervision import Work, first_of, restarted
from tunnel.settings.values import InheritedAddress, ListenerSettings, RelaySettings
from tunnel.stream import Address, Listener
from tunnel.tls.certificates import dns_names
from tunnel.tls.slots import Certificate
from tunnel.transport.doors import listen_datagrams, takes_datagrams, takes_sockets
from tunnel.transport.options import TransportOptions
from tunnel.transport.parking import ParkingBudget
from tunnel.transport.tcp import TcpListener, reason_of

log = get_log(__name__)

_WITHOUT_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


@dataclass(frozen=True, slots=True)
class Bound:
    """One address that is listened on, and the settings it came from."""

    settings: ListenerSettings
    listener: TcpListener | Listener

    @property
    def address(self) -> Address:
        """The address really bound."""
        return self.listener.address


@dataclass(frozen=True, slots=True)
class Opening:
    """What a relay that has just begun to listen says of itself."""

    server: Address  # that clients dial: a host name where every address is listened on
    pin: bytes


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
    listens; `inherited` are the sockets that `fd:` in settings speaks of. Raises SettingsError if
    keys, certificates or the state directory cannot be used.
    """

    def __init__(
        self,
        settings: RelaySettings,
        *,
        admission: Admission | None = None,
        on_open: Callable[[Opening], None] | None = None,
        inherited: InheritedSockets | None = None,
    ) -> None:
        prepare_state(settings.state_dir)
        self._settings = settings
        self._on_open = on_open
        self._inherited = inherited or InheritedSockets()
        self._count: Callable[[], Census] = Census
        self._validations = OwnValidations()
        self._certificate = OwnCertificate(settings, self._validations)
        self._doors = Doors(self._certificate.slot, _options(settings))
        if admission is None:
            known = KnownKeys(settings.state_dir / "known-keys")
            own = own_names(settings, self._certificate.slot.current)
            admission = SettingsAdmission(settings, own, known)
        self._admission = admission
        self._budget = budget_of(settings)

    def census(self) -> Census:
        """Return how many there are of everybody; nobody before `run`."""
        return self._count()

    async def run(self, stop: asyncio.Event) -> None:
        """Listen and serve until `stop` is set, then drain. Raises ListenFailed."""
        settings = self._settings
        clock = asyncio.get_running_loop().time
        challenges = Challenges(self._budget, clock)
        expected = _expected_names(settings)
        registry = Registry(settings.limits.connections, expected, challenges, clock)
        agents = Agents(settings, registry, self._admission, self._doors)
        routing = Routing(settings.timeouts, registry)
        front = Front(settings, routing, agents.take_socket, self._validations)
        self._count = lambda: _census(registry.links, len(front.crowd))
        log.info("starting", relay=settings.name)
        bound = await self._listen()
        try:
            async with agents.crowd, front.crowd:
                if self._on_open is not None:
                    self._on_open(self._opening(bound))
                accepting = (self._accept(each, agents, front) for each in bound)
                await first_of(lambda: _wait(stop), *accepting, *self._upkeep())
                await _close(bound)
                await self._drain(agents, front)
        finally:
            await _close(bound)
            self._budget.close()

    def _upkeep(self) -> Iterator[Work]:
        upkeep = self._certificate.upkeep
        if upkeep is not None:
            yield lambda: restarted("certificate", upkeep)

    def _opening(self, bound: list[Bound]) -> Opening:
        certificate = self._doors.slot.current
        address = next(each.address for each in bound if each.settings.kind != "public")
        if ip_address(address.host).is_unspecified:
            address = Address(_public_host(certificate), address.port)
        return Opening(address, certificate.pin)

    async def _listen(self) -> list[Bound]:
        """Bind every address, or none: raises ListenFailed."""
        bound: list[Bound] = []
        try:
            for listener in self._settings.listeners.values():
                for address in listener.listen:
                    bound += await self._bind(listener, address)
        except BaseException:
            await _close(bound)
            raise
        if all(each.settings.kind == "public" for each in bound):
            await _close(bound)
            raise ListenFailed("no address for clients could be listened on")
        self._inherited.warn_of_unwanted()
        return bound

    async def _bind(self, listener: ListenerSettings, address: Address) -> list[Bound]:
        bound: list[Bound] = []
        serves_agents = listener.kind != "public"
        try:
            if listener.kind != "agents" or takes_sockets(listener.transports):
                sockets = TcpListener(self._place(address, socket.SOCK_STREAM))
                bound.append(Bound(listener, sockets))
                if address.port == 0:  # chosen once: both protocols of an agents listener share it
                    address = Address(address.host, sockets.address.port)
            if serves_agents and takes_datagrams(listener.transports):
                place, doors = self._place(address, socket.SOCK_DGRAM), self._doors
                datagrams = await listen_datagrams(place, doors.slot, doors.options)
                bound.append(Bound(listener, datagrams))
        except ListenFailed as fault:
            await _close(bound)
            raise ListenFailed(f"listeners.{listener.name}: {fault}") from fault
        except OSError as fault:
            await _close(bound)
            if address.host == "::" and fault.errno in _WITHOUT_IPV6:
                log.warning("no IPv6 here", listener=listener.name, address=address)
                return []
            message = f"listeners.{listener.name}: cannot listen on {address}: {reason_of(fault)}"
            raise ListenFailed(message) from fault
        log.info("listening", listener=listener.name, kind=listener.kind, address=address)
        return bound

    def _place(self, address: Address, kind: socket.SocketKind) -> Address | socket.socket:
        """Return where to listen: the address, or the socket that was bound to it for us."""
        if isinstance(address, InheritedAddress):
            return self._inherited.take(address, kind)
        return address

    @staticmethod
    def _accept(bound: Bound, agents: Agents, front: Front) -> Work:
        """Return what accepts for ever from one socket."""
        listener = bound.listener
        if isinstance(listener, TcpListener):
            return lambda: front.accept_from(listener, bound.settings)
        return lambda: agents.accept_from(listener)

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


def _census(links: list[Link], visitors: int) -> Census:
    served = {name for link in links for name, kinds in link.serving.items() if kinds.visitors}
    return Census(len({link.session for link in links}), len(served), visitors)


def _public_host(certificate: Certificate) -> str:
    """Return the name by which clients most likely reach this machine."""
    names = sorted(dns_names(certificate.leaf) - {SELF_SIGNED_NAME})
    return next((name for name in names if not name.startswith("*.")), socket.gethostname())


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _close(bound: list[Bound]) -> None:
    while bound:
        listener = bound.pop().listener
        if isinstance(listener, TcpListener):
            listener.close()
        else:
            await listener.close()


def _options(settings: RelaySettings) -> TransportOptions:
    return TransportOptions(
        flow=settings.flow,
        quic=settings.quic,
        budget=ParkingBudget(settings.limits.buffer_total),
        half_open=settings.limits.half_open,
        handshake_timeout=settings.timeouts.register,
        reset_key=reset_key(settings.state_dir),
    )


def _expected_names(settings: RelaySettings) -> set[str]:
    """Return the names that the settings grant to somebody: their visitors are worth holding."""
    names: set[str] = set()
    for grant in settings.clients.values():
        if grant.enabled:
            names.update(name for name in grant.names if not name.startswith("*."))
            for suffix in grant.suffixes:
                bits = settings.suffixes[suffix].id_bits
                names.update(f"{client_id(grant.fingerprint, each)}.{suffix}" for each in bits)
    return names
