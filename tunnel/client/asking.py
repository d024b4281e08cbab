"""What one connection asks its relay about validations, and what it is told. No I/O, no clock."""

from dataclasses import dataclass

from tunnel.client.challenges import Challenge, Expected
from tunnel.errors import Code
from tunnel.protocol.messages import Serve, Serving


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a relay says to a challenge; if no, why, and the seconds until to ask again."""

    is_granted: bool
    code: Code | None = None
    retry_after: float | None = None
    message: str = ""  # the code's reason, for people


class Asking:
    """The `challenge` half of a connection's offers; `expected` is asked for each of them.

    A relay answers every `serve` once and in order: the answer to the last one is what counts. A
    challenge that it has refused is not asked for again on this connection.
    """

    __slots__ = ("_asked", "_expected", "_owed", "_verdicts")

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._asked: dict[str, Challenge | None] = {}  # by the last offer of the name
        self._owed: dict[str, int] = {}  # answers that are still to come
        self._verdicts: dict[str, tuple[Challenge, Verdict]] = {}

    def offer(self, name: str) -> Serve:
        """Return an offer that asks for what is wanted now."""
        challenge = self._asked[name] = self._wanted(name)
        self._owed[name] = self._owed.get(name, 0) + 1
        renewal = challenge is not None and challenge.renewal
        return Serve(name, visitors=True, challenge=challenge is not None, renewal=renewal)

    def is_outdated(self, name: str) -> bool:
        """Whether the last offer asked for something else than is wanted now."""
        return self._asked.get(name) is not self._wanted(name)

    def answered(self, answer: Serving) -> Challenge | None:
        """Note an answer; return the challenge that it refuses, if it refuses one."""
        name = answer.name
        self._owed[name] = max(0, self._owed.get(name, 0) - 1)
        asked = self._asked.get(name)
        if asked is None or self._owed[name]:
            return None
        code = answer.reason.code if answer.reason is not None else None
        if not answer.visitors and code is not Code.BUSY:  # it is the name that is refused
            self._verdicts.pop(name, None)
            return None
        verdict = Verdict(answer.challenge, code, answer.retry_after, answer.message)
        self._verdicts[name] = (asked, verdict)
        return None if verdict.is_granted else asked

    def verdict(self, name: str) -> Verdict | None:
        """Return what the relay has said to the challenge that is expected now, if it has."""
        challenge = self._expected(name)
        about, verdict = self._verdicts.get(name, (None, None))
        return verdict if about is challenge else None

    def _wanted(self, name: str) -> Challenge | None:
        verdict = self.verdict(name)
        is_refused = verdict is not None and not verdict.is_granted
        return None if is_refused else self._expected(name)
