"""Which door takes whom: agents, public and shared listeners, balancers, crowds."""

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.integration.clients import ScriptedClient, dial
from tests.integration.conftest import Run
from tests.integration.forwarders import balancer
from tests.integration.hellos import hello
from tests.integration.stage import LOOPBACK, Stage, listener, on_stage, relay_settings
from tests.integration.visitors import AT_ONCE, UNRECOGNIZED_NAME, Visitor, answer_to, visiting
from tests.ports import free_port
from tunnel.errors import ConnectionLost, DialFailed
from tunnel.protocol.hello import UNEXPECTED_MESSAGE, alert
from tunnel.protocol.messages import StreamHeader, Welcome
from tunnel.protocol.proxy import V2_SIGNATURE, encode_proxy_v1, encode_proxy_v2
from tunnel.relay.agents import UNREGISTERED_PER_ADDRESS_FACTOR
from tunnel.settings.values import RelayLimits, RelaySettings, RelayTimeouts
from tunnel.stream import Address
from tunnel.tls.identity import generate

ROOT = Path(__file__).parents[2]
SOURCE, DESTINATION = Address("203.0.113.7", 4711), Address("198.51.100.1", 443)
BALANCER, STRANGER = "127.0.0.1", "127.0.0.2"
HEADERS = {
    "v1": encode_proxy_v1(SOURCE, DESTINATION),
    "v2": encode_proxy_v2(SOURCE, DESTINATION),
}


