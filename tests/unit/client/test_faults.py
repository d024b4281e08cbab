"""Faults of either program: a relay that breaks the protocol, and bugs of our own."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.client.scenes import FakeRelay, Scene, client_settings, play
from tunnel.client.client import Client
from tunnel.client.ending import Ending
from tunnel.client.events import Failed, Refused, Started
from tunnel.client.journal import Journal
from tunnel.errors import Code, SettingsError
from tunnel.tls.identity import generate


@dataclass
class LongWinded:
    """A signer whose signatures no relay can read: what a bug of ours looks like."""

    public_key: bytes

    def sign(self, _message: bytes) -> bytes:
        return bytes(1000)


def test_a_bug_of_ours_is_logged_with_its_traceback_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(scene: Scene) -> int:
        await scene.relay.until(lambda: len(scene.of(Failed)) > 1)
        return len(scene.relay.dials)

    signer = LongWinded(generate().public_key)
    dials = play(client_settings(tmp_path), script, signer=signer)
    bugs = [each for each in caplog.records if each.levelno == logging.ERROR and each.exc_info]
    assert len(bugs) >= 2
    assert dials >= 2


def test_roots_that_cannot_be_used_end_the_client_at_its_start(tmp_path: Path) -> None:
    roots = tmp_path / "ca.pem"
    roots.write_text("no certificate")
    with pytest.raises(SettingsError, match=r"ca\.pem: holds no usable PEM certificate"):
        Client(client_settings(tmp_path, server={"ca": roots}))


def test_a_refusal_of_a_name_that_nobody_claimed_is_not_told(tmp_path: Path) -> None:
    def refuse(relay: FakeRelay) -> None:
        relay.uninvited = {"stranger.test": Code.NAME_REFUSED}

    async def script(scene: Scene) -> tuple[list[Refused], int]:
        await asyncio.sleep(1500)
        return scene.of(Refused), len(scene.relay.dials)

    assert play(client_settings(tmp_path), script, set_up=refuse) == ([], 1)


@pytest.mark.parametrize(("code", "level"), [(Code.PROTOCOL, "WARNING"), (None, "INFO")])
def test_a_breach_of_the_protocol_is_a_warning_and_the_networks_fault_is_not(
    code: Code | None, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    journal = Journal("eu", "key", "STANZA", lambda _: None)
    journal.ended("memory", Ending(code, "what came made no sense"), retry_in=1.0)
    assert [record.levelname for record in caplog.records] == [level]


@pytest.mark.parametrize("is_insecure", [True, False])
def test_a_relay_that_is_not_verified_is_told_at_every_start(
    is_insecure: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(scene: Scene) -> None:
        await scene.relay.until(lambda: scene.of(Started))

    for _ in range(2):
        play(client_settings(tmp_path, server={"insecure": is_insecure}), script)
    told = [each for each in caplog.records if each.message == "relay is not verified"]
    assert [each.levelname for each in told] == ["WARNING", "WARNING"] * is_insecure
    fields = {"server": "eu", "setting": "insecure"}
    assert [vars(each)["fields"] for each in told] == [fields, fields] * is_insecure
