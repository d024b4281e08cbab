"""Which connection a listener's datagrams belong to, by the connection id they carry."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunnel.transport.quic.connection import TunnelConnection

CONNECTION_ID_BYTES = 8  # of both ends
IDS_MAX = 16  # of one connection: the 8 that aioquic may issue, the client's first, and some more


class Routes:
    """Connection ids of all connections; each connection has few."""

    def __init__(self) -> None:
        self._connections: dict[bytes, TunnelConnection] = {}
        self._ids: dict[TunnelConnection, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, connection_id: bytes) -> "TunnelConnection | None":
        """Return the connection that an id belongs to."""
        return self._connections.get(connection_id)

    def add(self, connection_id: bytes, connection: "TunnelConnection") -> None:
        """Route an id to a connection."""
        ids = self._ids.setdefault(connection, set())
        if len(ids) < IDS_MAX:
            ids.add(connection_id)
            self._connections[connection_id] = connection

    def remove(self, connection_id: bytes) -> None:
        """Forget an id."""
        connection = self._connections.pop(connection_id, None)
        if connection is not None:
            self._ids[connection].discard(connection_id)

    def drop(self, connection: "TunnelConnection") -> None:
        """Forget a connection with all its ids."""
        for connection_id in self._ids.pop(connection, ()):
            self._connections.pop(connection_id, None)
