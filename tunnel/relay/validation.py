"""The relay's own names before an authority: it answers for them on its public ports itself."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tunnel.acme.challenge import ANSWERS_TOLD, PendingAnswer, answer_validation
from tunnel.errors import OrderPostponed, RemoteProtocolError, StreamReset
from tunnel.log import get_log
from tunnel.stream import Prefixed, Stream

log = get_log(__name__)


class OwnValidations:
    """The way by which validations of the relay's own names come to it: a ChallengePath.

    `changed` is called whenever there are others in `names`.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self._expected: dict[str, PendingAnswer] = {}
        self._answered: Counter[str] = Counter()  # of the order under way, by name

    def __repr__(self) -> str:
        return f"<OwnValidations of {', '.join(sorted(self._expected)) or 'nothing'}>"

    def __contains__(self, name: str) -> bool:
        """Say whether a validation of the name is answered here now."""
        return name in self._expected and self._expected[name].context is not None

    async def ready(self, name: str) -> None:
        """Return at once: the listeners are open before anything is ordered."""

    def addresses(self, name: str) -> frozenset[str]:  # noqa: ARG002 - of the interface
        """Return none: what listens on every address does not know the public one."""
        return frozenset()

    @asynccontextmanager
    async def opened(
        self,
        name: str,
        answer: PendingAnswer,
        *,
        renewal: bool,  # noqa: ARG002 - of the interface; the fleet's budget is for clients
    ) -> AsyncIterator[None]:
        """As `ChallengePath.opened`; nobody else has to confirm."""
        if name in self._expected:
            raise OrderPostponed(f"another order for {name} waits for its validation")
        self._expected[name] = answer
        self._answered[name] = 0
        self._changed()
        try:
            yield
        finally:
            del self._expected[name]
            self._changed()

    @property
    def names(self) -> list[str]:
        """Those of which a validation is expected."""
        return sorted(self._expected)

    async def answer(self, name: str, caller: Stream, hello: bytes, peer: str) -> bool:
        """Shake hands with an authority whose ClientHello was read off `caller` already.

        Returns whether that was completed; it never is for a name that is not in here. `peer` is
        the caller's host, for the log.
        """
        context = self._expected[name].context if name in self._expected else None
        if context is None:
            return False
        try:
            await answer_validation(Prefixed(caller, hello), context)
        except (StreamReset, RemoteProtocolError) as error:
            log.debug("validation not completed", name=name, peer=peer, cause=error)
            return False
        self._answered[name] += 1
        tell = log.info if self._answered[name] <= ANSWERS_TOLD else log.debug
        tell("answered a validation", name=name, peer=peer)
        return True
