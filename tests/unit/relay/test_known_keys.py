"""The memory of ids under open access."""

import itertools
from pathlib import Path

import pytest

from tunnel.errors import Code, Refused, SettingsError
from tunnel.relay.known_keys import OUTDATED_KEPT, RECENT_DAYS, KnownKeys

ALICE, BOB = b"a" * 32, b"b" * 32


def test_a_second_key_with_the_same_id_is_refused(tmp_path: Path) -> None:
    known = KnownKeys(tmp_path / "known")
    known.claim("ab", ALICE)
    with pytest.raises(Refused) as caught:
        known.claim("ab", BOB)
    assert caught.value.code is Code.NAME_TAKEN


def test_a_restart_forgets_nobody(tmp_path: Path) -> None:
    KnownKeys(tmp_path / "known").claim("ab", ALICE)
    with pytest.raises(Refused):
        KnownKeys(tmp_path / "known").claim("ab", BOB)


def test_the_same_key_may_come_again(tmp_path: Path) -> None:
    known = KnownKeys(tmp_path / "known")
    for _ in range(3):
        known.claim("ab", ALICE)
    assert len((tmp_path / "known").read_text().splitlines()) == 1


def test_a_memory_full_of_recent_keys_is_busy(tmp_path: Path) -> None:
    known = KnownKeys(tmp_path / "known", keep=1)
    known.claim("ab", ALICE)
    with pytest.raises(Refused) as caught:
        known.claim("cd", BOB)
    assert caught.value.code is Code.BUSY


def test_the_key_not_seen_for_longest_makes_room(tmp_path: Path) -> None:
    day = [0]
    known = KnownKeys(tmp_path / "known", keep=1, day=lambda: day[0])
    known.claim("ab", ALICE)
    day[0] = RECENT_DAYS
    known.claim("cd", BOB)
    known.claim("cd", BOB)
    assert len(known) == 1


def test_a_line_cut_short_by_a_crash_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "known"
    KnownKeys(path).claim("ab", ALICE)
    with path.open("a") as journal:
        journal.write("cd 6262")
    with pytest.raises(Refused):
        KnownKeys(path).claim("ab", BOB)


def test_a_key_that_follows_a_line_cut_short_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "known"
    path.write_text("cd 6262")
    KnownKeys(path).claim("ab", ALICE)
    with pytest.raises(Refused):
        KnownKeys(path).claim("ab", BOB)


def test_the_journal_does_not_grow_while_the_relay_runs(tmp_path: Path) -> None:
    path, days = tmp_path / "known", itertools.count()
    known = KnownKeys(path, day=lambda: next(days))  # no two looks fall on one day
    for _ in range(OUTDATED_KEPT + 10):
        known.claim("ab", ALICE)
    assert len(path.read_text().splitlines()) < 10


def test_a_journal_that_cannot_be_read_is_the_operators_fault(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        KnownKeys(tmp_path)


def test_the_journal_is_compacted_at_start(tmp_path: Path) -> None:
    path, day = tmp_path / "known", [0]
    known = KnownKeys(path, day=lambda: day[0])
    for _ in range(5):
        day[0] += 1
        known.claim("ab", ALICE)
    KnownKeys(path)
    assert path.read_text() == f"ab {ALICE.hex()} 5\n"
