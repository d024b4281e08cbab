"""Many clients in one process: `python -m tests.e2e.crowd COUNT PORT PIN TARGET [TRANSPORT]`.

Prints `serving N` each time one more of them serves, counting each client once; `again N at T`
when the N-th client serves anew that had lost its relay; `lost at T: CAUSE` for each connection.
T is in seconds of the machine's monotonic clock.
"""

import asyncio
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.e2e.world import SUFFIX
from tunnel.client.client import Client
from tunnel.client.events import ClientEvent, Disconnected, Serving
from tunnel.runtime.loop import run
from tunnel.runtime.signals import handled_signals
from tunnel.settings.values import (
    ClientSettings,
    EndpointSettings,
    KeypairSettings,
    ServerSettings,
    Target,
)
from tunnel.stream import Address


def settings_of(
    number: int, template: ServerSettings, target: Address, folder: Path
) -> ClientSettings:
    """Return the settings of one client of the crowd."""
    state = folder / str(number)
    endpoint = EndpointSettings("web", "key", SUFFIX, Target(address=target), servers=("relay",))
    return ClientSettings(
        state,
        {"relay": template},
        {"key": KeypairSettings("key", state / "key.pem")},
        {"web": replace(endpoint, certificate="passthrough")},
    )


class Count:
    """Counts the clients that serve, and how often they came to serve again."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def note(self, number: int, event: ClientEvent) -> None:
        """Print what changed."""
        if isinstance(event, Serving):
            sys.stdout.write(f"{self._count(number)}\n")
        elif isinstance(event, Disconnected):
            sys.stdout.write(f"lost at {time.monotonic():.3f}: {event.cause}\n")
        sys.stdout.flush()

    def _count(self, number: int) -> str:
        self.seen[number] = self.seen.get(number, 0) + 1
        if self.seen[number] == 1:
            return f"serving {len(self.seen)}"
        again = sum(times > 1 for times in self.seen.values())
        return f"again {again} at {time.monotonic():.3f}"


async def main(count: int, port: int, pin: str, target: str, transport: str = "quic") -> None:
    """Run the crowd until a signal ends it."""
    host, _, target_port = target.rpartition(":")
    server = ServerSettings(
        "relay",
        Address("127.0.0.1", port),
        "127.0.0.1",
        pin=bytes.fromhex(pin.removeprefix("sha256:")),
        transport=transport,
    )
    counted = Count()
    with tempfile.TemporaryDirectory() as name, handled_signals() as signals:
        clients = []
        for number in range(count):
            settings = settings_of(number, server, Address(host, int(target_port)), Path(name))
            clients.append(
                Client(settings, on_event=lambda event, n=number: counted.note(n, event))  # type: ignore[misc]
            )
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run())
            await signals.stop.wait()
            for client in clients:
                client.stop()


if __name__ == "__main__":
    run(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