def test_a_port_for_agents_refuses_visitors(run_on_each: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve()
            assert await answer_to(stage.agents, hello(client.name)) == UNRECOGNIZED_NAME
            validation = hello(client.name, ("acme-tls/1",))
            assert await answer_to(stage.agents, validation) == UNRECOGNIZED_NAME

    run_on_each(body())


def test_a_port_for_visitors_takes_no_agents(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            agent = hello("relay.test", ("tunnel-h2/1",))
            assert await answer_to(stage.public, agent) == UNRECOGNIZED_NAME

    run(body())


def test_a_shared_port_serves_both(transport: str, run_on_each: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path, listeners=[listener("shared")])) as stage:
            client = await stage.serve(transport)
            assert await header_of(client, stage.agents) is not None

    run_on_each(body())


def test_an_agents_port_without_h2_takes_no_agents_by_tcp(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        doors = [listener("shared", transports=("quic",))]
        async with on_stage(relay_settings(tmp_path, listeners=doors)) as stage:
            agent = hello("relay.test", ("tunnel-h2/1",))
            assert await answer_to(stage.agents, agent) == UNRECOGNIZED_NAME
            assert await header_of(await stage.serve("quic"), stage.agents) is not None

    run(body())


async def header_of(
    client: ScriptedClient, address: Address, before: bytes = b"", source: str = LOOPBACK
) -> StreamHeader:
    """Return the header with which a visitor's stream comes, after checking its first bytes."""
    first = hello(client.name)
    async with visiting(address, before + first, source):
        call = await client.take()
        assert await call.hear(len(first)) == first
        return call.header


# Balancers


def behind_balancer(folder: Path, **changes: object) -> RelaySettings:
    """Return settings whose public listener trusts one balancer."""
    doors = [
        listener("agents"),
        listener("public", proxy_protocol_from=(ip_network(f"{BALANCER}/32"),)),
    ]
    return relay_settings(folder, listeners=doors, **changes)


@pytest.mark.parametrize("version", HEADERS)
def test_the_address_that_a_balancer_reports_goes_to_the_client(
    version: str, run_on_each: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(behind_balancer(tmp_path)) as stage:
            client = await stage.serve()
            header = await header_of(client, stage.public, HEADERS[version])
            assert (header.peer, header.local) == (SOURCE, DESTINATION)

    run_on_each(body())


def test_a_client_behind_a_balancer_is_known_by_its_own_address(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        trusted = (ip_network(f"{BALANCER}/32"),)
        doors = [listener("shared", transports=("h2",), proxy_protocol_from=trusted)]
        settings = relay_settings(tmp_path, listeners=doors)
        async with on_stage(settings) as stage, balancer(stage.agents, HEADERS["v1"]) as way:
            client = await dial("h2", way, stage.pin, identity=generate())
            stage.clients.append(client)
            answer = await client.register()
            assert isinstance(answer, Welcome)
            assert answer.observed == SOURCE

    run(body())


def test_a_balancer_that_speaks_for_itself_is_who_it_is(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(behind_balancer(tmp_path)) as stage:
            client = await stage.serve()
            local = V2_SIGNATURE + b"\x20\x00\x00\x00"
            header = await header_of(client, stage.public, local)
            assert header.peer[0] == BALANCER

    run(body())


def test_without_its_header_a_balancer_is_turned_away(run_on_each: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(behind_balancer(tmp_path)) as stage:
            client = await stage.serve()
            async with (
                asyncio.timeout(AT_ONCE),
                visiting(stage.public, hello(client.name)) as visitor,
            ):
                await visitor.ended()
            assert await header_of(client, stage.public, HEADERS["v1"]) is not None

    run_on_each(body())


@pytest.mark.parametrize("version", HEADERS)
def test_a_header_from_anybody_else_is_refused(version: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(behind_balancer(tmp_path)) as stage:
            client = await stage.serve()
            said = HEADERS[version] + hello(client.name)
            async with asyncio.timeout(AT_ONCE), visiting(stage.public, said, STRANGER) as visitor:
                assert await visitor.hear_all() == alert(UNEXPECTED_MESSAGE)
            header = await header_of(client, stage.public, source=STRANGER)
            assert header.peer[0] == STRANGER

    run(body())


# Crowds


async def is_served(visitor: Visitor, client: ScriptedClient) -> None:
    call = await client.take()
    await call.stream.send(b"served")
    assert await visitor.hear(6) == b"served"


def test_an_address_has_only_so_many_visitors(run_on_each: Run, tmp_path: Path) -> None:
    async def body() -> None:
        settings = relay_settings(tmp_path, limits=RelayLimits(visitors_per_address=2))
        async with on_stage(settings) as stage, AsyncExitStack() as guests:
            client = await stage.serve()
            first = hello(client.name)
            for _ in range(2):
                guest = await guests.enter_async_context(visiting(stage.public, first))
                await is_served(guest, client)
            async with asyncio.timeout(AT_ONCE), visiting(stage.public, first) as third:
                await third.ended()
            async with visiting(stage.public, first, STRANGER) as neighbour:
                await is_served(neighbour, client)
            guest.reset()
            await served_in_the_end(stage, client)

    run_on_each(body())


async def served_in_the_end(stage: Stage, client: ScriptedClient) -> None:
    """Try until the relay has noticed that a place is free."""
    while True:
        async with visiting(stage.public, hello(client.name)) as visitor:
            async with asyncio.TaskGroup() as group:
                ended = group.create_task(visitor.ended())
                taken = group.create_task(client.take())
                await asyncio.wait((ended, taken), return_when=asyncio.FIRST_COMPLETED)
                is_taken = taken.done()
                ended.cancel()
                taken.cancel()
            if is_taken:
                return


def test_visitors_behind_a_balancer_are_counted_by_their_own_address(
    run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        settings = behind_balancer(tmp_path, limits=RelayLimits(visitors_per_address=1))
        async with on_stage(settings) as stage, AsyncExitStack() as guests:
            client = await stage.serve()
            for number in range(3):
                source = encode_proxy_v1(Address(f"203.0.113.{number}", 1), DESTINATION)
                coming = visiting(stage.public, source + hello(client.name))
                await is_served(await guests.enter_async_context(coming), client)
            again = encode_proxy_v1(Address("203.0.113.0", 2), DESTINATION)
            async with asyncio.timeout(AT_ONCE), visiting(stage.public, again) as visitor:
                await visitor.ended()

    run(body())


def test_an_address_has_only_so_many_registrations_under_way(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        settings = relay_settings(
            tmp_path, limits=RelayLimits(half_open=1), timeouts=RelayTimeouts(register=3)
        )
        async with on_stage(settings) as stage:
            waiting = [await stage.dial(transport) for _ in range(UNREGISTERED_PER_ADDRESS_FACTOR)]
            for client in waiting:
                await client.greet()
            with pytest.raises((DialFailed, ConnectionLost)):
                await (await stage.dial(transport)).greet()
            waiting[0].connection.close()
            await welcomed_in_the_end(stage, transport)

    run(body())


async def welcomed_in_the_end(stage: Stage, transport: str) -> None:
    """Try until the relay has noticed that a place is free."""
    while True:
        with suppress(DialFailed, ConnectionLost):
            await stage.register(transport)
            return


# Descriptors

RELAY_TOML = """
[relay]
name = "relay.test"
state_dir = "{folder}/state"
[listeners.agents]
kind = "agents"
listen = ["127.0.0.1:{agents}"]
[listeners.public]
kind = "public"
listen = ["127.0.0.1:{public}"]
[suffixes."t.test"]
access = "open"
"""


@contextmanager
def relay_process(folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Address, Path]]:
    """Run the relay program; yield its process, its public address and its log."""
    public = free_port()
    settings, log = folder / "relay.toml", folder / "relay.log"
    settings.write_text(RELAY_TOML.format(folder=folder, agents=free_port(), public=public))
    command = [sys.executable, "-m", "tunnel.relay", "-c", str(settings)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, cwd=folder, env=environment
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"Client: "), log.read_text()
            yield process, Address(LOOPBACK, public), log
        finally:
            process.terminate()
            assert process.wait(20) == 0


def test_want_of_descriptors_does_not_end_accepting(run: Run, tmp_path: Path) -> None:
    async def body(pid: int, public: Address) -> None:
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))  # fewer than are open
        async with visiting(public, hello("nobody.example")) as visitor:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await visitor.hear_all()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert await answer_to(public, hello("nobody.example")) == UNRECOGNIZED_NAME

    with relay_process(tmp_path) as (process, public, log):
        run(body(process.pid, public))
        assert process.poll() is None
        assert len(log.read_text().splitlines()) < 20


def test_more_visitors_than_descriptors_are_survived(run: Run, tmp_path: Path) -> None:
    async def body(pid: int, public: Address) -> None:
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (40, hard))
        async with AsyncExitStack() as crowd:
            for _ in range(100):
                await crowd.enter_async_context(visiting(public))
        assert await answer_to(public, hello("nobody.example")) == UNRECOGNIZED_NAME

    with relay_process(tmp_path) as (process, public, _):
        run(body(process.pid, public))
        assert process.poll() is None
