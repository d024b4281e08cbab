"""Why a transport is in use, or none: what `status` and the log say at each turn."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.client.scenes import FakeRelay, Scene, client_settings, play
from tests.unit.client.test_racing import (
    FIRST,
    LOST,
    NO_ANSWER,
    POOL,
    Trial,
    on_pool,
    on_quic,
    won_by_http2,
)
from tunnel.client.ending import Ending
from tunnel.client.events import ServerState
from tunnel.client.racing import HTTP2
from tunnel.errors import Code
from tunnel.log import fields_of
from tunnel.protocol.messages import Drain


def test_before_anything_has_registered_nothing_else_is_said() -> None:
    trial = Trial()
    trial.until(0)
    assert trial.course.reason == "nothing registered yet"


def test_a_session_that_was_lost_is_not_said_never_to_have_been() -> None:
    trial = on_quic()
    trial.end(FIRST, Ending(Code.DRAINING, "drained by the relay"))
    assert trial.course.reason == "nothing is registered now"


@pytest.mark.parametrize("mode", ["quic", "h2"])
def test_a_fixed_transport_is_the_operators_once_it_is_in_use(mode: str) -> None:
    trial = Trial(mode)
    lane = FIRST if mode == "quic" else POOL[0]
    trial.until(0)
    before = trial.course.reason
    trial.up(lane)
    assert (before, trial.course.reason) == ("nothing registered yet", "set by the operator")


def test_http2_that_came_first_says_how_long_udp_was_silent() -> None:
    assert won_by_http2().course.reason == "UDP does not pass: no answer within 1.5 s"


def test_http2_that_was_remembered_says_so() -> None:
    trial = Trial(remembered=HTTP2)
    trial.until(0)
    trial.up(POOL[0])
    assert trial.course.reason == "UDP did not pass last time"


def test_what_ended_the_last_attempt_over_udp_is_the_reason() -> None:
    trial = on_pool()
    trial.until(6.5)
    trial.end(FIRST, NO_ANSWER)
    assert trial.course.reason == "UDP does not pass: no answer"


def test_a_quic_that_died_is_the_reason_for_http2() -> None:
    trial = on_quic()
    trial.course.suspect(FIRST, trial.now)
    assert trial.course.reason == "a heartbeat is missing"
    trial.until(0)
    trial.up(POOL[0])
    trial.end(FIRST, LOST)
    assert trial.course.reason == "QUIC: timeout: no answer to two pings"


def test_on_http2_it_is_known_when_quic_is_tried_again() -> None:
    trial = on_pool()
    planned = (trial.course.next_probe or 0) - trial.begin
    trial.until(6.5)
    assert (planned, trial.course.next_probe, on_quic().course.next_probe) == (6.5, None, None)


# -- of a whole client


def state(scene: Scene) -> ServerState:
    return scene.client.info()[0].servers[0]


def test_where_udp_is_blocked_all_that_is_known_of_it_is_shown(tmp_path: Path) -> None:
    def block(relay: FakeRelay) -> None:
        relay.unreachable = {"quic"}

    async def script(scene: Scene) -> tuple[ServerState, ServerState, ServerState]:
        await scene.relay.until(scene.relay.live)
        racing = state(scene)
        await asyncio.sleep(20.0)
        first = state(scene)
        await asyncio.sleep(50.0)
        return racing, first, state(scene)

    racing, early, late = play(client_settings(tmp_path), script, set_up=block)
    assert (racing.transport, racing.reason) == ("h2", "UDP does not pass: no answer within 1.5 s")
    assert (racing.retry_in, racing.last_error, racing.probe_in) == (None, None, None)
    assert (early.reason, early.last_error) == (late.reason, late.last_error)
    assert early.probe_in is not None
    assert early.probe_in == pytest.approx(60.0 - 1.5 - 20.0, abs=1.0)
    assert early.round_trip is not None
    assert late.reason == "UDP does not pass: not registered within 5 s"
    assert late.last_error == "not registered within 5 s"
    assert late.transport == "h2"


def test_a_drain_of_the_relay_is_told_as_what_it_was(tmp_path: Path) -> None:
    async def script(scene: Scene) -> ServerState:
        await scene.relay.until(scene.relay.live)
        scene.relay.dead = {"quic", "h2"}
        (end,) = scene.relay.ends
        end.serving.clear()
        await end.channel.send(Drain(deadline=1.0, retry_after=600.0))
        await asyncio.sleep(30.0)
        return state(scene)

    told = play(client_settings(tmp_path), script)
    assert (told.transport, told.reason) == (None, "nothing is registered now")
    assert told.last_error == "draining: drained by the relay"
    assert told.retry_in is not None
    assert told.retry_in > 500


def test_names_that_another_session_serves_are_not_told_to_be_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def lost() -> list[object]:
        """Return the names that were told to be lost so far."""
        told = [record for record in caplog.records if record.message == "not serving"]
        return [fields_of(record)["name"] for record in told]

    async def script(scene: Scene) -> tuple[list[object], list[object]]:
        await scene.relay.until(scene.relay.live)
        settings = scene.client.settings
        web = replace(settings.endpoints["web"], names=("shop.example.com",))
        await scene.client.reload(replace(settings, endpoints={"web": web}))
        await asyncio.sleep(100.0)
        before = lost()
        await scene.client.reload(settings)
        await asyncio.sleep(100.0)
        return before, lost()

    assert play(client_settings(tmp_path), script) == ([], ["shop.example.com"])
    assert caplog.text.count("disconnected") == 3
