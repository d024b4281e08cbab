"""What the client prints on a terminal, and what to anything else."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.world import ROOT, START_TIMEOUT, Client, World, program

pytestmark = pytest.mark.timeout(60)  # a program that does not start says so after 20 s

PAIR = r"ID: ([0-9a-f]{32})\r?\nURL: https://\1\.t\.test:\d+\r?\n"


@pytest.fixture
def client(world: World, target: str) -> Client:
    """Return a client that has served, on no terminal, and has ended."""
    client = world.client(world.relay(), target=target)
    client.process.wait_for("URL: .*\n")
    assert client.process.stop() == 0
    return client


@contextmanager
def on_a_terminal(client: Client, *flags: str) -> Iterator[int]:
    """Run the client again with a terminal as its standard output; yield the terminal's end."""
    end, terminal = pty.openpty()
    with client.process.log.open("ab") as log, os.fdopen(end, "rb", buffering=0):
        process = subprocess.Popen(
            [*program("client"), "-c", str(client.settings), *flags],
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=log,
            cwd=client.settings.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "PYTHONUTF8": "1"},
        )
        os.close(terminal)
        try:
            yield end
            process.send_signal(signal.SIGINT)
            assert process.wait(START_TIMEOUT) == 0
        finally:
            process.kill()
            process.wait()


def read_until(end: int, pattern: str) -> str:
    """Return what the terminal shows as soon as the pattern is in it."""
    shown = b""
    deadline = time.monotonic() + START_TIMEOUT
    while not re.search(pattern, shown.decode(errors="ignore")):
        ready, _, _ = select.select([end], [], [], deadline - time.monotonic())
        assert ready, shown
        shown += os.read(end, 1 << 16)
    return shown.decode()


def test_a_program_reads_an_id_and_a_url_and_nothing_else(client: Client) -> None:
    assert re.fullmatch(PAIR, client.process.printed())


def test_a_person_reads_where_visitors_go_and_how_to_stop(client: Client, target: str) -> None:
    with on_a_terminal(client) as end:
        shown = read_until(end, "stop\r\n")
    assert re.fullmatch(rf"{PAIR}Forwarding to {target}; Ctrl-C to stop\r\n", shown)


def test_a_person_who_asks_sees_a_code(client: Client) -> None:
    with on_a_terminal(client, "--qr") as end:
        shown = read_until(end, "stop\r\n([\u2580\u2584\u2588 ]{37,}\r\n){19}")  # version 3
    assert re.match(PAIR, shown)


def test_a_code_is_not_drawn_for_a_program(client: Client, world: World) -> None:
    process = world.run("client", client.settings, client.name, "--qr")
    process.wait_for("URL: .*\n")
    assert process.stop() == 0
    assert re.fullmatch(PAIR, process.printed())
    assert "--qr is ignored: standard output is no terminal" in process.logged()
