"""A whole client against a scripted relay: racing, migration, refusals, drains and stopping."""

import asyncio
from pathlib import Path

from tests.unit.client.scenes import (
    PORT,
    FakeRelay,
    Scene,
    client_settings,
    now,
    play,
)
from tunnel.client.events import Refused as RefusedEvent
from tunnel.client.events import Serving, Started, Stopped, TransportChanged
from tunnel.errors import Code, Refused


def words(relay: FakeRelay) -> list[str]:
    return [word for word, _, _ in relay.dials]


def test_serves_over_quic_and_never_dials_http2_where_udp_passes(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.relay.until(scene.relay.live)
        await asyncio.sleep(3.0)

    async def check(scene: Scene) -> list[str]:
        await script(scene)
        return words(scene.relay)

    assert play(client_settings(tmp_path), check) == ["quic"]


def test_tells_the_id_and_the_url_once_it_is_served(tmp_path: Path) -> None:
    async def script(scene: Scene) -> tuple[list[Serving], str]:
        await scene.relay.until(scene.relay.live)
        await asyncio.sleep(1.0)
        return scene.of(Serving), scene.client.info()[0].id

    served, client_id = play(client_settings(tmp_path), script)
    name = f"{client_id}.t.test"
    assert served == [Serving("web", client_id, name, f"https://{name}:{PORT}", "eu")]


def test_without_udp_it_serves_over_a_whole_pool_within_four_seconds(tmp_path: Path) -> None:
    async def script(scene: Scene) -> tuple[float, int]:
        begin = now()
        await scene.relay.until(scene.relay.live)
        took = now() - begin
        await scene.relay.until(lambda: len(scene.relay.live("h2")) == 4)
        return took, len(scene.relay.live("h2"))

    took, pool = play(client_settings(tmp_path), script, set_up=lambda r: r.unreachable.add("quic"))
    assert took < 4.0
    assert pool == 4


def test_the_loser_of_a_race_never_serves_and_says_bye(tmp_path: Path) -> None:
    def slow(relay: FakeRelay) -> None:
        relay.delay = 1.6  # both register, QUIC first

    async def script(scene: Scene) -> list[tuple[str, int, Code | None]]:
        await scene.relay.until(lambda: any(end.bye is not None for end in scene.relay.ends))
        return [(end.transport, end.offers, end.bye) for end in scene.relay.ends]

    settings = client_settings(tmp_path)
    (tmp_path / "transports.json").write_text('{"192.0.2.1:4433": "h2"}')
    assert play(settings, script, set_up=slow) == [("quic", 1, None), ("h2", 0, Code.OK)]
