"""What all links of one uplink have in common: who we are to the relay, and how it is reached."""

from dataclasses import dataclass

from tunnel.client.challenges import Challenges
from tunnel.client.endpoints import Keypair
from tunnel.client.forward import Forwarder
from tunnel.client.way import Way


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """Who we are to a relay, and what for."""

    keypair: Keypair
    instance: bytes
    names: tuple[str, ...]
    extension: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """By which way to the relay, as whom, and to whom its visitors come; times are in seconds."""

    way: Way
    claim: Claim
    forwarder: Forwarder
    challenges: Challenges
    register_timeout: float
    heartbeat: float
