"""Saying a thing once."""

from tunnel.relay.once import KEPT, Once


def test_a_thing_is_new_only_once() -> None:
    once = Once()
    assert [once.is_new("a"), once.is_new("a"), once.is_new("b")] == [True, False, True]


def test_what_was_long_not_met_is_new_again() -> None:
    once = Once()
    for number in range(KEPT + 1):
        once.is_new(number)
    assert once.is_new(0)
