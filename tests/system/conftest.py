"""What every test of the whole system may ask for; what they measured is shown at the end."""

import secrets
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.conftest import target, tunnel, world
from tests.system import services
from tests.system.container import Container
from tests.system.marks import MARK

__all__ = ["target", "tunnel", "world"]

Record = Callable[[str, float], None]


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """Have one system under systemd for all tests of a file, with both programs as services."""
    with services.installed(tmp_path_factory.mktemp("systemd")) as system:
        yield system


@pytest.fixture
def machine(debian: Container) -> Iterator[Container]:
    """Have nothing of ours left there from another test."""
    yield debian
    services.clear(debian)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what is in the environment of every process that is started from here on."""
    value = secrets.token_hex(16)
    monkeypatch.setenv(MARK, value)
    return f"{MARK}={value}"


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Return what notes a measurement, in words and as a number."""
    measured = request.node.user_properties

    def note(what: str, value: float) -> None:
        measured.append((what, value))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured, also by tests that failed for it."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call" and report.user_properties
    ]
    if reports:
        terminalreporter.section("measured")
    for report in reports:
        figures = ", ".join(f"{what} {value:.2f}" for what, value in report.user_properties)
        terminalreporter.line(f"{report.nodeid.rpartition('::')[2]}: {figures}")
