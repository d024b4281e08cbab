"""Names that somebody may be about to serve: their visitors are worth holding for a moment."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

RECENT_SECONDS = 600.0  # a name that was registered this lately is worth waiting for
RECENT_NAMES_KEPT = 20_000


class ExpectedNames:
    """What the settings list, and what was served of late."""

    def __init__(self, listed: Iterable[str], clock: Callable[[], float]) -> None:
        self._listed = frozenset(listed)
        self._clock = clock
        self._recent: OrderedDict[str, float] = OrderedDict()  # name → when it was last served

    def __repr__(self) -> str:
        return f"<ExpectedNames {len(self._listed)} listed, {len(self._recent)} of late>"

    def __contains__(self, name: str) -> bool:
        if name in self._listed:
            return True
        since = self._recent.get(name)
        return since is not None and self._clock() - since < RECENT_SECONDS

    def reconfigure(self, listed: Iterable[str]) -> None:
        """Expect these instead of those that were listed; what was served of late stays."""
        self._listed = frozenset(listed)

    def note(self, name: str) -> None:
        """Remember that the name was served until now."""
        self._recent[name] = self._clock()
        self._recent.move_to_end(name)
        if len(self._recent) > RECENT_NAMES_KEPT:
            self._recent.popitem(last=False)
