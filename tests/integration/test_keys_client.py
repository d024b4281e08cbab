"""Keys of client.toml that say which session is kept up, when, and for whom.

Two values of each, and two clients that behave differently towards a relay that is a script; no
time passes.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.scenes import (
    EchoTarget,
    FakeRelay,
    Scene,
    client_settings,
    now,
    play,
    play_with_target,
)
from tests.unit.settings.documents import client as loaded
from tunnel.client.events import Failed, Started
from tunnel.errors import SettingsError, StreamReset
from tunnel.settings.values import (
    ClientSettings,
    ClientTimeouts,
    KeypairSettings,
    ServerSettings,
    Target,
)
from tunnel.stream import Address

DOCUMENT = """\
[client]
state_dir = "state"
{client}
[servers.eu]
address = "192.0.2.1"
{server}
[keypairs.primary]
file = "primary.key"
[keypairs.other]
file = "other.key"
{keypair}
[endpoints.web]
keypair = "primary"
suffix = "t.test"
target = 9
certificate = "passthrough"
[endpoints.more]
keypair = "other"
suffix = "t.test"
target = 9
certificate = "passthrough"
{endpoint}
"""


def document(folder: Path, **lines: str) -> ClientSettings:
    """Return what a file with these lines in its tables says."""
    blank = dict.fromkeys(("client", "server", "keypair", "endpoint"), "")
    return loaded(folder, base=DOCUMENT.format_map(blank | lines))


def without_udp(relay: FakeRelay) -> None:
    relay.unreachable.add("quic")


async def words(scene: Scene) -> set[str]:
    """Return the transports that are dialled where UDP does not pass."""
    await asyncio.sleep(4.0)
    return {word for word, _, _ in scene.relay.dials}


async def pool(scene: Scene) -> int:
    """Return how many HTTP/2 connections serve."""
    await asyncio.sleep(4.0)
    return len(scene.relay.live("h2"))


async def addresses(scene: Scene) -> set[str]:
    """Return the addresses that are dialled."""
    await asyncio.sleep(4.0)
    return {str(address) for _, _, address in scene.relay.dials}


async def claimed(scene: Scene) -> tuple[str, ...]:
    """Return the names that the client claims."""
    await scene.relay.until(scene.relay.live)
    claim = scene.relay.ends[0].claim
    assert claim is not None
    return claim.names


async def own_id(scene: Scene) -> str:
    return scene.client.info()[0].id


# [client] and [servers.*]


def test_transport_of_the_client_is_what_is_dialled(tmp_path: Path) -> None:
    seen = [
        play(document(tmp_path, client=f'transport = "{word}"'), words, set_up=without_udp)
        for word in ("auto", "quic", "h2")
    ]
    assert seen == [{"quic", "h2"}, {"quic"}, {"h2"}]


def test_transport_of_a_server_is_what_is_dialled(tmp_path: Path) -> None:
    seen = [
        play(document(tmp_path, server=f'transport = "{word}"'), words, set_up=without_udp)
        for word in ("auto", "quic", "h2")
    ]
    assert seen == [{"quic", "h2"}, {"quic"}, {"h2"}]


def test_pool_size_of_the_client_is_how_many_connections_serve(tmp_path: Path) -> None:
    lines = [f'transport = "h2"\npool_size = {size}' for size in (1, 3)]
    assert [play(document(tmp_path, client=each), pool) for each in lines] == [2, 6]


def test_pool_size_of_a_server_is_how_many_connections_serve(tmp_path: Path) -> None:
    lines = [f'transport = "h2"\npool_size = {size}' for size in (1, 3)]
    assert [play(document(tmp_path, server=each), pool) for each in lines] == [2, 6]


def test_drain_timeout_is_how_long_a_visitor_may_stay(tmp_path: Path) -> None:
    async def stay(scene: Scene, _: EchoTarget) -> float:
        await scene.relay.until(scene.relay.live)
        visitor = await scene.relay.ends[0].open_visitor(scene.name, b"a")
        assert await visitor.receive() == b"a"
        begun = now()
        scene.client.stop()
        with pytest.raises(StreamReset):
            await visitor.receive()
        return round(now() - begun)

    settings = (client_settings(tmp_path, drain_timeout=each) for each in (7.0, 60.0))
    assert [play_with_target(each, stay) for each in settings] == [7, 60]


def test_probe_interval_is_when_quic_is_tried_again(tmp_path: Path) -> None:
    async def returned(scene: Scene) -> float:
        relay, begun = scene.relay, now()  # the attempt that lost the race begins then, too
        await relay.until(lambda: len(relay.live("h2")) == 4)
        relay.unreachable.clear()
        await relay.until(lambda: relay.live("quic"))
        return round(now() - begun)

    settings = (client_settings(tmp_path, probe_interval=each) for each in (7.0, 60.0))
    assert [play(each, returned, set_up=without_udp) for each in settings] == [7, 60]


def test_enabled_servers_are_dialled_and_masked_ones_are_not(tmp_path: Path) -> None:
    more = '[servers.us]\naddress = "192.0.2.2"\nenabled = {}'
    seen = [
        play(document(tmp_path, server=more.format(word)), addresses) for word in ("true", "false")
    ]
    assert seen == [{"192.0.2.1:4433", "192.0.2.2:4433"}, {"192.0.2.1:4433"}]


def test_address_is_where_the_relay_is(tmp_path: Path) -> None:
    given = [Address("192.0.2.1", 4433), Address("2001:db8::1", 5)]
    servers = ({"eu": ServerSettings("eu", each, "relay.test")} for each in given)
    settings = (client_settings(tmp_path, servers=each) for each in servers)
    assert [play(each, addresses) for each in settings] == [{str(each)} for each in given]


# [keypairs.*]


def test_a_masked_keypair_serves_nothing(tmp_path: Path) -> None:
    assert document(tmp_path, keypair="enabled = true").keypairs.keys() == {"primary", "other"}
    with pytest.raises(SettingsError, match=r"endpoints\.more\.keypair"):
        document(tmp_path, keypair="enabled = false")


def keys(folder: Path, *names: str, **changes: Any) -> list[ClientSettings]:
    """Return settings with one key file each."""
    keypairs = [{"key": KeypairSettings("key", folder / name, **changes)} for name in names]
    return [client_settings(folder, keypairs=each) for each in keypairs]


def test_file_is_whose_id_is_served(tmp_path: Path) -> None:
    one, other, again = (play(each, own_id) for each in keys(tmp_path, "a", "b", "a"))
    assert one != other
    assert again == one


def test_id_bits_is_the_length_of_the_id(tmp_path: Path) -> None:
    [long], [short] = keys(tmp_path, "a"), keys(tmp_path, "a", id_bits=64)
    assert play(long, own_id)[:16] == play(short, own_id)


# [endpoints.*]


def test_enabled_endpoints_are_served_and_masked_ones_are_not(tmp_path: Path) -> None:
    async def started(scene: Scene) -> tuple[str, ...]:
        await scene.relay.until(lambda: scene.of(Started))
        return scene.of(Started)[0].endpoints

    settings = [document(tmp_path, endpoint=f"enabled = {word}") for word in ("true", "false")]
    assert [play(each, started) for each in settings] == [("web", "more"), ("web",)]


def test_keypair_is_whose_id_an_endpoint_has(tmp_path: Path) -> None:
    both = {name: KeypairSettings(name, tmp_path / name) for name in ("one", "two")}
    settings = [
        client_settings(tmp_path, keypairs=both, endpoint={"keypair": name}) for name in both
    ]
    ids = [play(each, own_id) for each in settings]
    assert ids[0] != ids[1]


def test_suffix_is_that_of_the_first_name(tmp_path: Path) -> None:
    settings = [client_settings(tmp_path, endpoint={"suffix": f"{word}.test"}) for word in "ab"]
    names = [play(each, claimed)[0] for each in settings]
    assert [name.partition(".")[2] for name in names] == ["a.test", "b.test"]


def test_names_are_claimed_too(tmp_path: Path) -> None:
    choices: list[tuple[str, ...]] = [(), ("shop.example.com",)]
    settings = [client_settings(tmp_path, endpoint={"names": each}) for each in choices]
    assert [play(each, claimed)[1:] for each in settings] == choices


def test_servers_are_those_that_an_endpoint_is_served_through(tmp_path: Path) -> None:
    places = {"eu": Address("192.0.2.1", 4433), "us": Address("192.0.2.2", 4433)}
    servers = {name: ServerSettings(name, place, "x.test") for name, place in places.items()}
    seen = [
        play(client_settings(tmp_path, servers=servers, endpoint={"servers": each}), addresses)
        for each in (("eu",), ("us",), ("eu", "us"))
    ]
    eu, us = map(str, places.values())
    assert seen == [{eu}, {us}, {eu, us}]


def test_certificate_extension_is_sent_to_the_relay(tmp_path: Path) -> None:
    async def sent(scene: Scene) -> bytes | None:
        await claimed(scene)
        claim = scene.relay.ends[0].claim
        return claim.extension if claim else None

    choices = [None, b"\xde\xad"]
    settings = [
        client_settings(tmp_path, endpoint={"certificate_extension": each}) for each in choices
    ]
    assert [play(each, sent) for each in settings] == choices


# [timeouts]


def timed(folder: Path, key: str, *values: float, **changes: Any) -> list[ClientSettings]:
    return [
        client_settings(folder, timeouts=ClientTimeouts(**{key: value}), **changes)
        for value in values
    ]


def test_register_has_to_be_done_in_time(tmp_path: Path) -> None:
    def mute(relay: FakeRelay) -> None:
        relay.is_mute = True

    async def failed(scene: Scene) -> float:
        begun = now()
        await scene.relay.until(lambda: scene.of(Failed))
        return round(now() - begun)

    settings = timed(tmp_path, "register", 2.0, 9.0, server={"transport": "quic"})
    assert [play(each, failed, set_up=mute) for each in settings] == [2, 9]


def test_linger_is_how_long_a_target_may_be_silent_after_its_visitor(tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"

    async def cut(scene: Scene) -> float:
        over = asyncio.Event()

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            await over.wait()
            writer.close()

        async with await asyncio.start_unix_server(hold, str(path)):
            await scene.relay.until(scene.relay.live)
            visitor = await scene.relay.ends[0].open_visitor(scene.name, b"a")
            await visitor.finish()
            begun = now()
            with pytest.raises(StreamReset):
                await visitor.receive()
            over.set()
            return round(now() - begun)

    settings = timed(tmp_path, "linger", 7.0, 300.0, target=Target(path=path))
    assert [play(each, cut) for each in settings] == [7, 300]


def test_heartbeat_is_how_soon_a_silent_relay_is_noticed(tmp_path: Path) -> None:
    async def noticed(scene: Scene) -> float:
        relay = scene.relay
        await relay.until(relay.live)
        await asyncio.sleep(1.0)
        relay.go_mute("quic")
        begun = now()
        await relay.until(lambda: relay.live("h2"))
        return now() - begun

    soon, late = (play(each, noticed) for each in timed(tmp_path, "heartbeat", 5.0, 30.0))
    assert soon < 9.0
    assert late > 20.0
