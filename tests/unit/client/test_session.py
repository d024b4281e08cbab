"""A whole client against a scripted relay: racing, migration, refusals, drains and stopping."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.unit.client.scenes import (
    PORT,
    EchoTarget,
    FakeRelay,
    Scene,
    client_settings,
    now,
    play,
    play_with_target,
    read_all,
)
from tunnel.client.events import (
    ClientEvent,
    Connected,
    Disconnected,
    Failed,
    Serving,
    Started,
    Stopped,
    TransportChanged,
)
from tunnel.client.events import Refused as RefusedEvent
from tunnel.errors import Code, Refused, StreamReset
from tunnel.protocol.frames import frame
from tunnel.protocol.messages import Drain
from tunnel.runtime.control import PARTING_TIMEOUT
from tunnel.settings.values import ServerSettings
from tunnel.stream import Address
from tunnel.tls.identity import generate


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


def test_quic_that_loses_a_race_by_a_hair_takes_over_as_soon_as_it_can(tmp_path: Path) -> None:
    def late(relay: FakeRelay) -> None:
        relay.delays["quic"] = 1.6  # a tenth of a second after HTTP/2

    async def script(scene: Scene) -> tuple[float, list[str]]:
        begin = now()
        await scene.relay.until(lambda: scene.relay.live("quic") and not scene.relay.live("h2"))
        return now() - begin, [word for word, _, _ in scene.relay.dials]

    took, dials = play(client_settings(tmp_path), script, set_up=late)
    assert took == pytest.approx(1.6, abs=0.2)
    assert dials == ["quic", *["h2"] * 4]
    assert json.loads((tmp_path / "transports.json").read_text()) == {}  # UDP does pass


def test_a_winner_over_http2_is_remembered_across_a_restart(tmp_path: Path) -> None:
    async def script(scene: Scene) -> float:
        begin = now()
        await scene.relay.until(scene.relay.live)
        return now() - begin

    settings = client_settings(tmp_path)
    took = [play(settings, script, set_up=lambda r: r.unreachable.add("quic")) for _ in range(2)]
    assert [round(seconds, 1) for seconds in took] == [1.5, 0.0]


def test_a_dead_udp_path_is_replaced_within_fifteen_seconds(tmp_path: Path) -> None:
    async def script(scene: Scene) -> float:
        await scene.relay.until(scene.relay.live)
        await asyncio.sleep(20.0)
        begin = now()
        scene.relay.go_mute("quic")
        await scene.relay.until(lambda: scene.relay.live("h2"))
        return now() - begin

    assert play(client_settings(tmp_path), script) < 15.0


def test_it_returns_to_quic_within_the_interval_and_the_old_way_serves_until_then(
    tmp_path: Path,
) -> None:
    async def script(scene: Scene) -> tuple[float, list[int]]:
        relay = scene.relay
        await relay.until(lambda: len(relay.live("h2")) == 4)
        relay.unreachable.clear()
        begin = now()
        await relay.until(lambda: relay.live("quic"))
        served_by_pool = [len(relay.live("h2"))]
        await relay.until(lambda: not relay.live("h2"))
        return now() - begin, served_by_pool

    settings = client_settings(tmp_path, probe_interval=5.0)
    took, pool = play(settings, script, set_up=lambda r: r.unreachable.add("quic"))
    assert (took < 7.0, pool) == (True, [4])


def test_a_visitor_on_the_pool_is_not_cut_by_the_return_to_quic(tmp_path: Path) -> None:
    async def script(scene: Scene, target: EchoTarget) -> bytes:
        relay = scene.relay
        await relay.until(lambda: relay.live("h2"))
        old = relay.live("h2")[0]
        visitor = await old.open_visitor(scene.name, b"before ")
        assert await visitor.receive() == b"before "
        relay.unreachable.clear()
        await relay.until(lambda: relay.live("quic") and not old.serving)
        await asyncio.sleep(600)  # far beyond the drain timeout, which is for those who stop
        await visitor.send(b"after")
        await visitor.finish()
        return await read_all(visitor)

    settings = client_settings(tmp_path, probe_interval=5.0)
    answer = play_with_target(settings, script, lambda r: r.unreachable.add("quic"))
    assert answer == b"after"


def test_stopping_takes_the_names_back_and_says_bye(tmp_path: Path) -> None:
    async def script(scene: Scene) -> tuple[set[str], Code | None, float]:
        await scene.relay.until(scene.relay.live)
        (end,) = scene.relay.ends
        begin = now()
        scene.client.stop()
        await scene.relay.until(lambda: end.bye is not None)
        return set(end.serving), end.bye, now() - begin

    assert play(client_settings(tmp_path), script) == (set(), Code.OK, 0.0)


def test_stopping_lets_a_visitor_finish_within_the_drain_timeout(tmp_path: Path) -> None:
    async def script(scene: Scene, target: EchoTarget) -> tuple[bytes, float]:
        await scene.relay.until(scene.relay.live)
        (end,) = scene.relay.ends
        visitor = await end.open_visitor(scene.name, b"a")
        assert await visitor.receive() == b"a"
        begin = now()
        scene.client.stop()
        await scene.relay.until(lambda: not end.serving)
        await visitor.send(b"b")
        await visitor.finish()
        answer = await read_all(visitor)
        await scene.relay.until(lambda: end.bye is not None)
        return answer, now() - begin

    answer, took = play_with_target(client_settings(tmp_path), script)
    assert (answer, took < 30.0) == (b"b", True)


def test_stopping_cuts_a_visitor_who_stays_longer(tmp_path: Path) -> None:
    async def script(scene: Scene, target: EchoTarget) -> float:
        await scene.relay.until(scene.relay.live)
        (end,) = scene.relay.ends
        visitor = await end.open_visitor(scene.name, b"a")
        assert await visitor.receive() == b"a"
        begin = now()
        scene.client.stop()
        with pytest.raises(StreamReset):
            await visitor.receive()
        return now() - begin

    assert 30.0 <= play_with_target(client_settings(tmp_path), script) <= 31.0


def test_a_refused_key_is_told_once_with_what_to_do_and_asked_again_each_ten_minutes(
    tmp_path: Path,
) -> None:
    def refuse(relay: FakeRelay) -> None:
        relay.refusal = Refused(Code.UNAUTHORIZED, "unknown key")

    async def script(scene: Scene) -> tuple[list[RefusedEvent], int, str | None]:
        await asyncio.sleep(1700)
        state = scene.client.info()[0].servers[0]
        return scene.of(RefusedEvent), len(scene.relay.dials), state.last_error

    refusals, dials, error = play(client_settings(tmp_path), script, set_up=refuse)
    assert [refusal.code for refusal in refusals] == [Code.UNAUTHORIZED]
    assert 'add: [clients.NAME] fingerprint = "sha256:' in refusals[0].advice
    assert (dials, error) == (3, "unauthorized: unknown key")


def test_a_key_that_was_granted_meanwhile_serves(tmp_path: Path) -> None:
    def refuse(relay: FakeRelay) -> None:
        relay.refusal = Refused(Code.UNAUTHORIZED, "unknown key")

    async def script(scene: Scene) -> bool:
        await asyncio.sleep(10)
        scene.relay.refusal = None
        await scene.relay.until(scene.relay.live)
        return scene.client.info()[0].servers[0].last_error is None

    assert play(client_settings(tmp_path), script, set_up=refuse)


def test_a_name_refused_among_others_is_told_once_and_the_others_serve(tmp_path: Path) -> None:
    def refuse(relay: FakeRelay) -> None:
        relay.refused_names = {"shop.example.com": Code.NAME_REFUSED}

    async def script(scene: Scene) -> tuple[list[tuple[str | None, Code]], set[str], str]:
        await scene.relay.until(scene.relay.live)
        told = [(refusal.name, refusal.code) for refusal in scene.of(RefusedEvent)]
        return told, set(scene.relay.ends[0].serving), scene.name

    settings = client_settings(tmp_path, endpoint={"names": ("shop.example.com",)})
    told, serving, name = play(settings, script, set_up=refuse)
    assert (told, serving) == ([("shop.example.com", Code.NAME_REFUSED)], {name})


def test_a_relay_that_grants_no_name_counts_as_a_refusal(tmp_path: Path) -> None:
    async def script(scene: Scene) -> tuple[int, list[Code]]:
        scene.relay.refused_names = {scene.name: Code.NAME_REFUSED}
        await asyncio.sleep(300)
        return len(scene.relay.dials), [refusal.code for refusal in scene.of(RefusedEvent)]

    assert play(client_settings(tmp_path), script) == (1, [Code.NAME_REFUSED])


def test_a_name_that_another_holds_is_offered_again_after_a_minute(tmp_path: Path) -> None:
    async def script(scene: Scene) -> float:
        scene.relay.objections = {scene.name: Code.NAME_TAKEN}
        begin = now()
        await scene.relay.until(lambda: scene.relay.ends and scene.relay.ends[0].offers)
        scene.relay.objections.clear()
        await scene.relay.until(scene.relay.live)
        return now() - begin

    assert 60.0 <= play(client_settings(tmp_path), script) <= 67.0


def test_a_superseded_client_does_not_dial_for_a_minute(tmp_path: Path) -> None:
    async def script(scene: Scene) -> tuple[float, Code | None]:
        await scene.relay.until(scene.relay.live)
        (end,) = scene.relay.ends
        begin = now()
        await scene.relay.supersede(end)
        await scene.relay.until(lambda: len(scene.relay.ends) > 1)
        return now() - begin, end.bye

    took, bye = play(client_settings(tmp_path), script)
    assert (60.0 <= took <= 67.0, bye) == (True, Code.OK)


def test_an_old_instance_that_lives_on_asks_once_a_minute_and_takes_nothing_back(
    tmp_path: Path,
) -> None:
    async def script(scene: Scene) -> tuple[int, int]:
        await scene.relay.until(scene.relay.live)
        (end,) = scene.relay.ends
        await scene.relay.supersede(end)
        scene.relay.refusal = Refused(Code.NAME_TAKEN, "a newer instance is serving", 60.0)
        await asyncio.sleep(600)
        return len(scene.relay.dials) - 1, sum(end.offers for end in scene.relay.ends)

    asked, offers = play(client_settings(tmp_path), script)
    assert (8 <= asked <= 10, offers) == (True, 1)


def test_a_drained_connection_is_replaced_before_its_visitor_has_gone(tmp_path: Path) -> None:
    async def script(scene: Scene, target: EchoTarget) -> tuple[bytes, Code | None]:
        relay = scene.relay
        await relay.until(relay.live)
        (old,) = relay.ends
        visitor = await old.open_visitor(scene.name, b"a")
        assert await visitor.receive() == b"a"
        old.serving.clear()
        await old.channel.send(Drain(deadline=60.0, retry_after=0.0))
        await relay.until(relay.live)
        await visitor.send(b"b")
        await visitor.finish()
        answer = await read_all(visitor)
        await relay.until(lambda: old.bye is not None)
        return answer, old.bye

    assert play_with_target(client_settings(tmp_path), script) == (b"b", Code.OK)


def test_stopping_while_a_drained_connection_ends_by_a_fault_of_the_relay(tmp_path: Path) -> None:
    async def script(scene: Scene, _: EchoTarget) -> bool:
        relay = scene.relay
        await relay.until(relay.live)
        (old,) = relay.ends
        visitor = await old.open_visitor(scene.name, b"a")
        assert await visitor.receive() == b"a"
        old.serving.clear()
        await old.channel.send(Drain(deadline=60.0, retry_after=0.0))
        await relay.until(relay.live)
        old.is_mute = True  # does not hear the client's goodbye, which waits to be heard
        await old.channel.write(frame(b"?"))
        await asyncio.sleep(PARTING_TIMEOUT / 2)
        scene.client.stop()
        return old.connection.is_closed

    assert play_with_target(client_settings(tmp_path), script) is False


def test_a_relay_that_dies_is_dialled_again_soon_and_for_ever(tmp_path: Path) -> None:
    async def script(scene: Scene) -> float:
        relay = scene.relay
        await relay.until(relay.live)
        relay.dead = {"quic", "h2"}
        relay.ends[0].connection.close(Code.ABORTED)
        await asyncio.sleep(3_600.0)
        relay.dead = set()
        begin = now()
        await relay.until(lambda: len(relay.ends) > 1)
        return now() - begin

    assert play(client_settings(tmp_path), script) <= 31.5


def test_a_relay_that_stops_in_the_middle_of_registration_is_given_up_after_five_seconds(
    tmp_path: Path,
) -> None:
    def mute(relay: FakeRelay) -> None:
        relay.is_mute = True

    async def script(scene: Scene) -> float:
        begin = now()
        await scene.relay.until(lambda: scene.of(Failed))
        return round(now() - begin, 1)

    settings = client_settings(tmp_path, server={"transport": "quic"})
    assert play(settings, script, set_up=mute) == 5.0


def test_a_signer_that_raises_is_a_logged_failure_and_not_the_end(tmp_path: Path) -> None:
    class Broken:
        is_broken = True

        def __init__(self) -> None:
            self._key = generate()
            self.public_key = self._key.public_key

        def sign(self, message: bytes) -> bytes:
            if self.is_broken:
                raise OSError("the token was pulled out")
            return self._key.sign(message)

    signer = Broken()

    async def script(scene: Scene) -> bool:
        await scene.relay.until(lambda: scene.of(Failed))
        signer.is_broken = False
        await scene.relay.until(scene.relay.live)
        return not (tmp_path / "client.key").exists()

    assert play(client_settings(tmp_path), script, signer=signer)


def test_an_event_sink_that_raises_hurts_nobody(tmp_path: Path) -> None:
    def broken(event: object) -> None:
        raise RuntimeError(f"cannot take {event}")

    async def script(scene: Scene) -> bool:
        await scene.relay.until(scene.relay.live)
        return True

    assert play(client_settings(tmp_path), script, on_event=broken)


def test_events_begin_with_the_start_and_end_with_the_stop(tmp_path: Path) -> None:
    seen: list[ClientEvent] = []

    async def script(scene: Scene) -> None:
        await scene.relay.until(scene.relay.live)
        await asyncio.sleep(1.0)

    play(client_settings(tmp_path), script, on_event=seen.append)
    kinds = [type(event) for event in seen]
    assert kinds == [Started, Connected, TransportChanged, Serving, Disconnected, Stopped]


def test_a_session_of_a_pool_is_one_instance(tmp_path: Path) -> None:
    async def script(scene: Scene) -> int:
        await scene.relay.until(lambda: len(scene.relay.live("h2")) == 4)
        return len({end.claim.instance for end in scene.relay.ends if end.claim})

    assert play(client_settings(tmp_path, server={"transport": "h2"}), script) == 1


def test_the_extension_reaches_the_relay(tmp_path: Path) -> None:
    async def script(scene: Scene) -> bytes | None:
        await scene.relay.until(scene.relay.live)
        claim = scene.relay.ends[0].claim
        return claim.extension if claim else None

    settings = client_settings(tmp_path, endpoint={"certificate_extension": b"\xde\xad"})
    assert play(settings, script) == b"\xde\xad"


def test_all_servers_are_used_at_once(tmp_path: Path) -> None:
    async def script(scene: Scene) -> set[Address]:
        await scene.relay.until(lambda: len(scene.relay.live()) == 2)
        return {address for _, _, address in scene.relay.dials}

    here, there = Address("192.0.2.1", 4433), Address("192.0.2.2", 4433)
    servers = {
        "eu": ServerSettings("eu", here, "eu.test"),
        "us": ServerSettings("us", there, "us.test"),
    }
    settings = client_settings(tmp_path, servers=servers, endpoint={"servers": ("eu", "us")})
    assert play(settings, script) == {here, there}


def test_a_name_with_many_addresses_is_resolved_at_every_attempt(tmp_path: Path) -> None:
    asked: list[Address] = []

    async def resolver(address: Address) -> list[Address]:
        asked.append(address)
        return [Address(f"192.0.2.{len(asked)}", address.port)]

    async def script(scene: Scene) -> list[str]:
        await asyncio.sleep(30)
        return [address.host for _, _, address in scene.relay.dials]

    def kill(relay: FakeRelay) -> None:
        relay.dead = {"quic"}

    server = {"transport": "quic"}
    hosts = play(client_settings(tmp_path, server=server), script, set_up=kill, resolver=resolver)
    assert hosts[:3] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


def test_a_refused_name_is_asked_for_anew_and_no_visitor_notices(tmp_path: Path) -> None:
    def refuse(relay: FakeRelay) -> None:
        relay.refused_names = {"shop.example.com": Code.NAME_REFUSED}

    async def script(scene: Scene) -> tuple[float, bool, Code | None]:
        relay = scene.relay
        await relay.until(relay.live)
        relay.refused_names.clear()
        (old,) = relay.ends
        begin = now()
        await relay.until(lambda: len(relay.ends) == 2)
        was_served = scene.name in old.serving
        await relay.until(lambda: len(relay.live()[-1].serving) == 2 and old.bye is not None)
        return now() - begin, was_served, old.bye

    settings = client_settings(tmp_path, endpoint={"names": ("shop.example.com",)})
    took, was_served, bye = play(settings, script, set_up=refuse)
    assert (600.0 <= took <= 662.0, was_served, bye) == (True, True, Code.OK)


def test_a_name_that_stays_refused_is_told_once(tmp_path: Path) -> None:
    def refuse(relay: FakeRelay) -> None:
        relay.refused_names = {"shop.example.com": Code.NAME_REFUSED}

    async def script(scene: Scene) -> tuple[int, bool]:
        await asyncio.sleep(1500)
        return len(scene.of(RefusedEvent)), len(scene.relay.dials) == 3

    settings = client_settings(tmp_path, endpoint={"names": ("shop.example.com",)})
    assert play(settings, script, set_up=refuse) == (1, True)
