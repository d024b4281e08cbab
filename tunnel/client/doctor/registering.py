"""Whether a relay accepts a key and grants its names: as the running client says, or by trying.

A trial registers with an instance of its own and never serves: a session of the same key that
runs is neither superseded nor asked anything (docs/protocol.md §3, Takeover).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunnel.client.challenges import Challenges
from tunnel.client.doctor.knocking import way_to
from tunnel.client.doctor.sights import Knock
from tunnel.client.ending import Ending
from tunnel.client.endpoints import Keypair
from tunnel.client.forward import Forwarder
from tunnel.client.link import Link
from tunnel.client.passage import Claim, Passage
from tunnel.client.refusals import advice, stanza
from tunnel.client.sessions import Wish
from tunnel.protocol.fields import Reason
from tunnel.protocol.heartbeat import Action
from tunnel.runtime.findings import Check, Finding, Status
from tunnel.settings.values import EndpointSettings
from tunnel.transport.options import TransportOptions

REGISTER_TIMEOUT = 3.0  # seconds
LINGER_TIMEOUT = 1.0
HEARTBEAT = 5.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of registering; `granted` is empty where the relay has not welcomed us."""

    transport: str
    ending: Ending
    granted: tuple[str, ...] = ()
    refused: Mapping[str, Reason] | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """What a running client says of one relay and some names."""

    pid: int
    served: frozenset[str]
    transport: str | None
    last_error: str | None


class _Leaver:
    """A LinkOwner that has its link leave as soon as the relay has welcomed it."""

    def registered(self, link: Link) -> None:
        link.leave(announce=False)

    def answered(self, name: str, reason: Reason | None) -> None:
        """Nothing is offered, and so nothing answered."""

    def serving(self, link: Link) -> None:
        """As above."""

    def judged(self, link: Link, action: Action) -> None:
        """It leaves before a heartbeat is due."""

    def aged(self, link: Link) -> None:
        """It leaves before it ages."""

    def vacated(self, link: Link, ending: Ending) -> None:
        """It leaves by itself."""

    async def relieved(self, link: Link) -> None:
        """Nobody else depends on it."""


async def register(wish: Wish, knock: Knock, options: TransportOptions) -> Trial:
    """Register over what has answered a knock, and leave. Cancel-safe."""
    hurried = replace(options, handshake_timeout=REGISTER_TIMEOUT)
    challenges = Challenges()
    passage = Passage(
        way=way_to(wish.server, knock.address, hurried),
        claim=Claim(wish.keypair, secrets.token_bytes(16), tuple(wish.names), wish.extension),
        forwarder=Forwarder({}, LINGER_TIMEOUT, challenges),
        challenges=challenges,
        register_timeout=REGISTER_TIMEOUT,
        heartbeat=HEARTBEAT,
    )
    link = Link(knock.lane, passage, _Leaver())
    ending = await link.run()
    granted = () if link.welcome is None else tuple(link.welcome.granted)
    return Trial(knock.lane.transport, ending, granted, link.refused)


def running_state(status: Status | None, server: str, names: frozenset[str]) -> Running | None:
    """Return what a client's `status` says of these names at a relay; None if it has none of them.

    A client that runs on other settings, or with another key, is not the one that is meant.
    """
    if status is None or status.get("program") != "client":
        return None
    served: set[str] = set()
    ways: list[Mapping[str, Any]] = []
    for endpoint in status["endpoints"]:
        if names.isdisjoint(endpoint["names"]):
            continue
        mine = [way for way in endpoint["servers"] if way["server"] == server]
        served.update(name for way in mine for name in way["names"])
        ways += mine
    if not ways:
        return None
    return Running(status["pid"], frozenset(served), ways[0]["transport"], ways[0]["last_error"])


def check_of(server: str, keypair: str) -> Check:
    """Return what the registration of a keypair at a relay is listed as."""
    return Check("registration", f"{server}, {keypair}")


def judge_running(wish: Wish, running: Running | None) -> Finding | None:
    """Judge what the running client says; None if that does not settle it."""
    if running is None or not wish.names <= running.served:
        return None
    seen = f"process {running.pid} serves {_listed(wish.names)} over {running.transport}"
    return check_of(wish.server.name, wish.keypair.name).ok(seen)


def judge_untried(wish: Wish, running: Running | None, *, has_answered: bool) -> Finding:
    """Say why the relay was not asked, and what a running client says."""
    why = "the relay is not trusted" if has_answered else "no relay has answered"
    also = f"; process {running.pid} says: {running.last_error}" if running is not None else ""
    return check_of(wish.server.name, wish.keypair.name).skipped(f"{why}{also}")


def judge_trial(
    wish: Wish, trial: Trial, endpoints: Sequence[EndpointSettings], running: Running | None
) -> Finding:
    """Judge what came of registering, besides what a running client says."""
    check = check_of(wish.server.name, wish.keypair.name)
    wanted = _stanza(wish.keypair, endpoints)
    if not trial.granted:
        code = trial.ending.code
        todo = advice(code, wanted) if code is not None else "see the lines above, and try again"
        return check.failed(f"the relay refuses: {trial.ending}", todo)
    if trial.refused:
        name, reason = next(iter(trial.refused.items()))
        more = f", and {len(trial.refused) - 1} more" if len(trial.refused) > 1 else ""
        return check.failed(f"{name} is not granted: {reason}{more}", advice(reason.code, wanted))
    if running is not None:
        why = running.last_error or "it has not said why"
        return check.warning(
            f"the relay accepts the key, but process {running.pid} does not serve it: {why}",
            "wait for its next try: see `client.pyz status`",
        )
    return check.ok(f"the relay grants {_listed(trial.granted)} over {trial.transport}")


def _stanza(keypair: Keypair, endpoints: Sequence[EndpointSettings]) -> str:
    suffixes = [each.suffix for each in endpoints]
    return stanza(
        keypair.fingerprint, suffixes, [name for each in endpoints for name in each.names]
    )


def _listed(names: Sequence[str] | frozenset[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first
