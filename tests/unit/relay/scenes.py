"""A registry with links over the memory transport, for scenes in which nobody registers."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from tunnel.errors import Code, Refused
from tunnel.protocol.messages import Hello
from tunnel.protocol.registration import RelayRegistration
from tunnel.relay.admission import Decision
from tunnel.relay.challenges import Challenges
from tunnel.relay.registry import Claimant, Registry
from tunnel.relay.sessions import Kinds, Link, RelayChannel
from tunnel.runtime.control import ControlChannel
from tunnel.settings.values import GrantLimits
from tunnel.stream import Connection
from tunnel.transport.memory import MemoryStream, memory_pair

NAME = "a.t.test"
VISITORS = Kinds(visitors=True, challenge=False)
CHALLENGE = Kinds(visitors=False, challenge=True)
KEY, OTHER_KEY = b"k" * 32, b"o" * 32


def in_loop(scene: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test that needs a running loop."""

    @wraps(scene)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(scene(*args, **kwargs))

    return run


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Orders:
    """A budget that lets everything pass until `is_used_up`, and notes it."""

    counted: list[str] = field(default_factory=list)
    is_used_up: bool = False

    def order(self, name: str, *, renewal: bool) -> None:
        if self.is_used_up:
            raise Refused(Code.BUSY, "used up", 77.0)
        self.counted.append(f"renewal of {name}" if renewal else name)


@dataclass
class Scene:
    """Joins clients to a registry; `far_ends` are the clients' connections, in order."""

    expected: tuple[str, ...] = ()
    connections: int = 100
    limits: GrantLimits = field(default_factory=GrantLimits)
    clock: Clock = field(default_factory=Clock)
    budget: Orders = field(default_factory=Orders)
    far_ends: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        challenges = Challenges(self.budget, self.clock)
        self.registry = Registry(self.connections, self.expected, challenges, self.clock)

    def join(
        self, instance: bytes = b"1" * 16, key: bytes = KEY, *, is_replica: bool = False
    ) -> Link:
        near, far = memory_pair()
        self.far_ends.append(far)
        hello = Hello((1,), bytes(32), "relay", ())
        registration = RelayRegistration(hello, "memory", bytes(32), lambda *_: key)
        channel: RelayChannel = ControlChannel(MemoryStream(near, is_control=True), registration)
        claimant = Claimant(key, instance, is_replica, near, channel)
        return self.registry.join(claimant, Decision({NAME: 443}, limits=self.limits))

    def serve(self, link: Link, kinds: Kinds = VISITORS, name: str = NAME) -> Code | None:
        return self.registry.serve(link, name, kinds).code
