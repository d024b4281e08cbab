"""Whose bytes are parked, and who is cut."""

import weakref
from collections.abc import Callable

from tunnel.transport.parking import ParkedStream, ParkingBudget, ParkingLot


class Yard:
    """Some lots under one budget, and a note of who was cut."""

    def __init__(self, limit: int, total: int) -> None:
        self.budget = ParkingBudget(total)
        self.lot = ParkingLot(limit, self.budget)
        self.other_lot = ParkingLot(limit, self.budget)
        self.cut: list[str] = []

    def enter(self, name: str, lot: ParkingLot | None = None) -> ParkedStream:
        return (lot or self.lot).enter(self._cutter(name))

    def _cutter(self, name: str) -> Callable[[], None]:
        return lambda: self.cut.append(name)


def test_nobody_is_cut_within_the_limits() -> None:
    yard = Yard(limit=100, total=100)
    yard.lot.park(yard.enter("a"), 50)
    yard.lot.park(yard.enter("b"), 50)
    assert yard.cut == []
    assert yard.budget.used == 100


def test_the_longest_stalled_is_cut_first() -> None:
    yard = Yard(limit=100, total=1000)
    a, b = yard.enter("a"), yard.enter("b")
    yard.lot.park(a, 50)
    yard.lot.park(b, 50)
    yard.lot.park(a, 1)
    assert yard.cut == ["a"]
    assert yard.lot.used == 50


def test_who_fetches_has_stalled_least_long() -> None:
    yard = Yard(limit=100, total=1000)
    a, b = yard.enter("a"), yard.enter("b")
    yard.lot.park(a, 50)
    yard.lot.park(b, 50)
    yard.lot.fetch(a, 10)
    yard.lot.park(a, 11)
    assert yard.cut == ["b"]


def test_who_has_fetched_all_does_not_stall() -> None:
    yard = Yard(limit=100, total=1000)
    a, b = yard.enter("a"), yard.enter("b")
    yard.lot.park(a, 50)
    yard.lot.fetch(a, 50)
    yard.lot.park(b, 60)
    yard.lot.park(a, 60)
    assert yard.cut == ["b"]


def test_as_many_are_cut_as_it_takes() -> None:
    yard = Yard(limit=100, total=1000)
    for name in "abcd":
        yard.lot.park(yard.enter(name), 25)
    yard.lot.park(yard.enter("e"), 60)
    assert yard.cut == ["a", "b", "c"]
    assert yard.lot.used == 85


def test_a_stream_that_alone_is_too_much_is_cut() -> None:
    yard = Yard(limit=100, total=1000)
    yard.lot.park(yard.enter("a"), 101)
    assert yard.cut == ["a"]
    assert yard.budget.used == 0


def test_the_budget_reaches_into_other_connections() -> None:
    yard = Yard(limit=100, total=120)
    yard.other_lot.park(yard.enter("far", yard.other_lot), 90)
    yard.lot.park(yard.enter("near"), 90)
    assert yard.cut == ["far"]
    assert (yard.other_lot.used, yard.lot.used, yard.budget.used) == (0, 90, 90)


def test_who_leaves_takes_everything_along() -> None:
    yard = Yard(limit=100, total=100)
    a = yard.enter("a")
    yard.lot.park(a, 70)
    yard.lot.leave(a)
    yard.lot.leave(a)
    assert (yard.lot.used, yard.budget.used) == (0, 0)
    yard.lot.park(yard.enter("b"), 100)
    assert yard.cut == []


def test_who_has_left_is_let_go() -> None:
    class Owner:
        def cut(self) -> None: ...

    owner = Owner()
    seen = weakref.ref(owner)
    yard = Yard(limit=100, total=100)
    entry = yard.lot.enter(owner.cut)
    del owner
    yard.lot.park(entry, 1)
    assert seen() is not None
    yard.lot.leave(entry)
    assert seen() is None
