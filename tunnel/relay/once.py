"""Saying a thing once: what strangers can cause may not fill the log."""

from collections import OrderedDict
from collections.abc import Hashable

KEPT = 1_000


class Once:
    """Remembers the last 1,000 things that were said."""

    def __init__(self) -> None:
        self._said: OrderedDict[Hashable, None] = OrderedDict()

    def is_new(self, thing: Hashable) -> bool:
        """Say whether `thing` was not met lately, and remember it."""
        is_new = thing not in self._said
        self._said[thing] = None
        self._said.move_to_end(thing)
        if len(self._said) > KEPT:
            self._said.popitem(last=False)
        return is_new
