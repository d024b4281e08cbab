"""A relay whose sockets somebody else has bound and keeps, as systemd does."""

import asyncio
import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.clients import dial
from tests.integration.conftest import Run
from tests.integration.hellos import hello
from tests.integration.stage import LOOPBACK, on_stage, relay_settings
from tests.integration.visitors import UNRECOGNIZED_NAME, answer_to, visiting
from tests.ports import free_port
from tunnel.errors import ListenFailed
from tunnel.protocol.messages import Welcome
from tunnel.relay.server import Opening, Relay
from tunnel.runtime.activation import InheritedSockets
from tunnel.settings.values import InheritedAddress, ListenerSettings, RelaySettings
from tunnel.stream import Address
from tunnel.tls.identity import generate


class Keeper:
    """Binds two ports, and lends the sockets to one relay after another."""

    def __init__(self, host: str = LOOPBACK) -> None:
        self.agents, self.public = (InheritedAddress(host, free_port()) for _ in range(2))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sockets = [
            socket.create_server(place, family=family, dualstack_ipv6=":" in host)
            for place in (self.agents, self.public)
        ]
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        if ":" in host:
            datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        datagrams.bind(self.agents)
        self.sockets.append(datagrams)

    def settings(self, folder: Path) -> RelaySettings:
        """Return settings of a relay that listens there."""
        agents = ListenerSettings("agents", "agents", (self.agents,))
        public = ListenerSettings("public", "public", (self.public,))
        return relay_settings(folder, listeners=[agents, public])

    def passed(self) -> InheritedSockets:
        """Return what a process gets: descriptors of its own."""
        return InheritedSockets([sock.dup() for sock in self.sockets])

    def close(self) -> None:
        """Let go of all sockets."""
        for sock in self.sockets:
            sock.close()


def test_clients_and_visitors_come_over_inherited_sockets(
    transport: str, run_on_each: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        with closing(Keeper()) as keeper, closing(keeper.passed()) as passed:
            async with on_stage(keeper.settings(tmp_path), inherited=passed) as stage:
                client = await stage.serve(transport)
                async with visiting(stage.public, hello(client.name)):
                    call = await client.take()
                    assert call.header.name == client.name

    run_on_each(body())


def test_whoever_comes_over_ipv4_to_a_socket_for_both_is_known_by_that_address(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        with closing(Keeper("::")) as keeper, closing(keeper.passed()) as passed:
            async with on_stage(keeper.settings(tmp_path), inherited=passed) as stage:
                address = Address(LOOPBACK, keeper.agents.port)
                client = await dial(transport, address, stage.pin, generate())
                with closing(client.connection):
                    welcome = await client.register()
                    assert isinstance(welcome, Welcome)
                    assert Address(*welcome.observed).host == LOOPBACK

    run(body())


def test_whoever_connects_between_two_relays_is_answered_by_the_second(
    run_on_each: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        with closing(Keeper()) as keeper:
            settings = keeper.settings(tmp_path)
            with closing(keeper.passed()) as passed:
                async with on_stage(settings, inherited=passed):
                    pass
            async with visiting(keeper.public, hello("a.test")) as visitor:
                with closing(keeper.passed()) as passed:
                    async with on_stage(settings, inherited=passed):
                        assert await visitor.hear_all() == UNRECOGNIZED_NAME

    run_on_each(body())


def test_a_socket_that_was_not_passed_is_told_with_its_listener(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        with closing(Keeper()) as keeper:
            passed = InheritedSockets([sock.dup() for sock in keeper.sockets[1:]])
            relay = Relay(keeper.settings(tmp_path), inherited=passed)
            with closing(passed), pytest.raises(ListenFailed) as failed:
                await relay.run(asyncio.Event())
            assert str(failed.value) == (
                f"listeners.agents: no socket for tcp {Address(*keeper.agents)} came from systemd, "
                f"which passed tcp {Address(*keeper.public)}, udp {Address(*keeper.agents)}"
            )

    run(body())


def test_without_systemd_no_socket_is_there(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        with closing(Keeper()) as keeper, pytest.raises(ListenFailed, match="no socket at all"):
            await Relay(keeper.settings(tmp_path)).run(asyncio.Event())

    run(body())


class Faulty(InheritedSockets):
    """Sockets of which nothing can be told."""

    def warn_of_unwanted(self) -> None:
        raise ZeroDivisionError


def test_a_fault_at_the_start_leaves_nothing_open(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        settings = relay_settings(tmp_path)
        relay = Relay(settings, inherited=Faulty())
        with pytest.raises(ZeroDivisionError):
            await relay.run(asyncio.Event())
        assert relay.view is None
        async with on_stage(settings):  # on the same addresses
            pass

    run(body())


def test_a_relay_that_has_ended_shows_nothing(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        stop = asyncio.Event()
        seen: list[object] = []

        def opened(_: Opening) -> None:
            seen.append(relay.view)
            stop.set()

        relay = Relay(relay_settings(tmp_path), on_open=opened)
        await relay.run(stop)
        assert seen != [None]
        assert relay.view is None

    run(body())


def test_an_unwanted_socket_serves_nobody_and_does_no_harm(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        with closing(Keeper()) as keeper, closing(keeper.passed()) as passed:
            settings = relay_settings(tmp_path)
            async with on_stage(settings, inherited=passed) as stage:
                assert await answer_to(stage.public, hello("a.test")) == UNRECOGNIZED_NAME

    run(body())
