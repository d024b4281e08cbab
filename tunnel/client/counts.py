"""What a client counts: of the visitors of one endpoint, and of all that relays and orders do."""

from collections import Counter
from dataclasses import dataclass, field

from tunnel.client import events
from tunnel.runtime.visits import Visits
from tunnel.stream import Tally


@dataclass(slots=True)
class EndpointVisits(Visits):
    """The visitors of one endpoint."""

    target_failures: int = 0
    tally: Tally = field(default_factory=Tally)


class Chronicle:
    """Counts events; call it with each, before or after anybody else."""

    def __init__(self) -> None:
        self.connected: Counter[tuple[str, ...]] = Counter()  # by server and transport
        self.disconnected: Counter[tuple[str, ...]] = Counter()  # likewise
        self.failed: Counter[str] = Counter()  # dials and connections, by server
        self.refused: Counter[tuple[str, ...]] = Counter()  # by server and code
        self.orders_failed: Counter[str] = Counter()  # by name

    def __repr__(self) -> str:
        return f"<Chronicle {self.connected.total()} connections>"

    def __call__(self, event: events.ClientEvent) -> None:
        """Count what is worth it."""
        match event:
            case events.Connected(server=server, transport=transport):
                self.connected[server, transport] += 1
            case events.Disconnected(server=server, transport=transport):
                self.disconnected[server, transport] += 1
            case events.Failed(server=server):
                self.failed[server] += 1
            case events.Refused(server=server, code=code):
                self.refused[server, code.word] += 1
            case events.CertificateFailed(name=name):
                self.orders_failed[name] += 1
            case _:
                pass
