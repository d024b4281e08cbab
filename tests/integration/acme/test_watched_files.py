"""A relay whose certificate files are renewed under it."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from tests.integration.choices import visit
from tests.integration.clients import ScriptedClient, dial
from tests.integration.conftest import Run
from tests.integration.stage import Stage, on_stage, relay_settings
from tunnel.errors import DialFailed
from tunnel.protocol.messages import Welcome
from tunnel.runtime.watching import watch
from tunnel.settings.values import RelayCertificate
from tunnel.tls.certificates import self_signed
from tunnel.tls.files import write_private
from tunnel.tls.identity import generate
from tunnel.tls.slots import Certificate


def put(folder: Path, certificate: Certificate) -> RelayCertificate:
    """Replace both files, one after the other."""
    chain, key = folder / "chain.pem", folder / "key.pem"
    write_private(chain, certificate.chain_pem)
    write_private(key, certificate.key_pem)
    return RelayCertificate("files", chain, key)


def fresh() -> Certificate:
    return self_signed(["relay.test"], now=datetime.now(UTC))


async def dialled(stage: Stage, transport: str, certificate: Certificate) -> ScriptedClient:
    """Dial until the relay shows this certificate: it looks at its files now and then."""
    while True:
        try:
            client = await dial(transport, stage.agents, certificate.pin, generate())
        except DialFailed:
            continue
        stage.clients.append(client)
        return client


def test_new_dials_see_the_new_certificate_and_running_connections_live_on(
    run_on_each: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = partial(watch, interval=0.05)
    monkeypatch.setattr("tunnel.relay.certificate.watch", often)
    old, new = fresh(), fresh()

    async def body() -> None:
        settings = relay_settings(tmp_path, certificate=put(tmp_path, old))
        async with on_stage(settings) as stage:
            running = [await stage.serve(transport) for transport in ("quic", "h2")]
            put(tmp_path, new)
            for transport in ("quic", "h2"):
                client = await dialled(stage, transport, new)
                assert client.connection.binding.leaf_hash == new.leaf_hash
                assert isinstance(await client.register(), Welcome)
                assert (await client.serve()).visitors
                assert await visit(stage.public, client) is not None
            for client in running:
                assert client.connection.binding.leaf_hash == old.leaf_hash
                assert await visit(stage.public, client) is not None
                assert (await client.serve(challenge=True)).challenge

    run_on_each(body())
