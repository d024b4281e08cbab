"""A client whose settings change while it serves: what is replaced, and what is not touched."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.unit.client.scenes import (
    EchoTarget,
    FakeRelay,
    RelayEnd,
    Scene,
    client_settings,
    now,
    play,
    read_all,
    run_in_no_time,
)
from tunnel.client import Client
from tunnel.client.events import Serving
from tunnel.client.sessions import HANDOVER_TIMEOUT, RETIRED_MAX
from tunnel.errors import Code, SettingsError, StreamReset
from tunnel.runtime.supervision import Crowd
from tunnel.settings.reload import ReloadPlan
from tunnel.settings.values import (
    ClientLimits,
    ClientSettings,
    ClientTimeouts,
    FlowSettings,
    KeypairSettings,
    ServerSettings,
    Target,
)
from tunnel.stream import Address, Connection, Stream

T = TypeVar("T")
Change = Callable[[ClientSettings], ClientSettings]
Script = Callable[["World"], Coroutine[Any, Any, T]]


@dataclass(eq=False)
class World:
    """A client between two relays and two targets."""

    client: Client
    relays: dict[str, FakeRelay]
    targets: dict[str, EchoTarget]

    @property
    def eu(self) -> FakeRelay:
        return self.relays["eu"]

    @property
    def us(self) -> FakeRelay:
        return self.relays["us"]

    @property
    def name(self) -> str:
        return self.client.info()[0].names[0]

    async def reload(self, change: Change) -> ReloadPlan:
        return await self.client.reload(change(self.client.settings))

    async def until(self, is_true: Callable[[], object]) -> None:
        await self.eu.until(is_true)

    async def visit(self, end: RelayEnd | None = None) -> "Visit":
        """Return a visitor to whom the target has answered once."""
        end = end or self.eu.live()[-1]
        visit = Visit(await end.open_visitor(self.name))
        assert await visit.echo(b"first") == b"first"
        return visit


@dataclass
class Visit:
    """A visitor of an echoing target."""

    stream: Stream

    async def echo(self, data: bytes) -> bytes:
        await self.stream.send(data)
        return await self.stream.receive()

    async def end(self) -> bytes:
        await self.stream.finish()
        return await read_all(self.stream)


def run(folder: Path, script: Script[T], change: Change = lambda settings: settings) -> T:
    """Run a client of the relay `eu` with one endpoint, and `script` once it serves."""
    return run_in_no_time(_run(folder, script, change))


async def _run(folder: Path, script: Script[T], change: Change) -> T:
    news = asyncio.Event()
    async with (
        Crowd("fake relays") as crowd,
        EchoTarget(folder / "one.sock") as one,
        EchoTarget(folder / "two.sock") as two,
    ):
        relays = {name: FakeRelay(crowd, changed=news) for name in ("eu", "us")}
        numbered = {"192.0.2.1": relays["eu"], "192.0.2.2": relays["us"]}

        async def dial(word: str, address: Address, *rest: Any) -> Connection:
            return await numbered[address.host].dialers[word](address, *rest)  # type: ignore[no-any-return]  # of the scripted relays

        dialers = {word: partial(dial, word) for word in ("quic", "h2")}
        settings = change(client_settings(folder, target=Target(path=one.path)))
        client = Client(settings, dialers=dialers, on_event=lambda _: news.set())
        async with asyncio.TaskGroup() as group:
            running = group.create_task(client.run(), name="client")
            world = World(client, relays, {"one": one, "two": two})
            await world.until(lambda: relays["eu"].live() and client.info()[0].servers[0].names)
            result = await script(world)
            client.stop()
            await running
        crowd.cancel()
        return result


def with_web(**changes: Any) -> Change:
    """Change keys of the endpoint."""
    return lambda old: replace(
        old, endpoints={**old.endpoints, "web": replace(old.endpoints["web"], **changes)}
    )


def with_server(name: str = "eu", **changes: Any) -> Change:
    """Change keys of a server."""
    return lambda old: replace(
        old, servers={**old.servers, name: replace(old.servers[name], **changes)}
    )


def with_us(old: ClientSettings) -> ClientSettings:
    """Add a second relay, for all endpoints."""
    us = ServerSettings("us", Address("192.0.2.2", 4433), "us.test")
    both = with_web(servers=("eu", "us"))(old)
    return replace(both, servers={**old.servers, "us": us})


def without_us(old: ClientSettings) -> ClientSettings:
    """Take the second relay away again."""
    return with_web(servers=("eu",))(replace(old, servers={"eu": old.servers["eu"]}))


# -- nothing


def test_settings_that_say_the_same_change_nothing(tmp_path: Path) -> None:
    async def script(world: World) -> tuple[ReloadPlan, int]:
        visit = await world.visit()
        plan = await world.reload(replace)
        assert await visit.echo(b"again") == b"again"
        return plan, len(world.eu.dials)

    assert run(tmp_path, script) == (ReloadPlan(), 1)


# -- what goes on with the same connections

SAME_CONNECTION: dict[str, Change] = {
    "alpn": with_web(alpn=("h2", "http/1.1")),
    "allow": with_web(allow=(ip_network("203.0.113.0/24"),)),
    "certificate": with_web(certificate="self-signed"),
    "proxy header": with_web(proxy_protocol="v1"),
    "a relay more": with_us,
    "deadlines": lambda old: replace(old, timeouts=ClientTimeouts(1.0, 2.0, 3.0)),
    "flow": lambda old: replace(old, flow=FlowSettings(stream_window=65536)),
    "limits": lambda old: replace(old, limits=ClientLimits(1 << 20)),
    "drain": lambda old: replace(old, drain_timeout=1.0),
    "probes": lambda old: replace(old, probe_interval=10.0),
    "another keypair": lambda old: replace(
        old,
        keypairs={**old.keypairs, "two": KeypairSettings("two", old.state_dir / "two.key")},
        endpoints={
            **old.endpoints,
            "two": replace(old.endpoints["web"], name="two", keypair="two"),
        },
    ),
}


@pytest.mark.parametrize("change", SAME_CONNECTION.values(), ids=SAME_CONNECTION)
def test_what_runs_goes_on_over_the_same_connection(tmp_path: Path, change: Change) -> None:
    async def script(world: World) -> None:
        visit = await world.visit()
        (end,) = world.eu.ends
        await world.reload(change)
        await asyncio.sleep(HANDOVER_TIMEOUT + 1)
        assert await visit.echo(b"again") == b"again"
        assert end in world.eu.live()
        assert await visit.end() == b""

    run(tmp_path, script)


def test_the_next_visitor_comes_to_the_new_target(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        before = await world.visit()
        await world.reload(with_web(target=Target(path=world.targets["two"].path)))
        after = await world.visit()
        assert await before.echo(b"to one") == b"to one"
        assert await after.echo(b"to two") == b"to two"
        assert b"".join(world.targets["one"].received) == b"firstto one"
        assert b"".join(world.targets["two"].received) == b"firstto two"
        assert len(world.eu.ends) == 1

    run(tmp_path, script)


def test_the_next_visitor_is_judged_anew(tmp_path: Path) -> None:
    async def script(world: World) -> Code:
        await world.visit()
        await world.reload(with_web(deny=(ip_network("192.0.2.0/24"),)))
        with pytest.raises(StreamReset) as denied:
            await world.visit()
        return denied.value.code

    assert run(tmp_path, script) is Code.ABORTED


def test_windows_are_those_of_the_next_connection(tmp_path: Path) -> None:
    async def script(world: World) -> list[int]:
        await world.reload(lambda old: replace(old, flow=FlowSettings(stream_window=65536)))
        world.eu.ends[0].connection.close()
        await world.until(lambda: len(world.eu.ends) == 2 and world.eu.live())
        return [end.connection.options.flow.stream_window for end in world.eu.ends]

    assert run(tmp_path, script) == [256 * 1024, 65536]


def test_running_streams_may_take_as_long_as_the_new_drain_says(tmp_path: Path) -> None:
    async def script(world: World) -> float:
        visit = await world.visit()
        await world.reload(lambda old: replace(old, drain_timeout=3.0))
        begin = now()
        world.client.stop()
        with pytest.raises(StreamReset):
            await read_all(visit.stream)
        return round(now() - begin)

    assert run(tmp_path, script) == 3


# -- names


ANOTHER = "shop.example.com"


def test_a_new_name_is_served_before_the_old_connection_leaves(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        visit = await world.visit()
        first = world.eu.ends[0]
        await world.reload(with_web(names=(ANOTHER,)))
        await world.until(lambda: any(ANOTHER in end.serving for end in world.eu.ends))
        assert world.name in world.eu.ends[1].serving
        await world.until(lambda: not first.serving)
        assert await visit.echo(b"again") == b"again"
        await asyncio.sleep(3600)  # a new name is no reason to cut anybody
        assert await visit.end() == b""
        await world.until(lambda: first.bye is not None)
        assert first.bye is Code.OK

    run(tmp_path, script)


def test_at_every_moment_somebody_serves(tmp_path: Path) -> None:
    async def script(world: World) -> list[int]:
        serving: list[int] = []

        def is_settled(name: str) -> bool:
            live = world.eu.live()
            serving.append(len(live))
            return len(live) == 1 and name in live[0].serving

        world.eu.delay = 3.0
        for number in range(5):
            await world.reload(with_web(names=(f"n{number}.example.com",)))
            await asyncio.sleep(2.0 * number)
        await world.until(lambda: is_settled("n4.example.com"))
        return serving

    assert 0 not in run(tmp_path, script)


def test_a_name_that_is_gone_is_not_served_any_more(tmp_path: Path) -> None:
    async def script(world: World) -> tuple[str, ...]:
        await world.reload(with_web(names=()))
        await world.until(lambda: [end.serving for end in world.eu.live()] == [{world.name}])
        return world.client.info()[0].names

    assert run(tmp_path, script, with_web(names=(ANOTHER,)))[1:] == ()


def test_an_endpoint_may_go_and_come_back(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        web = world.client.settings.endpoints["web"]
        name = world.name
        await world.reload(lambda old: replace(old, endpoints={}))
        await world.until(lambda: world.eu.ends[0].bye is Code.OK)
        assert world.client.info() == ()
        await world.reload(lambda old: replace(old, endpoints={"web": web}))
        await world.until(world.eu.live)
        assert world.name == name

    run(tmp_path, script)


def test_another_endpoint_of_the_same_keypair_costs_no_visitor(tmp_path: Path) -> None:
    def with_shop(old: ClientSettings) -> ClientSettings:
        shop = replace(old.endpoints["web"], name="shop", suffix="shop.test")
        return replace(old, endpoints={**old.endpoints, "shop": shop})

    async def script(world: World) -> None:
        visit = await world.visit()
        await world.reload(with_shop)
        await world.until(lambda: len(world.eu.live()) == 1 and len(world.eu.ends) == 2)
        assert await visit.echo(b"again") == b"again"
        await world.visit()
        assert len(world.client.info()) == 2

    run(tmp_path, script)


def gone(world: World) -> int:
    """Return how many connections serve nobody any more."""
    return sum(not end.serving for end in world.eu.ends)


def test_of_many_that_finish_their_streams_the_oldest_has_to_hurry(tmp_path: Path) -> None:
    async def script(world: World) -> list[int]:
        visits = []
        for number in range(RETIRED_MAX + 2):
            visits.append(await world.visit())
            await world.reload(with_web(names=(f"n{number}.example.com",)))
            await world.until(lambda: gone(world) == len(visits) and world.eu.ends[-1].serving)
        await asyncio.sleep(60)
        kept = []
        for number, visit in enumerate(visits):
            try:
                assert await visit.echo(b"x") == b"x"
                kept.append(number)
            except StreamReset:
                pass  # the one that had to hurry
        return kept

    assert run(tmp_path, script) == list(range(2, RETIRED_MAX + 2))


# -- servers


def test_a_new_relay_is_dialled_and_the_old_one_not_touched(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        await world.reload(with_us)
        await world.until(world.us.live)
        assert len(world.eu.dials) == 1
        states = world.client.info()[0].servers
        assert [state.server for state in states] == ["eu", "us"]

    run(tmp_path, script)


def test_a_relay_that_is_gone_is_drained_alone(tmp_path: Path) -> None:
    async def script(world: World) -> float:
        await world.until(world.us.live)
        near, far = await world.visit(), await world.visit(world.us.live()[0])
        begin = now()
        await world.reload(without_us)
        await world.until(lambda: not world.us.live())
        with pytest.raises(StreamReset):
            await read_all(far.stream)
        took = now() - begin
        assert await near.echo(b"again") == b"again"
        assert len(world.eu.dials) == 1
        return round(took)

    assert run(tmp_path, script, with_us) == 30


SERVER_CHANGES: dict[str, dict[str, Any]] = {
    "pin": {"pin": b"p" * 32},
    "name": {"server_name": "other.test"},
    "address": {"address": Address("192.0.2.1", 4434)},
    "transport": {"transport": "h2"},
    "pool": {"pool_size": 2},
    "proxy": {"proxy": "http://proxy.test:3128"},
    "trust": {"insecure": True},
}


@pytest.mark.parametrize("keys", SERVER_CHANGES.values(), ids=SERVER_CHANGES)
def test_only_the_connections_to_a_changed_relay_are_replaced(
    tmp_path: Path, keys: dict[str, Any]
) -> None:
    async def script(world: World) -> None:
        await world.until(world.us.live)
        visit = await world.visit(world.us.live()[0])
        (first,) = world.eu.ends
        await world.reload(with_server(**keys))
        assert first.serving
        await world.until(lambda: not first.serving)
        assert [end for end in world.eu.live() if end is not first]
        assert await visit.echo(b"again") == b"again"
        assert len(world.us.dials) == 1

    run(tmp_path, script, with_us)


def test_a_changed_relay_that_does_not_answer_is_waited_for_and_no_longer(tmp_path: Path) -> None:
    async def script(world: World) -> float:
        (first,) = world.eu.ends
        world.eu.dead |= {"quic", "h2"}
        begin = now()
        await world.reload(with_server(pin=b"p" * 32))
        await world.until(lambda: not first.serving)
        return now() - begin

    assert run(tmp_path, script) == pytest.approx(HANDOVER_TIMEOUT, abs=1)


def test_stopping_does_not_wait_for_who_was_to_take_over(tmp_path: Path) -> None:
    async def script(world: World) -> float:
        world.eu.dead |= {"quic", "h2"}
        await world.reload(with_server(pin=b"p" * 32))
        begin = now()
        world.client.stop()
        await world.until(lambda: world.eu.ends[0].bye is not None)
        return now() - begin

    assert run(tmp_path, script) < 1


def test_a_stopped_client_takes_no_other_settings(tmp_path: Path) -> None:
    async def script(world: World) -> int:
        world.client.stop()
        with pytest.raises(SettingsError, match="the client is ending"):
            await world.reload(with_us)
        await asyncio.sleep(10)
        return len(world.us.dials)

    assert run(tmp_path, script) == 0


# -- keys


def test_another_key_is_another_session(tmp_path: Path) -> None:
    async def script(world: World) -> None:
        before = world.name
        other = KeypairSettings("key", tmp_path / "other.key")
        await world.reload(lambda old: replace(old, keypairs={"key": other}))
        await world.until(lambda: not world.eu.ends[0].serving)
        assert world.name != before
        assert world.eu.live()[0].serving == {world.name}

    run(tmp_path, script)


def test_the_same_key_in_another_file_is_the_same(tmp_path: Path) -> None:
    async def script(world: World) -> int:
        moved = tmp_path / "moved.key"
        moved.write_bytes((tmp_path / "client.key").read_bytes())
        moved.chmod(0o600)
        change = KeypairSettings("key", moved)
        await world.reload(lambda old: replace(old, keypairs={"key": change}))
        await asyncio.sleep(60)
        return len(world.eu.dials)

    assert run(tmp_path, script) == 1


def test_another_length_of_the_id_is_another_name(tmp_path: Path) -> None:
    async def script(world: World) -> int:
        shorter = replace(world.client.settings.keypairs["key"], id_bits=64)
        await world.reload(lambda old: replace(old, keypairs={"key": shorter}))
        await world.until(lambda: not world.eu.ends[0].serving)
        return len(world.name.partition(".")[0])

    assert run(tmp_path, script) == 16


# -- all or nothing


def _unreadable_key(old: ClientSettings) -> ClientSettings:
    bad = old.state_dir / "bad.key"
    bad.write_text("no key")
    bad.chmod(0o600)
    return replace(old, keypairs={"key": KeypairSettings("key", bad)})


def _unreadable_ca(old: ClientSettings) -> ClientSettings:
    bad = old.state_dir / "bad.pem"
    bad.write_text("no certificates")
    return with_server(ca=bad)(old)


FAULTS: dict[str, tuple[Change, str]] = {
    "key": (_unreadable_key, "bad.key"),
    "roots": (_unreadable_ca, "bad.pem"),
    "chain": (
        with_web(certificate="files", chain_file=Path("/none"), key_file=Path("/none")),
        "/none: cannot be read",
    ),
    "names": (
        with_web(names=tuple(f"n{number}.example.com" for number in range(65))),
        "66 names, at most 64",
    ),
    "state": (lambda old: replace(old, state_dir=Path("/other")), "client.state_dir: needs a rest"),
    "twins": (
        lambda old: replace(
            old, endpoints={**old.endpoints, "b": replace(old.endpoints["web"], name="b")}
        ),
        "have the same name",
    ),
}


@pytest.mark.parametrize(("change", "fault"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_used_changes_nothing(tmp_path: Path, change: Change, fault: str) -> None:
    async def script(world: World) -> str:
        visit, settings, info = await world.visit(), world.client.settings, world.client.info()
        with pytest.raises(SettingsError) as refused:
            await world.reload(lambda old: with_us(change(old)))
        assert world.client.settings is settings
        assert world.client.info() == info
        assert (len(world.eu.dials), len(world.us.dials)) == (1, 0)
        assert await visit.echo(b"again") == b"again"
        return str(refused.value)

    assert fault in run(tmp_path, script)


# -- what is told


def test_new_names_are_told_once_they_are_served(tmp_path: Path) -> None:
    async def script(scene: Scene) -> list[str]:
        await scene.relay.until(lambda: scene.of(Serving))
        web = scene.client.settings.endpoints["web"]
        more = replace(web, names=(ANOTHER,))
        await scene.client.reload(replace(scene.client.settings, endpoints={"web": more}))
        await scene.relay.until(lambda: any(each.name == ANOTHER for each in scene.of(Serving)))
        return [each.name for each in scene.of(Serving) if each.name == ANOTHER]

    assert play(client_settings(tmp_path), script) == [ANOTHER]
