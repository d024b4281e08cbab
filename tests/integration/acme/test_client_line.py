"""The command that a relay prints for its clients: with a pin only where that lasts."""

import asyncio
from pathlib import Path

import pytest

from tests.integration.conftest import Run
from tests.integration.stage import SUFFIX, relay_settings
from tunnel.relay.__main__ import client_line
from tunnel.relay.server import Opening, Relay
from tunnel.settings.values import AcmeSettings, RelayCertificate

NOWHERE = AcmeSettings(directory="https://127.0.0.1:9/directory")


@pytest.mark.parametrize(
    ("mode", "keep_key", "is_pinned"),
    [("self-signed", False, True), ("acme", True, True), ("acme", False, False)],
)
def test_a_pin_is_printed_unless_the_first_certificate_ends_it(
    run: Run, tmp_path: Path, mode: str, keep_key: bool, is_pinned: bool
) -> None:
    chosen = RelayCertificate(mode, names=("relay.test",), keep_key=keep_key)
    settings = relay_settings(tmp_path, certificate=chosen, acme=NOWHERE)

    openings: list[Opening] = []

    async def body() -> None:
        stop = asyncio.Event()

        def note(opening: Opening) -> None:
            openings.append(opening)
            stop.set()

        await Relay(settings, on_open=note).run(stop)

    run(body())
    (opening,) = openings
    pin = f" --pin sha256:{opening.pin.hex()}" if opening.pin is not None else ""
    assert (opening.pin is not None) is is_pinned
    assert client_line(opening, SUFFIX) == (
        f"client.pyz --server {opening.server} --domain-suffix {SUFFIX}{pin} --local 3000"
    )
