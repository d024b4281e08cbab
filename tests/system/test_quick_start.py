"""The two commands of a first try, word for word, on a machine of their own."""

import secrets
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.targets import pages
from tests.e2e.visitors import get
from tests.e2e.world import Client, Relay, World
from tests.system.network import inside

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

AGENTS_PORT, PUBLIC_PORT, SERVICE_PORT = 4433, 8443, 3000  # as the README and --help say


@pytest.fixture(autouse=True)
def own_machine() -> Iterator[None]:
    """Have a test in a network namespace whose ports are all free."""
    name = f"quick-{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        with inside(name):
            yield
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_a_relay_alone_prints_the_line_that_makes_a_client_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(world.folder))
    process = world.start("relay", "relay")
    relay = Relay(world, "relay", world.folder, AGENTS_PORT, PUBLIC_PORT, process)
    program, *arguments = shlex.split(process.wait_for("Client: (.+)")[1])
    assert program == "client.pyz"
    with pages(SERVICE_PORT):
        started = world.start("client", "client", *arguments)
        state = world.folder / "tunnel-client"
        client = Client(world, "client", world.folder, state, started)
        assert get(relay, client).status == 200
    assert client.urls == [f"https://{client.host}:{PUBLIC_PORT}"]
    assert (world.folder / "client.key").stat().st_mode & 0o777 == 0o600
