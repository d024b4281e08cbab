"""Looking after certificate files: what is installed, when, and what is said of it."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.client.scenes import now, run_in_no_time
from tests.unit.tls.wire import CERTIFICATE
from tunnel.errors import SettingsError
from tunnel.runtime.watching import INTERVAL, watch
from tunnel.tls.slots import Certificate
from tunnel.tls.watching import WatchedFiles

Look = Callable[[], Certificate | None]


class Scripted(WatchedFiles):
    """Files of which each look shows the next of `shown`; a text is a fault."""

    def __init__(self, *shown: Certificate | str | None) -> None:
        super().__init__(Path("chain.pem"), Path("key.pem"))
        self.shown = list(shown)
        self.looked_at: list[float] = []
        self.seen_all = asyncio.Event()

    def changed(self) -> Certificate | None:
        self.looked_at.append(now())
        if not self.shown:
            self.seen_all.set()
            return None
        shown = self.shown.pop(0)
        if isinstance(shown, str):
            raise SettingsError([shown])
        return shown


def watched(files: Scripted) -> list[Certificate]:
    """Return what is installed while all that the files show is looked at."""
    installed: list[Certificate] = []

    async def scene() -> None:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch(files, installed.append))
            await files.seen_all.wait()
            watching.cancel()

    run_in_no_time(scene())
    return installed


def test_what_is_new_is_installed_and_nothing_else() -> None:
    assert watched(Scripted(None, CERTIFICATE, None)) == [CERTIFICATE]


def test_it_looks_often_enough_to_swap_within_a_minute() -> None:
    files = Scripted(None, None)
    watched(files)
    assert files.looked_at == [1000 + INTERVAL, 1000 + 2 * INTERVAL, 1000 + 3 * INTERVAL]
    assert INTERVAL <= 30


def test_a_new_certificate_is_told_with_its_leaf_and_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        watched(Scripted(CERTIFICATE))
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("INFO", "certificate replaced")
    assert getattr(record, "fields", None) == {
        "leaf": f"sha256:{CERTIFICATE.leaf_hash.hex()}",
        "not_after": f"{CERTIFICATE.not_after:%Y-%m-%dT%H:%M:%SZ}",
    }


def causes(caplog: pytest.LogCaptureFixture) -> list[str]:
    warnings = [each for each in caplog.records if each.levelname == "WARNING"]
    return [str(getattr(each, "fields", {})["cause"]) for each in warnings]


def test_each_fault_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    assert watched(Scripted("a", "a", "b", "a", "b")) == []
    assert causes(caplog) == ["a", "b"]


def test_a_fault_does_not_end_the_watch() -> None:
    assert watched(Scripted("a", CERTIFICATE)) == [CERTIFICATE]


def test_a_fault_that_comes_back_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    watched(Scripted("a", CERTIFICATE, "a", None, "a"))
    assert causes(caplog) == ["a", "a", "a"]
