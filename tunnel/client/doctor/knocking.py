"""Looking at one relay: its name, the ways to it, and who answers there.

A knock is a connection that says goodbye after the relay's hello. It does not say who we are.
"""

import asyncio
import errno
import socket
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tunnel.client.doctor.sights import Knock, Meeting, ProxySight, Route, Sight, Silence, Trouble
from tunnel.client.link import Channel, accept_only
from tunnel.client.racing import Lane, lanes_of, resolves_name
from tunnel.client.way import Way, trust_in
from tunnel.errors import Code, DialFailed, RemoteProtocolError, SettingsError, TunnelError
from tunnel.protocol.messages import Hello
from tunnel.protocol.registration import ClientRegistration
from tunnel.runtime.control import ControlChannel, part
from tunnel.runtime.lookups import look_up
from tunnel.settings.values import ServerSettings
from tunnel.stream import Address, Connection
from tunnel.tls.leaf import Leaf
from tunnel.transport.doors import DIALERS
from tunnel.transport.options import TransportOptions
from tunnel.transport.proxy import Proxy, connect_through
from tunnel.transport.tcp import family_of

LOOKUP_TIMEOUT = 3.0  # seconds, as all here
KNOCK_TIMEOUT = 4.0  # from the first packet to the relay's hello
VERIFY_TIMEOUT = 3.0  # the same once more, at an address that has answered before
ADDRESSES_MAX = 8  # of one relay that are tried

_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


async def look_at(server: ServerSettings, options: TransportOptions) -> Sight:
    """Return what is to be seen of a relay. Cancel-safe."""
    own, proxied = _by_resolver(server)
    async with asyncio.TaskGroup() as group:
        near = group.create_task(_look_directly(server, own, options))
        far = group.create_task(_look_through(server, proxied, options))
    direct, through = near.result(), far.result()
    knocks = (*direct.knocks, *through.knocks)
    return replace(direct, lanes=(*own, *proxied), proxy=through.proxy, knocks=knocks)


def _by_resolver(server: ServerSettings) -> tuple[list[Lane], list[Lane]]:
    """Return the lanes for which the relay's name is resolved here, and those of the proxy."""
    lanes = lanes_of(server.transport)
    own = [lane for lane in lanes if resolves_name(lane, server.proxy)]
    return own, [lane for lane in lanes if lane not in own]


async def _look_directly(
    server: ServerSettings, lanes: list[Lane], options: TransportOptions
) -> Sight:
    if not lanes:
        return Sight((), None)
    lookup = await look_up(server.address.host, LOOKUP_TIMEOUT)
    addresses = [Address(host, server.address.port) for host in lookup.addresses[:ADDRESSES_MAX]]
    routes = tuple(route_to(address) for address in addresses)
    reachable = [route.address for route in routes if not route.trouble]
    knocks = await _all(
        knock(server, lane, address, options) for lane in lanes for address in reachable
    )
    return Sight((), lookup, routes, knocks=knocks)


async def _look_through(
    server: ServerSettings, lanes: list[Lane], options: TransportOptions
) -> Sight:
    """Return what is seen through the proxy, which is nothing where there is none."""
    if server.proxy is None or not lanes:
        return Sight((), None)
    proxy = await ask_proxy(server.proxy, server.address)
    if proxy.trouble:
        return Sight((), None, proxy=proxy)
    knocks = await _all(knock(server, lane, server.address, options) for lane in lanes)
    return Sight((), None, proxy=proxy, knocks=knocks)


async def _all(knocks: Iterable[Coroutine[Any, Any, Knock]]) -> tuple[Knock, ...]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in knocks]
    return tuple(task.result() for task in tasks)


def route_to(address: Address) -> Route:
    """Return whether the kernel knows a way to an address; nothing is sent."""
    try:
        with socket.socket(family_of(address.host), socket.SOCK_DGRAM) as sock:
            sock.connect((address.host, address.port))
    except OSError as error:
        return Route(address, (error.strerror or str(error)).lower())
    return Route(address)


async def ask_proxy(url: str, target: Address) -> ProxySight:
    """Return whether a proxy joins us to the relay."""
    try:
        proxy = Proxy.parse(url)
        found = await look_up(proxy.address.host, LOOKUP_TIMEOUT)
        if found.trouble:
            return ProxySight(f"cannot resolve {found.host}: {found.trouble}")
        sock = await connect_through(proxy, target, KNOCK_TIMEOUT)
    except DialFailed as failure:
        return ProxySight(str(failure))
    sock.close()
    return ProxySight()


async def knock(
    server: ServerSettings, lane: Lane, address: Address, options: TransportOptions
) -> Knock:
    """Return what comes of knocking at an address; never raises but for cancellation.

    At first nothing is verified, so that what cannot be trusted can be looked at.
    """
    blind = replace(server, ca=None, pin=None, insecure=True)
    try:
        met = await _meet(blind, lane, address, options, KNOCK_TIMEOUT)
    except TunnelError as error:
        return Knock(lane, address, trouble=trouble_of(error))
    if trust_in(server).by_name:
        try:
            await _meet(server, lane, address, options, VERIFY_TIMEOUT)
        except TunnelError as error:
            words = error.faults[0] if isinstance(error, SettingsError) else str(error)
            met = replace(met, distrust=words)
    return Knock(lane, address, met)


def way_to(server: ServerSettings, address: Address, options: TransportOptions) -> Way:
    """Return the way to one address of a relay, whatever else its name has."""

    async def only(_: Address) -> list[Address]:
        return [address]

    return Way(server, options, DIALERS, only)


async def _meet(
    server: ServerSettings,
    lane: Lane,
    address: Address,
    options: TransportOptions,
    timeout: float,
) -> Meeting:
    """Return what the relay at one address shows, dialled as `server` says; raises TunnelError."""
    hurried = replace(options, handshake_timeout=min(timeout, options.handshake_timeout))
    way = way_to(server, address, hurried)
    try:
        async with asyncio.timeout(timeout):
            connection = await way.dial(lane)
            try:
                channel, meeting = await _greeted(connection)
            except BaseException:
                connection.close()
                raise
    except TimeoutError as error:
        raise DialFailed(f"no answer from {address} within {timeout:g} s") from error
    await part(connection, channel, Code.OK, "only looking")
    return meeting


async def _greeted(connection: Connection) -> tuple[Channel, Meeting]:
    """Return what the relay's hello and its certificate say; raises TunnelError."""
    binding = connection.binding
    leaf = Leaf.parse(binding.leaf)
    registration = ClientRegistration(binding.transport, binding.leaf_hash)
    channel: Channel = ControlChannel(await connection.accept_stream(), registration)
    hello = accept_only(await channel.receive())
    ours = datetime.now(UTC)
    if not isinstance(hello, Hello):
        raise RemoteProtocolError(f"{type(hello).__name__} in the place of a hello")
    theirs = None if hello.time is None else datetime.fromtimestamp(hello.time, UTC)
    return channel, Meeting(leaf, ours, theirs)


def trouble_of(error: BaseException) -> Trouble:
    """Return what an error means, by what has caused it."""
    words = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return Trouble(Silence.REFUSED, words)
        if isinstance(cause, TimeoutError):
            return Trouble(Silence.UNANSWERED, words)
        if isinstance(cause, OSError) and cause.errno in _NO_WAY:
            return Trouble(Silence.UNREACHABLE, words)
        cause = cause.__cause__
    return Trouble(Silence.OTHER, words)
