"""The validations that this process expects now: one table for all of its connections.

It is read whenever a connection makes an offer, and whenever a validation comes.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tunnel.acme.challenge import PendingAnswer
from tunnel.errors import LocalProtocolError


@dataclass(slots=True, eq=False)
class Challenge:
    """What answers the validations of one name, and whether they are for a renewal.

    Compared by identity: what was said of one that is over says nothing of the next.
    """

    pending: PendingAnswer
    renewal: bool
    answers: int = 0  # so far


Expected = Callable[[str], Challenge | None]


class Challenges:
    """The expected validations by name, and the news of what becomes of them."""

    def __init__(self) -> None:
        self._expected: dict[str, Challenge] = {}
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Challenges {' '.join(sorted(self._expected)) or 'none'}>"

    def get(self, name: str) -> Challenge | None:
        """Return what is expected for a name, None where nothing is."""
        return self._expected.get(name)

    def add(self, name: str, challenge: Challenge) -> None:
        """Expect validations of a name; raises LocalProtocolError if they are already."""
        if name in self._expected:
            raise LocalProtocolError(f"a validation of {name} is expected already")
        self._expected[name] = challenge

    def remove(self, name: str) -> None:
        """Expect none any more."""
        del self._expected[name]

    def tell(self) -> None:
        """Wake whoever waits for `changed`: a relay has answered, come or gone."""
        self._news.set()
        self._news = asyncio.Event()

    async def changed(self) -> None:
        """Wait for the next `tell`. Cancel-safe."""
        await self._news.wait()
