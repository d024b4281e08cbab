"""The zipapps on every Python that is here, and on Debian 12 and 13 as they are installed."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.pythons import ACME, ENGINES, pythons, supported
from tests.e2e.targets import pages
from tests.e2e.visitors import get
from tests.e2e.world import Process, World
from tests.system.debian import PYTHONS, debian_root, entering
from tunnel import __version__

DIST = Path(__file__).resolve().parents[2] / "dist"

pytestmark = [pytest.mark.system, pytest.mark.timeout(700)]  # a first run makes the roots


@dataclass
class Place(World):
    """A world whose programs run on one Python, found by `launch`, from copies in its folder."""

    launch: Sequence[str] = ()

    def command(self, *arguments: str) -> list[str]:
        """Return what runs that Python, with no more than it has to know."""
        known = {"PATH": f"{os.defpath}:/usr/sbin:/sbin", "SHIV_ROOT": str(self.folder / "cache")}
        environment = [f"{name}={value}" for name, value in known.items()]
        return ["env", "-i", *environment, *self.launch, "-I", *arguments]

    def start(self, what: str, name: str, *arguments: str) -> Process:
        command = self.command(str(self.folder / f"{what}.pyz"), *arguments)
        process = Process(command, self.folder, name)
        self.processes.append(process)
        return process

    def ran(self, *arguments: str) -> str:
        """Return what that Python prints."""
        command = self.command(*arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def launchers() -> dict[str, str]:
    """Return the places by name: a Python's path, or the Debian whose own it is."""
    here = {f"3.{minor}": pythons()[minor] for minor in supported()}
    return here | dict.fromkeys(PYTHONS, "/usr/bin/python3")


@pytest.fixture(scope="module", params=launchers())
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """Return a place with both zipapps."""
    folder = tmp_path_factory.mktemp("place")
    for archive in ("relay.pyz", "client.pyz"):
        shutil.copy(DIST / archive, folder)
    launch = [launchers()[request.param]]
    if request.param in PYTHONS:
        launch = [*entering(debian_root(request.param, "python3"), folder), *launch]
    made = Place(folder, launch=launch)
    try:
        yield made
        made.report()
    finally:
        made.end()


def test_it_says_its_version(place: Place) -> None:
    for what in ("relay", "client"):
        assert __version__ in place.ran(f"{place.folder}/{what}.pyz", "--version")


def test_every_library_loads(place: Place) -> None:
    place.ran(f"{place.folder}/relay.pyz", "--version")
    [copy] = (place.folder / "cache").glob("quic-tunnel-*")
    code = f"import sys; sys.path.insert(0, {str(copy)!r}); import {ENGINES}, {ACME}; print('all')"
    assert place.ran("-c", code) == "all\n"


@pytest.mark.parametrize("transport", ["quic", "h2"])
def test_a_page_comes_through(transport: str, place: Place) -> None:
    with pages() as target:
        relay = place.relay(f"relay-{transport}")
        options = f'transport = "{transport}"'
        client = place.client(relay, name=f"client-{transport}", target=target, options=options)
        assert get(relay, client).status == 200
        assert (client.process.stop(), relay.process.stop()) == (0, 0)


@pytest.mark.parametrize(("suite", "minor"), PYTHONS.items())
def test_a_debian_has_the_python_that_it_stands_for(suite: str, minor: int, tmp_path: Path) -> None:
    command = [*entering(debian_root(suite, "python3"), tmp_path), "/usr/bin/python3"]
    code = "import sys; print(sys.version_info[1])"
    asked = subprocess.run([*command, "-Ic", code], check=True, capture_output=True)
    assert int(asked.stdout) == minor
