"""Which worker serves which name, as the head has told. Sans-I/O.

What it says may be a moment old. Whoever is handed over stays there, so that nobody goes in
circles: at worst the name is not served there any more, and the visitor is told so.
"""

from collections.abc import Container, Iterable, Mapping, Sequence

Entry = Sequence[object]  # on the wire: the workers that serve visitors, and the one that validates


class Directory:
    """Names with the numbers of the workers that serve them; the head is one more number."""

    def __init__(self) -> None:
        self._visitors: dict[str, tuple[int, ...]] = {}
        self._validations: dict[str, int] = {}
        self._own: frozenset[str] = frozenset()  # of the relay, while they are validated
        self._turn = 0

    def __repr__(self) -> str:
        return f"<Directory of {len(self._visitors)} names>"

    def apply(self, entries: Mapping[str, tuple[Iterable[int], int | None]]) -> set[str]:
        """Note who serves these names now; return those that nobody serves any more."""
        lost = set()
        for name, (visitors, validator) in entries.items():
            workers = tuple(visitors)
            if workers:
                self._visitors[name] = workers
            elif self._visitors.pop(name, None) is not None:
                lost.add(name)
            if validator is None:
                self._validations.pop(name, None)
            else:
                self._validations[name] = validator
        return lost

    def expect_own(self, names: Iterable[str]) -> None:
        """Note for which of its own names the relay expects validations."""
        self._own = frozenset(names)

    def is_own(self, name: str) -> bool:
        """Say whether the head answers validations of the name."""
        return name in self._own

    def worker(self, name: str, *, challenge: bool, without: Container[int] = ()) -> int | None:
        """Return a worker that serves the name, each of them in turn; None if none does."""
        if challenge:
            validator = self._validations.get(name)
            return None if validator is None or validator in without else validator
        workers = [each for each in self._visitors.get(name, ()) if each not in without]
        if not workers:
            return None
        self._turn += 1
        return workers[self._turn % len(workers)]
