"""The demonstration with an authority: ended at any moment, and where there is no authority."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.world import ROOT, Process
from tests.system.marks import marked

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

START_TIMEOUT = 150.0  # seconds; the zipapps may have to be built first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "moment",
    ["authority: ", "relay's pin, self-signed", "relay's pin, certified", "fetched .* over quic"],
)
def test_nothing_is_left_running(
    tmp_path: Path, mark: str, moment: str, number: signal.Signals
) -> None:
    demo = Process([str(ROOT / "scripts/demo"), "--acme"], tmp_path, "demo")
    demo.wait_for(moment, START_TIMEOUT)
    assert any("pebble" in command for command in marked(mark))
    demo.signal(number)
    assert demo.wait() == 130
    assert list(marked(mark)) == []
    assert "Traceback" not in demo.logged()


def test_a_machine_without_an_authority_is_told_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.demonstration", "--acme"]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == "demo: --acme needs pebble, a small authority: apt-get install pebble\n"
