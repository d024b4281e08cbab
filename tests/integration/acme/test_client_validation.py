"""A real client answers an authority through a real relay, and visitors at the same time."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.integration.acme.authorities import DIGEST, digest_of, validated
from tests.integration.conftest import Run
from tests.integration.forwarders import closing
from tests.integration.stage import Stage, on_stage, relay_settings
from tests.integration.test_keys_client_visits import (
    SAID,
    anybody,
    settings_for,
    target,
    visit,
)
from tunnel.acme.challenge import PendingAnswer, challenge_context
from tunnel.client.client import Client
from tunnel.client.events import ClientEvent, Serving
from tunnel.client.validation import Validations
from tunnel.errors import Code
from tunnel.settings.values import AcmeSettings, ClientSettings, Target
from tunnel.tls.certificates import dns_names
from tunnel.tls.identity import load_or_create

NOBODY = AcmeSettings("https://127.0.0.1:1/directory")  # no order ever gets anywhere
UNRECOGNIZED_NAME = "TLSV1_UNRECOGNIZED_NAME"
INTERNAL_ERROR = "TLSV1_ALERT_INTERNAL_ERROR"


def with_acme(
    stage: Stage, folder: Path, to: Target, transport: str, **endpoint: Any
) -> ClientSettings:
    """Return settings with one endpoint whose certificate has not been issued yet."""
    changes = {"certificate": "acme", **endpoint}
    server = {"transport": transport, "pool_size": 2}
    return settings_for(stage, folder, to, server=server, endpoint=changes, acme=NOBODY)


@asynccontextmanager
async def at_work(settings: ClientSettings) -> AsyncIterator[tuple[Client, str]]:
    """Run a client; yield it once it serves, and the name."""
    served: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def note(event: ClientEvent) -> None:
        if isinstance(event, Serving) and not served.done():
            served.set_result(event.name)

    client = Client(settings, on_event=note)
    async with asyncio.TaskGroup() as group:
        group.create_task(client.run())
        yield client, await served
        client.stop()


def validations(client: Client) -> Validations:
    return client._validations


def digest_answer(name: str) -> PendingAnswer:
    return PendingAnswer(challenge_context(name, DIGEST, datetime.now(UTC)))


async def probe(stage: Stage, name: str) -> bytes | str:
    """Return the digest that an authority is shown, or the alert that it gets."""
    try:
        return digest_of(await validated(stage.public, name))
    except ssl.SSLError as error:
        return str(error.reason)


async def alert_to_a_visitor(stage: Stage, name: str) -> str | None:
    """Return the alert that a visitor gets; None where it is let in."""
    try:
        _, writer = await asyncio.open_connection(
            *stage.public, ssl=anybody(), server_hostname=name
        )
    except ssl.SSLError as error:
        return str(error.reason)
    async with closing(writer):
        return None


def test_an_authority_sees_the_proof_and_a_visitor_the_page(
    run: Run, tmp_path: Path, transport: str
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target(b"page ") as to:
            settings = with_acme(stage, tmp_path, to, transport)
            async with at_work(settings) as (client, name):
                before = await probe(stage, name)
                async with validations(client).opened(name, digest_answer(name), renewal=False):
                    seen = await probe(stage, name)
                    visitor = await visit(stage, name)
                after = await probe(stage, name)
        assert (before, seen, after) == (UNRECOGNIZED_NAME, DIGEST, UNRECOGNIZED_NAME)
        assert visitor.answer == b"page " + SAID
        assert dns_names(x509.load_der_x509_certificate(visitor.leaf)) == {name}

    run(body())


def test_many_look_at_once(run: Run, tmp_path: Path, transport: str) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target() as to:
            settings = with_acme(stage, tmp_path, to, transport)
            async with (
                at_work(settings) as (client, name),
                validations(client).opened(name, digest_answer(name), renewal=True),
            ):
                seen = await asyncio.gather(*(probe(stage, name) for _ in range(8)))
        assert seen == [DIGEST] * 8

    run(body())


def test_a_conversation_that_began_before_goes_on(run: Run, tmp_path: Path, transport: str) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target(b"page ") as to:
            settings = with_acme(stage, tmp_path, to, transport)
            async with at_work(settings) as (client, name):
                reader, writer = await asyncio.open_connection(
                    *stage.public, ssl=anybody(), server_hostname=name
                )
                async with closing(writer):
                    writer.write(SAID[:2])
                    async with validations(client).opened(name, digest_answer(name), renewal=False):
                        await probe(stage, name)
                    writer.write(SAID[2:])
                    answer = await reader.read()
        assert answer == b"page " + SAID

    run(body())


def test_another_session_of_the_same_key_neither_gets_nor_stops_it(
    run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target() as to:
            settings = with_acme(stage, tmp_path, to, "h2")
            identity = load_or_create(settings.keypairs["key"].file)
            async with (
                at_work(settings) as (client, name),
                validations(client).opened(name, digest_answer(name), renewal=False),
            ):
                other = await stage.register(identity=identity)
                answer = await other.serve(name, visitors=False, challenge=True)
                seen = await probe(stage, name)
        assert (answer.challenge, answer.reason and answer.reason.code) == (False, Code.BUSY)
        assert seen == DIGEST

    run(body())


def test_a_client_that_takes_the_name_over_does_not_answer_for_the_one_before(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.relay.challenges.TAKEOVER_LIMIT", 0.0)

    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target() as to:
            settings = with_acme(stage, tmp_path, to, "h2")
            async with (
                at_work(settings) as (client, name),
                validations(client).opened(name, digest_answer(name), renewal=False),
                at_work(replace(settings, state_dir=tmp_path / "second")),
            ):
                seen = await probe(stage, name)
        assert seen == UNRECOGNIZED_NAME

    run(body())


def test_a_visitor_before_the_first_certificate_is_told_that_there_is_none(
    run: Run, tmp_path: Path, transport: str
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target() as to:
            settings = with_acme(stage, tmp_path, to, transport, before_certificate="refuse")
            async with at_work(settings) as (client, name):
                alert = await alert_to_a_visitor(stage, name)
                async with validations(client).opened(name, digest_answer(name), renewal=False):
                    seen = await probe(stage, name)
        assert (alert, seen) == (INTERNAL_ERROR, DIGEST)

    run(body())
