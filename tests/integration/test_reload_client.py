"""A real client on a real relay whose settings change: certificates, and what is left behind."""

import asyncio
import gc
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.integration.conftest import Run
from tests.integration.stage import SUFFIX, Stage, on_stage, relay_settings
from tests.integration.test_keys_client_visits import settings_for, target
from tunnel.client.client import Client
from tunnel.client.events import ClientEvent, Serving
from tunnel.errors import SettingsError
from tunnel.settings.values import (
    AcmeSettings,
    ClientSettings,
    ClientTimeouts,
    EndpointSettings,
    KeypairSettings,
    Target,
)

NOBODY = AcmeSettings("https://127.0.0.1:9/directory")


@asynccontextmanager
async def at_work(settings: ClientSettings) -> AsyncIterator[tuple[Client, str]]:
    """Run a client; yield it once it serves, and the name."""
    served: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def note(event: ClientEvent) -> None:
        if isinstance(event, Serving) and not served.done():
            served.set_result(event.name)

    client = Client(settings, on_event=note)
    async with asyncio.TaskGroup() as group:
        group.create_task(client.run(), name="client")
        yield client, await served
        client.stop()


def with_web(settings: ClientSettings, **changes: Any) -> ClientSettings:
    """Return settings with other keys of their endpoint."""
    web = replace(settings.endpoints["web"], **changes)
    return replace(settings, endpoints={**settings.endpoints, "web": web})


def write_chain(folder: Path) -> dict[str, Any]:
    """Write a new certificate for any name; return the keys of an endpoint that shows it."""
    issued = trustme.CA().issue_cert(f"*.{SUFFIX}")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)
    return {"certificate": "files", "chain_file": chain, "key_file": key}


async def leaf(stage: Stage, name: str) -> bytes:
    """Return the certificate that a visitor is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(*stage.public, ssl=context, server_hostname=name)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    assert isinstance(shown, bytes)
    return shown


def on_disk(folder: Path) -> bytes:
    """Return the first certificate of the file."""
    return ssl.PEM_cert_to_DER_cert((folder / "chain.pem").read_text())


# -- certificates


def test_the_next_visitor_sees_what_is_in_the_files_now(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target() as to:
            keys = write_chain(tmp_path)
            settings = settings_for(stage, tmp_path, to, endpoint=keys)
            async with at_work(settings) as (client, name):
                assert await leaf(stage, name) == on_disk(tmp_path)
                write_chain(tmp_path)
                await client.reload(settings)
                assert await leaf(stage, name) == on_disk(tmp_path)

    run(script())


def test_a_certificate_may_come_from_elsewhere(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target() as to:
            settings = settings_for(stage, tmp_path, to)
            async with at_work(settings) as (client, name):
                own = await leaf(stage, name)
                await client.reload(with_web(settings, **write_chain(tmp_path)))
                assert await leaf(stage, name) == on_disk(tmp_path)
                await client.reload(settings)
                assert await leaf(stage, name) == own

    run(script())


def test_files_of_no_use_change_nothing(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target() as to:
            settings = settings_for(stage, tmp_path, to, endpoint=write_chain(tmp_path))
            async with at_work(settings) as (client, name):
                shown = await leaf(stage, name)
                (tmp_path / "key.pem").write_text("nothing")
                with pytest.raises(SettingsError, match=r"key\.pem"):
                    await client.reload(with_web(settings, alpn=("h2",)))
                assert await leaf(stage, name) == shown
                assert client.settings is settings

    run(script())


def upkeep() -> set[asyncio.Task[Any]]:
    """Return the tasks that keep certificates."""
    return {task for task in asyncio.all_tasks() if "certificate" in task.get_name()}


def test_an_order_under_way_is_not_touched(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target() as to, target() as other:
            ordered = {"certificate": "acme"}
            settings = settings_for(stage, tmp_path, to, endpoint=ordered, acme=NOBODY)
            async with at_work(settings) as (client, name):
                (order,) = upkeep()
                await client.reload(replace(with_web(settings, target=other), drain_timeout=1.0))
                assert upkeep() == {order}
                assert client.info()[0].certificates[0].name == name
                another = replace(settings, acme=replace(NOBODY, email="ops@example.org"))
                await client.reload(another)
                await asyncio.sleep(0)
                assert order not in upkeep()
                assert len(upkeep()) == 1
                await client.reload(with_web(another, certificate="self-signed"))
                await asyncio.sleep(0)
                assert upkeep() == set()

    run(script())


# -- what is left behind


def test_many_reloads_leave_nothing_behind(run: Run, tmp_path: Path) -> None:
    def more(old: ClientSettings, to: Target) -> list[ClientSettings]:
        second = KeypairSettings("second", tmp_path / "second.key")
        shop = EndpointSettings("shop", "second", SUFFIX, to, servers=("eu",))
        return [
            with_web(old, alpn=("h2",)),
            with_web(old, names=("shop.example.com",)),
            with_web(old, **write_chain(tmp_path)),
            replace(old, servers={"eu": replace(old.servers["eu"], pool_size=2)}),
            replace(old, timeouts=ClientTimeouts(linger=1.0)),
            replace(
                old,
                keypairs={**old.keypairs, "second": second},
                endpoints={**old.endpoints, "shop": shop},
            ),
        ]

    async def settled() -> tuple[int, int]:
        """Return how many tasks and descriptors there are once they have become no fewer."""
        seen: list[tuple[int, int]] = []
        while len(seen) < 5 or min(seen[-5:]) != max(seen[-5:]):
            await asyncio.sleep(0.1)
            seen.append((len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))))
        return seen[-1]

    async def script() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target() as to:
            settings = settings_for(stage, tmp_path, to)
            async with at_work(settings) as (client, name):
                gc.collect()  # the loops of tests before, which have descriptors until then
                before = await settled()
                for _ in range(5):
                    for changed in more(settings, to):
                        await client.reload(changed)
                        await asyncio.sleep(0.02)
                        await client.reload(settings)
                assert await leaf(stage, name)
                assert await settled() == before

    run(script())
