"""The budget on disk: what a restart, a crash or a full disk makes of it."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.scenes import run_in_no_time
from tunnel.errors import Refused, SettingsError
from tunnel.relay.budget import Budget, RegisteredDomains
from tunnel.relay.budget_file import WRITE_INTERVAL, BudgetFile
from tunnel.settings.values import SuffixSettings

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = ("a.t.example.org", "b.t.example.org")  # as many as there is room for


def in_no_time(scene: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on a loop whose clock jumps."""

    @wraps(scene)
    def run(*args: object, **kwargs: object) -> None:
        run_in_no_time(scene(*args, **kwargs))

    return run


def kept(path: Path, now: datetime = START) -> BudgetFile:
    domains = RegisteredDomains([SuffixSettings("t.example.org", certificates_per_week=2)])
    return BudgetFile(path, Budget(domains), lambda: now)


def use_up(file: BudgetFile) -> None:
    for name in NAMES:
        file.order(name, renewal=False)


def is_used_up(file: BudgetFile) -> bool:
    try:
        file.order("z.t.example.org", renewal=False)
    except Refused:
        return True
    return False


def versions_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list of all that is written from now on."""
    written: list[bytes] = []

    def write(target: Path, content: bytes) -> None:
        assert target == path
        written.append(content)
        target.write_bytes(content)

    monkeypatch.setattr("tunnel.relay.budget_file.write_private", write)
    return written


@in_no_time
async def test_a_restart_forgets_no_order(tmp_path: Path) -> None:
    file = kept(tmp_path / "budget.json")
    use_up(file)
    file.close()
    assert is_used_up(kept(tmp_path / "budget.json"))
    assert not is_used_up(kept(tmp_path / "budget.json", START + timedelta(days=8)))


@in_no_time
async def test_a_crash_forgets_no_order_of_a_quiet_time(tmp_path: Path) -> None:
    file = kept(tmp_path / "budget.json")
    file.order(NAMES[0], renewal=False)
    again = kept(tmp_path / "budget.json")
    again.order(NAMES[1], renewal=False)
    assert is_used_up(again)


@in_no_time
async def test_it_is_for_the_owner_alone(tmp_path: Path) -> None:
    use_up(kept(tmp_path / "budget.json"))
    assert (tmp_path / "budget.json").stat().st_mode & 0o777 == 0o600


@in_no_time
async def test_a_pool_of_connections_is_one_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = versions_of(tmp_path / "budget.json", monkeypatch)
    file = kept(tmp_path / "budget.json")
    for _ in range(100):
        file.order(NAMES[0], renewal=False)
    file.close()
    assert len(written) == 1


@in_no_time
async def test_many_orders_at_once_are_two_writings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = versions_of(tmp_path / "budget.json", monkeypatch)
    file = kept(tmp_path / "budget.json")
    for number in range(100):
        file.order(f"n{number}.example.com" if number < 40 else f"{number}.net", renewal=False)
    assert len(written) == 1
    await sleep(WRITE_INTERVAL)
    assert len(written) == 2
    assert b'"99.net"' in written[-1]
    file.close()
    assert len(written) == 2


async def sleep(seconds: float) -> None:
    """Let the clock of the loop jump."""
    loop = asyncio.get_running_loop()
    reached = loop.create_future()
    loop.call_later(seconds, reached.set_result, None)
    await reached


@in_no_time
async def test_what_was_not_written_yet_is_written_at_the_end(tmp_path: Path) -> None:
    file = kept(tmp_path / "budget.json")
    use_up(file)
    assert not is_used_up(kept(tmp_path / "budget.json"))
    file.close()
    assert is_used_up(kept(tmp_path / "budget.json"))


CORRUPT = {
    "empty": b"",
    "half": b'{"new":{"example.org":[17723',
    "no text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "something else": b'{"version": 3}',
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT)
@in_no_time
async def test_a_corrupt_file_is_set_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "budget.json"
    path.write_bytes(content)
    file = kept(path)
    assert (tmp_path / "budget.json.bad").read_bytes() == content
    assert [each.getMessage() for each in caplog.records] == ["set a corrupt budget aside"]
    file.order(NAMES[0], renewal=False)
    assert NAMES[0].encode() in path.read_bytes()


def test_a_file_that_cannot_be_read_is_the_operators_fault(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        kept(tmp_path)


@in_no_time
async def test_what_cannot_be_written_is_said_once_and_counted_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = kept(tmp_path / "missing" / "budget.json")
    file.order(NAMES[0], renewal=False)
    file.order(NAMES[1], renewal=False)
    await sleep(WRITE_INTERVAL)
    assert [each.getMessage() for each in caplog.records] == ["budget not written"]
    assert is_used_up(file)


@in_no_time
async def test_a_second_want_of_room_is_said_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state" / "budget.json"
    file = kept(path)
    file.order(NAMES[0], renewal=False)
    path.parent.mkdir()
    file.order("a.example.com", renewal=False)
    await sleep(WRITE_INTERVAL)
    path.unlink()
    path.parent.rmdir()
    file.order("b.example.com", renewal=False)
    await sleep(WRITE_INTERVAL)
    assert [each.getMessage() for each in caplog.records] == ["budget not written"] * 2


@in_no_time
async def test_a_domain_that_is_used_up_is_told_once_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [START]
    domains = RegisteredDomains([SuffixSettings("t.example.org", certificates_per_week=2)])
    file = BudgetFile(tmp_path / "budget.json", Budget(domains), lambda: now[0])
    use_up(file)
    with caplog.at_level(logging.WARNING):
        for day in (0, 0, 1, 1):
            now[0] = START + timedelta(days=day)
            assert is_used_up(file)
    told = [getattr(each, "fields", {})["cause"] for each in caplog.records]
    assert told == ["2 new certificates under example.org in 7 days already"] * 2
