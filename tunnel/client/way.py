"""How one relay is reached: its address, the transports and the trust in it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from tunnel.client.addresses import dial_any
from tunnel.client.racing import Lane, resolves_name
from tunnel.settings.values import ServerSettings
from tunnel.stream import Address, Connection
from tunnel.tls.contexts import Trust
from tunnel.transport.doors import Dialer
from tunnel.transport.options import TransportOptions

Resolver = Callable[[Address], Awaitable[list[Address]]]


def trust_in(server: ServerSettings) -> Trust:
    """Return what a relay has to show, as the settings say."""
    return Trust(server.server_name, server.ca, server.pin, server.insecure)


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """How one relay is reached."""

    server: ServerSettings
    options: TransportOptions
    dialers: Mapping[str, Dialer]
    resolve: Resolver

    async def dial(self, lane: Lane) -> Connection:
        """Return a connection over the lane's transport; raises as `DIALERS` do. Cancel-safe."""
        server, trust = self.server, trust_in(self.server)
        connect = self.dialers[lane.transport]
        addresses = [server.address]
        if resolves_name(lane, server.proxy):
            addresses = await self.resolve(server.address)
        return await dial_any(
            addresses, lambda address: connect(address, trust, self.options, server.proxy)
        )
