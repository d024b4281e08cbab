"""Which worker serves which name, as the head has told."""

from tunnel.relay.workers.directory import Directory

NAME = "a.t.test"


def test_nobody_is_known_before_anything_was_told() -> None:
    assert Directory().worker(NAME, challenge=False) is None


def test_workers_that_serve_a_name_take_turns() -> None:
    directory = Directory()
    directory.apply({NAME: ([0, 2], None)})
    assert {directory.worker(NAME, challenge=False) for _ in range(4)} == {0, 2}


def test_whoever_asks_is_not_sent_to_itself() -> None:
    directory = Directory()
    directory.apply({NAME: ([0, 2], 2)})
    assert directory.worker(NAME, challenge=False, without=(0,)) == 2
    assert directory.worker(NAME, challenge=False, without=(0, 2)) is None
    assert directory.worker(NAME, challenge=True, without=(2,)) is None


def test_validations_go_to_the_one_that_waits_for_them() -> None:
    directory = Directory()
    directory.apply({NAME: ([0], 1)})
    assert directory.worker(NAME, challenge=True) == 1
    assert directory.worker(NAME, challenge=False) == 0


def test_a_name_that_nobody_serves_any_more_is_lost_once() -> None:
    directory = Directory()
    directory.apply({NAME: ([0], None)})
    assert directory.apply({NAME: ([], None)}) == {NAME}
    assert directory.apply({NAME: ([], None)}) == set()
    assert repr(directory) == "<Directory of 0 names>"


def test_names_of_the_relays_own_are_those_told_last() -> None:
    directory = Directory()
    directory.expect_own(["relay.test"])
    assert directory.is_own("relay.test")
    directory.expect_own([])
    assert not directory.is_own("relay.test")
