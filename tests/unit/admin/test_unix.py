"""The control socket's listener, where the system lets it down."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from tests.unit.client.scenes import run_in_no_time
from tunnel.admin import unix
from tunnel.admin.unix import UnixListener, listen_unix
from tunnel.errors import ListenFailed


def test_accepting_that_fails_is_told_once_and_tried_ever_more_seldom(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "admin.sock"

    async def scene() -> None:
        with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as caller:
            sock.setblocking(False)
            sock.bind(str(path))
            listener = UnixListener(sock, path, path.stat().st_ino)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(10.0):
                    await listener.accept()  # EINVAL: it does not listen yet
            assert listener.failures == 14  # 1.55 s from the first to the sixth, then 1 s each
            sock.listen()
            caller.connect(str(path))
            (await listener.accept()).close()

    run_in_no_time(scene())
    told = [each for each in caplog.records if each.name.startswith("tunnel.admin")]
    assert [each.levelname for each in told if each.levelname != "DEBUG"] == ["WARNING"]


def test_a_listener_that_cannot_be_made_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise OSError("no more")

    monkeypatch.setattr(unix, "UnixListener", fail)
    with pytest.raises(ListenFailed, match="cannot listen there: no more"):
        listen_unix(tmp_path / "admin.sock")
    assert os.listdir(tmp_path) == []
