"""The weekly budget as clients meet it: refused in time, with visitors served all the same."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.integration.choices import visit
from tests.integration.clients import ScriptedClient
from tests.integration.conftest import Run
from tests.integration.hellos import hello
from tests.integration.stage import SUFFIX, Stage, on_stage, relay_settings
from tests.integration.visitors import UNRECOGNIZED_NAME, answer_to, visiting
from tunnel.errors import Code
from tunnel.protocol.messages import Serve, Serving
from tunnel.protocol.names import client_id
from tunnel.settings.values import RelaySettings, SuffixSettings
from tunnel.tls.identity import fingerprint, generate


def one_a_week(folder: Path) -> RelaySettings:
    """Return a relay through which one new certificate a week may be ordered."""
    suffix = SuffixSettings(SUFFIX, access="open", certificates_per_week=1)
    return relay_settings(folder, suffixes={SUFFIX: suffix})


async def ask(client: ScriptedClient, *, renewal: bool = False, visitors: bool = True) -> Serving:
    """Ask for validations of the client's name, beside its visitors."""
    await client.channel.send(Serve(client.name, visitors, challenge=True, renewal=renewal))
    return await client.hear(Serving)


async def use_up(stage: Stage) -> ScriptedClient:
    """Return the client that has the one place of the week."""
    client = await stage.register()
    assert (await ask(client)).challenge
    return client


def test_over_budget_a_client_is_told_when_to_ask_and_serves_meanwhile(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(one_a_week(tmp_path)) as stage:
            await use_up(stage)
            late = await stage.register(transport)
            answer = await ask(late)
            assert (answer.visitors, answer.challenge) == (True, False)
            assert answer.reason is not None
            assert answer.reason.code is Code.BUSY
            assert answer.message == f"1 new certificates under {SUFFIX} in 7 days already"
            assert answer.retry_after is not None
            assert 604_700 < answer.retry_after <= 604_800
            assert await visit(stage.public, late) is not None
            validation = hello(late.name, ("acme-tls/1",))
            assert await answer_to(stage.public, validation) == UNRECOGNIZED_NAME

    run(body())


def test_over_budget_who_serves_already_serves_on(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(one_a_week(tmp_path)) as stage:
            await use_up(stage)
            late = await stage.serve()
            async with visiting(stage.public, hello(late.name)) as visitor:
                call = await late.take()
                await call.stream.send(b"begun")
                assert not (await ask(late)).challenge
                await call.stream.send(b", ended")
                assert await visitor.hear(12) == b"begun, ended"
            assert await visit(stage.public, late) is not None

    run(body())


def test_a_pool_of_connections_and_a_reconnect_are_one_order(
    transport: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.relay.challenges.TAKEOVER_LIMIT", 0.0)

    async def body() -> None:
        async with on_stage(one_a_week(tmp_path)) as stage:
            first = await use_up(stage)
            for instance in (first.instance, first.instance, bytes(16)):
                link = await stage.register(transport, first.identity, instance=instance)
                assert (await ask(link)).challenge

    run(body())


def test_a_renewal_goes_first_where_the_week_is_used_up(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        identity = generate()
        leave_behind(tmp_path, f"{client_id(fingerprint(identity.public_key))}.{SUFFIX}")
        async with on_stage(one_a_week(tmp_path)) as stage:
            client = await stage.register("h2", identity)
            assert not (await ask(client)).challenge
            assert (await ask(client, renewal=True)).challenge

    run(body())


def leave_behind(folder: Path, name: str) -> None:
    """Leave the budget of a relay through which the name was ordered yesterday."""
    yesterday = int((datetime.now(UTC) - timedelta(days=1)).timestamp())
    (folder / "relay").mkdir()
    (folder / "relay/certificate-budget.json").write_text(
        json.dumps(
            {
                "new": {SUFFIX: [yesterday]},
                "names": {name: {"ordered_at": yesterday, "renewals": []}},
            }
        )
    )


def test_a_restarted_relay_remembers_the_week(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        settings = one_a_week(tmp_path)
        async with on_stage(settings) as stage:
            await use_up(stage)
        async with on_stage(settings) as stage:
            assert not (await ask(await stage.register())).challenge

    run(body())


def test_a_relay_that_was_killed_remembers_it_too(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        settings = one_a_week(tmp_path)
        async with on_stage(settings) as stage:
            client = await use_up(stage)
            kept = json.loads((settings.state_dir / "certificate-budget.json").read_bytes())
            assert list(kept["names"]) == [client.name]

    run(body())
