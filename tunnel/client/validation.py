"""How an authority's validations reach this client: through every relay that serves the name.

An authority looks from several places at once, and each may be led to another relay. So none is
told before all have confirmed.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from tunnel.acme.challenge import PendingAnswer
from tunnel.client.asking import Verdict
from tunnel.client.challenges import Challenge, Challenges
from tunnel.client.sessions import Sessions
from tunnel.client.uplink import Uplink
from tunnel.errors import OrderPostponed
from tunnel.log import clipped

CONFIRM_TIMEOUT = 10.0  # seconds that each relay has


class Validations:
    """The ChallengePath (`tunnel.acme.challenge`) over all sessions of this process."""

    def __init__(self, sessions: Sessions, challenges: Challenges) -> None:
        self._sessions = sessions
        self._challenges = challenges

    def __repr__(self) -> str:
        return f"<Validations {self._challenges!r} over {self._sessions!r}>"

    def context(self, name: str) -> ssl.SSLContext | None:
        """Return what answers validations of the name now."""
        challenge = self._challenges.get(name)
        return None if challenge is None else challenge.pending.context

    async def ready(self, name: str) -> None:
        """As `ChallengePath.ready`: a relay sends visitors of the name here."""
        while not any(uplink.staying.serves(name) for uplink in self._sessions.uplinks):
            await self._challenges.changed()

    def addresses(self, name: str) -> frozenset[str]:
        """As `ChallengePath.addresses`: those of the relays that serve the name now."""
        serving = (uplink for uplink in self._sessions.uplinks if uplink.staying.serves(name))
        return frozenset(host for uplink in serving for host in uplink.relay_hosts)

    @asynccontextmanager
    async def opened(
        self, name: str, answer: PendingAnswer, *, renewal: bool
    ) -> AsyncIterator[None]:
        """As `ChallengePath.opened`: one at a time for a name, else LocalProtocolError."""
        self._challenges.add(name, Challenge(answer, renewal))
        try:
            self._reconsider()
            await self._confirmed(name)
            yield
        finally:
            self._challenges.remove(name)
            self._reconsider()

    def _reconsider(self) -> None:
        for uplink in self._sessions.uplinks:
            uplink.staying.reconsider()

    async def _confirmed(self, name: str) -> None:
        """Wait until every relay that serves the name has confirmed; raises OrderPostponed.

        A relay's time runs from when it was first waited for, even if it went in between.
        """
        now = asyncio.get_running_loop().time
        deadlines: dict[Uplink, float] = {}
        while waiting := self._unconfirmed(name):
            latest = now() + CONFIRM_TIMEOUT  # read once: who is asked together is late together
            for uplink in waiting:
                deadlines.setdefault(uplink, latest)
            earliest = min(deadlines[uplink] for uplink in waiting)
            try:
                async with asyncio.timeout_at(earliest):
                    await self._challenges.changed()
            except TimeoutError:
                # Not by the clock: the loop fires a timer up to one tick of it before its time.
                late = [uplink for uplink in waiting if deadlines[uplink] <= earliest]
                raise OrderPostponed(_unanswered(name, late)) from None

    def _unconfirmed(self, name: str) -> list[Uplink]:
        """Return who still has to answer; raises OrderPostponed for a no, and if nobody is there.

        A relay that does not serve the name, or is not connected, is led nowhere and not asked.
        """
        taking_part = (up for up in self._sessions.uplinks if up.staying.takes_part(name))
        verdicts = {up: up.staying.verdict(name) for up in taking_part}
        if not verdicts:
            raise OrderPostponed(f"no relay is connected that serves {name}")
        for uplink, verdict in verdicts.items():
            if verdict is not None and not verdict.is_granted:
                raise OrderPostponed(_refusal(uplink, name, verdict), verdict.retry_after)
        return [uplink for uplink, verdict in verdicts.items() if verdict is None]


def _unanswered(name: str, late: Iterable[Uplink]) -> str:
    servers = list(dict.fromkeys(uplink.server for uplink in late))
    whose = f"relay{'s' if len(servers) > 1 else ''} {', '.join(servers)}"
    return f"{whose} did not confirm the validation of {name} within {CONFIRM_TIMEOUT:g} s"


def _refusal(uplink: Uplink, name: str, verdict: Verdict) -> str:
    code = "" if verdict.code is None else f": {verdict.code.word}"
    why = f": {clipped(verdict.message)}" if verdict.message else ""
    return f"relay {uplink.server} refuses validations of {name}{code}{why}"
