"""A relay whose settings change while it serves: what ends by it, and what is not touched."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.integration.choices import answered, seconds, visit
from tests.integration.clients import Call
from tests.integration.conftest import Run, runner
from tests.integration.hellos import hello
from tests.integration.stage import (
    LISTED,
    LOOPBACK,
    OPEN,
    SUFFIX,
    Stage,
    granted,
    listener,
    relay_settings,
)
from tests.integration.visitors import UNRECOGNIZED_NAME, Cut, Visitor, visiting
from tests.ports import free_port
from tunnel.errors import Code, DialFailed, ListenFailed, SettingsError
from tunnel.protocol.messages import Bye, Drain, Reject, Serving, Welcome
from tunnel.relay.server import Opening, Relay
from tunnel.settings.reload import ReloadPlan
from tunnel.settings.values import (
    FlowSettings,
    GrantLimits,
    ListenerSettings,
    QuicSettings,
    RelayCertificate,
    RelayLimits,
    RelaySettings,
    RelayTimeouts,
    SuffixSettings,
)
from tunnel.stream import Address
from tunnel.tls.identity import Identity, generate
from tunnel.tls.watching import WatchedFiles

Change = Callable[[RelaySettings], RelaySettings]
OTHER = SuffixSettings("other.test", access="open", public_port=8443)
KEY = generate()


@dataclass
class Reloaded(Stage):
    """A relay that runs and may be given other settings."""

    relay: Relay = field(kw_only=True)

    async def reload(self, change: Change) -> ReloadPlan:
        """Bring changed settings into force."""
        plan = await self.relay.reload(change(self.relay.settings))
        self.settings = self.relay.settings
        return plan


@asynccontextmanager
async def reloaded(settings: RelaySettings) -> AsyncIterator[Reloaded]:
    """Run a relay while inside."""
    opened: asyncio.Future[Opening] = asyncio.get_running_loop().create_future()
    relay = Relay(settings, on_open=opened.set_result)
    async with asyncio.TaskGroup() as group:
        stage = Reloaded(settings, b"", asyncio.Event(), relay=relay)
        group.create_task(relay.run(stage.stop), name="relay")
        stage.pin = (await opened).pin or b""
        yield stage
        for client in stage.clients:
            client.connection.close()
        stage.stop.set()


@asynccontextmanager
async def bystander(stage: Stage, transport: str = "quic") -> AsyncIterator[None]:
    """Have a visit under way that must outlive whatever happens inside, on the same stream."""
    client = await stage.serve(transport)
    async with visiting(stage.public, hello(client.name)) as visitor:
        call = await answered(visitor, client)
        await call.hear(len(hello(client.name)))
        yield
        await goes_on(visitor, call)
        assert not client.connection.is_closed


async def goes_on(visitor: Visitor, call: Call) -> None:
    """Fail unless bytes pass both ways."""
    await visitor.say(b"there")
    assert await call.hear(5) == b"there"
    await call.stream.send(b"back")
    assert await visitor.hear(4) == b"back"


def with_listener(name: str, **changes: Any) -> Change:
    """Change keys of a listener."""
    return lambda old: replace(
        old, listeners={**old.listeners, name: replace(old.listeners[name], **changes)}
    )


def more(listening: ListenerSettings) -> Change:
    """Add a listener."""
    return lambda old: replace(old, listeners={**old.listeners, listening.name: listening})


def without_listener(name: str) -> Change:
    """Remove a listener."""
    return lambda old: replace(
        old, listeners={key: each for key, each in old.listeners.items() if key != name}
    )


def with_clients(*identities: Identity, **changes: Any) -> Change:
    """List exactly these keys."""
    grants = {
        f"c{number}": replace(granted(identity, **changes)["shop"], name=f"c{number}")
        for number, identity in enumerate(identities)
    }
    return lambda old: replace(old, clients=grants)


# -- what changes nothing for whoever is here


def _pem(folder: Path) -> RelayCertificate:
    issued = trustme.CA().issue_cert("relay.test")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)
    return RelayCertificate("files", chain, key)


HARMLESS: dict[str, Change] = {
    "nothing": replace,
    "name": lambda old: replace(old, name="other"),
    "a listener": more(ListenerSettings("more", "public", (Address(LOOPBACK, 0),))),
    "a suffix": lambda old: replace(old, suffixes={**old.suffixes, OTHER.name: OTHER}),
    "a suffix's port": lambda old: replace(
        old, suffixes={SUFFIX: replace(old.suffixes[SUFFIX], public_port=1)}
    ),
    "a client": with_clients(KEY),
    "certificate": lambda old: replace(old, certificate=_pem(old.state_dir)),
    "limits": lambda old: replace(old, limits=RelayLimits(1, 1, 1, 1 << 20)),
    "deadlines": lambda old: replace(old, timeouts=RelayTimeouts(heartbeat=1.0, linger=1.0)),
    "flow": lambda old: replace(old, flow=FlowSettings(stream_window=65536)),
    "congestion": lambda old: replace(old, quic=QuicSettings(congestion="reno")),
    "drain": lambda old: replace(old, drain_timeout=0.5),
    "balancers": with_listener("public", proxy_protocol_from=(ip_network("10.0.0.0/8"),)),
    "transports": with_listener("agents", transports=("quic", "h2")),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_who_is_here_is_not_touched(
    run: Run, tmp_path: Path, transport: str, change: Change
) -> None:
    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage, bystander(stage, transport):
            await stage.reload(change)

    run(script())


# -- listeners


def test_a_new_listener_takes_visitors(run_on_each: Run, tmp_path: Path) -> None:
    new = listener("public")

    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage, bystander(stage):
            client = await stage.serve()
            await stage.reload(more(replace(new, name="more")))
            assert await visit(new.listen[0], client)
            assert await visit(stage.public, client)

    run_on_each(script())


def test_a_listener_that_is_gone_takes_nobody_and_lets_visitors_finish(
    run_on_each: Run, tmp_path: Path
) -> None:
    extra = replace(listener("public"), name="more")

    async def script() -> None:
        settings = relay_settings(tmp_path)
        settings = more(extra)(settings)
        async with reloaded(settings) as stage, bystander(stage):
            client = await stage.serve()
            async with visiting(extra.listen[0], hello(client.name)) as visitor:
                call = await answered(visitor, client)
                await call.hear(len(hello(client.name)))
                await stage.reload(without_listener("more"))
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(*extra.listen[0])
                await goes_on(visitor, call)

    run_on_each(script())


@pytest.mark.parametrize("kind", ["agents", "public"])
def test_an_address_is_exchanged_and_the_others_stay(run: Run, tmp_path: Path, kind: str) -> None:
    async def script() -> None:
        settings = relay_settings(tmp_path)
        kept, gone, new = (Address(LOOPBACK, free_port()) for _ in range(3))
        settings = with_listener(kind, listen=(kept, gone))(settings)
        async with reloaded(settings) as stage, bystander(stage):
            client = await stage.serve()
            await stage.reload(with_listener(kind, listen=(kept, new)))
            for address in (kept, new):
                if kind == "public":
                    assert await visit(address, client)
                else:
                    stage.settings = with_listener("agents", listen=(address,))(settings)
                    await stage.register("quic")
                    await stage.register("h2")
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*gone)

    run(script())


def test_clients_of_a_listener_that_is_gone_are_drained(
    run: Run, tmp_path: Path, transport: str
) -> None:
    extra = replace(listener("agents"), name="more")

    async def script() -> None:
        settings = more(extra)(relay_settings(tmp_path))
        async with reloaded(settings) as stage, bystander(stage, transport):
            stage.settings = replace(settings, listeners={**settings.listeners, "agents": extra})
            there = await stage.serve(transport)
            await stage.reload(without_listener("more"))
            assert (await there.hear(Drain)).deadline == settings.drain_timeout
            assert await there.lost() is Code.DRAINING
            stage.settings = replace(settings, listeners={**settings.listeners, "agents": extra})
            with pytest.raises(DialFailed):
                await stage.dial(transport)

    run(script())


def test_a_port_may_become_one_for_both(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage, bystander(stage):
            await stage.reload(with_listener("public", kind="shared", transports=("h2",)))
            stage.settings = with_listener("agents", listen=(stage.public,))(stage.settings)
            client = await stage.serve("h2")
            assert await visit(stage.public, client)

    run(script())


def test_a_transport_may_come_and_go(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        settings = with_listener("agents", transports=("h2",))(relay_settings(tmp_path))
        async with reloaded(settings) as stage, bystander(stage, "h2"):
            await stage.reload(with_listener("agents", transports=("h2", "quic")))
            over_quic = await stage.serve("quic")
            await stage.reload(with_listener("agents", transports=("h2",)))
            await over_quic.hear(Drain)
            await stage.serve("h2")

    run(script())


def test_a_balancer_is_believed_from_the_next_connection_on(run: Run, tmp_path: Path) -> None:
    said = b"PROXY TCP4 192.0.2.9 192.0.2.1 1234 443\r\n"

    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage, bystander(stage):
            client = await stage.serve()
            loopback = (ip_network("127.0.0.0/8"),)
            await stage.reload(with_listener("public", proxy_protocol_from=loopback))
            call = await visit(stage.public, client, said)
            assert call is not None
            assert call.header.peer == ("192.0.2.9", 1234)

    run(script())


def test_an_address_that_is_taken_changes_nothing(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage, bystander(stage):
            server = await asyncio.start_server(lambda *_: None, LOOPBACK, 0)
            taken = Address(*server.sockets[0].getsockname())
            free = Address(LOOPBACK, free_port())
            settings, descriptors = stage.relay.settings, len(os.listdir("/proc/self/fd"))
            with pytest.raises(ListenFailed, match=r"listeners.more: .*already in use"):
                await stage.reload(more(ListenerSettings("more", "public", (free, taken))))
            assert stage.relay.settings is settings
            assert len(os.listdir("/proc/self/fd")) == descriptors
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*free)
            server.close()

    run(script())


# -- certificates


def test_the_next_client_sees_the_new_certificate(run: Run, tmp_path: Path, transport: str) -> None:
    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage, bystander(stage, transport):
            await stage.reload(lambda old: replace(old, certificate=_pem(tmp_path)))
            with pytest.raises(DialFailed):  # the pin is another one
                await stage.dial(transport)
            await stage.reload(lambda old: replace(old, certificate=RelayCertificate()))
            await stage.register(transport)

    run(script())


def test_files_are_read_again_though_no_key_has_changed(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        settings = replace(relay_settings(tmp_path), certificate=_pem(tmp_path))
        async with reloaded(settings) as stage, bystander(stage):
            _pem(tmp_path)
            plan = await stage.reload(replace)
            assert not plan
            with pytest.raises(DialFailed):
                await stage.dial()

    run(script())


def test_one_that_is_renewed_during_a_reload_is_not_taken_back(tmp_path: Path) -> None:
    new = _pem(tmp_path)
    assert new.chain_file is not None
    assert new.key_file is not None
    renewed = WatchedFiles(new.chain_file, new.key_file).load()

    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage, asyncio.TaskGroup() as group:
            assert stage.relay.view is not None
            slot = stage.relay.view.certificate.slot
            more_agents = ListenerSettings("more", "agents", (Address(LOOPBACK, 0),))
            reload = group.create_task(stage.reload(more(more_agents)))
            await asyncio.sleep(0)
            assert not reload.done()
            slot.swap(renewed)
            assert await reload
            assert slot.current is renewed

    runner(asyncio.new_event_loop)(script())  # uvloop binds a numeric address without a wait


# -- who may serve what


def test_a_suffix_is_served_once_it_is_there(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage, bystander(stage):
            assert isinstance(await (await stage.dial(suffix=OTHER.name)).register(), Reject)
            await stage.reload(lambda old: replace(old, suffixes={**OPEN, OTHER.name: OTHER}))
            client = await stage.serve(suffix=OTHER.name)
            assert await visit(stage.public, client)

    run(script())


def test_sessions_of_a_suffix_that_is_gone_are_closed_and_no_others(
    run: Run, tmp_path: Path, transport: str
) -> None:
    async def script() -> None:
        suffixes, timeouts = {**OPEN, OTHER.name: OTHER}, RelayTimeouts(visitor_hold=0.5)
        settings = relay_settings(tmp_path, suffixes=suffixes, timeouts=timeouts)
        async with reloaded(settings) as stage, bystander(stage, transport):
            client = await stage.serve(transport, suffix=OTHER.name)
            await stage.reload(lambda old: replace(old, suffixes=OPEN))
            assert (await client.hear(Bye)).reason.code is Code.NAME_REFUSED
            assert await client.lost() is Code.NAME_REFUSED
            async with visiting(stage.public, hello(client.name)) as visitor:
                assert await visitor.hear_all() == UNRECOGNIZED_NAME

    run(script())


def test_a_session_keeps_what_it_is_still_granted(run: Run, tmp_path: Path) -> None:
    both = {**LISTED, OTHER.name: replace(OTHER, access="listed")}

    async def script() -> None:
        grants = granted(KEY)
        grants = {"shop": replace(grants["shop"], suffixes=(SUFFIX, OTHER.name))}
        settings = relay_settings(tmp_path, suffixes=both, clients=grants)
        async with reloaded(settings) as stage:
            client = await stage.dial("quic", KEY)
            second = client.name.replace(SUFFIX, OTHER.name)
            assert isinstance(await client.register(names=(client.name, second)), Welcome)
            for name in (client.name, second):
                assert (await client.serve(name)).visitors
            async with visiting(stage.public, hello(client.name)) as visitor:
                call = await answered(visitor, client)
                await call.hear(len(hello(client.name)))
                await stage.reload(lambda old: replace(old, suffixes=LISTED, clients=granted(KEY)))
                lost = await client.hear(Serving)
                assert (lost.name, lost.visitors) == (second, False)
                assert lost.reason is not None
                assert lost.reason.code is Code.NAME_REFUSED
                await goes_on(visitor, call)
            assert await visit(stage.public, client)

    run(script())


def test_a_key_is_admitted_once_it_is_listed(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        settings = relay_settings(tmp_path, suffixes=LISTED)
        async with reloaded(settings) as stage:
            assert isinstance(await (await stage.dial("h2", KEY)).register(), Reject)
            await stage.reload(with_clients(KEY))
            await stage.serve("h2", KEY)

    run(script())


@pytest.mark.parametrize(
    ("clients", "code"),
    [
        (granted(KEY, enabled=False), Code.REVOKED),
        ({}, Code.UNAUTHORIZED),
        ({"shop": replace(granted(KEY)["shop"], suffixes=())}, Code.NAME_REFUSED),
    ],
)
def test_only_sessions_of_the_key_that_is_withdrawn_are_closed(
    run: Run, tmp_path: Path, transport: str, clients: Any, code: Code
) -> None:
    async def script() -> None:
        neighbour = generate()
        listed = with_clients(KEY, neighbour)(relay_settings(tmp_path, suffixes=LISTED))
        other = listed.clients["c1"]
        async with reloaded(listed) as stage:
            client, untouched = [await stage.serve(transport, each) for each in (KEY, neighbour)]
            async with visiting(stage.public, hello(untouched.name)) as visitor:
                call = await answered(visitor, untouched)
                await call.hear(len(hello(untouched.name)))
                await stage.reload(lambda old: replace(old, clients={**clients, "c1": other}))
                assert await client.lost() is code
                await goes_on(visitor, call)
            answer = await (await stage.dial(transport, KEY)).register()
            assert isinstance(answer, Reject)
            assert answer.reason.code is code

    run(script())


def test_visitors_of_a_withdrawn_key_are_cut(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        settings = relay_settings(tmp_path, suffixes=LISTED, clients=granted(KEY))
        async with reloaded(settings) as stage:
            client = await stage.serve("quic", KEY)
            async with visiting(stage.public, hello(client.name)) as visitor:
                await answered(visitor, client)
                revoked = granted(KEY, enabled=False)
                await stage.reload(lambda old: replace(old, clients=revoked))
                with pytest.raises(Cut):
                    await visitor.hear(1)

    run(script())


# -- limits and deadlines


def test_a_limit_holds_for_the_next_stream(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        timeouts = RelayTimeouts(open_stream=0.5)
        settings = relay_settings(
            tmp_path, suffixes=LISTED, clients=granted(KEY), timeouts=timeouts
        )
        async with reloaded(settings) as stage:
            client = await stage.serve("quic", KEY)
            async with visiting(stage.public, hello(client.name)) as visitor:
                call = await answered(visitor, client)
                await call.hear(len(hello(client.name)))
                one = with_clients(KEY, limits=GrantLimits(streams=1))
                await stage.reload(one)
                assert await visit(stage.public, client) is None
                await goes_on(visitor, call)
                await stage.reload(with_clients(KEY, limits=GrantLimits(streams=2)))
                assert await visit(stage.public, client)

    run(script())


def test_a_rate_follows_for_streams_that_run(run: Run, tmp_path: Path) -> None:
    slow, fast = GrantLimits(rate=4000), GrantLimits(rate=40_000_000)

    async def script() -> None:
        settings = relay_settings(tmp_path, suffixes=LISTED, clients=granted(KEY, limits=fast))
        async with reloaded(settings) as stage:
            client = await stage.serve("quic", KEY)
            async with visiting(stage.public, hello(client.name)) as visitor:
                call = await answered(visitor, client)
                await call.stream.send(bytes(2000))
                assert await seconds(visitor.hear(2000)) < 0.3
                await stage.reload(with_clients(KEY, limits=slow))
                await call.stream.send(bytes(4000))
                await call.stream.send(bytes(10))
                assert await seconds(visitor.hear(4010)) > 0.5

    run(script())


def test_a_cap_on_connections_holds_for_the_next(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage:
            await stage.register()
            await stage.reload(lambda old: replace(old, limits=RelayLimits(connections=1)))
            answer = await (await stage.dial()).register()
            assert isinstance(answer, Reject)
            assert answer.reason.code is Code.BUSY
            await stage.reload(lambda old: replace(old, limits=RelayLimits(connections=2)))
            await stage.register()

    run(script())


def test_deadlines_hold_for_the_next_visitor(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage:
            await stage.reload(lambda old: replace(old, timeouts=RelayTimeouts(client_hello=1.5)))
            async with visiting(stage.public, b"\x16") as visitor:
                assert await seconds(visitor.ended()) > 1.0

    run(script())


# -- all or nothing


FAULTS: dict[str, tuple[Change, str]] = {
    "workers": (lambda old: replace(old, workers=2), "relay.workers: needs a restart"),
    "state": (lambda old: replace(old, state_dir=Path("/other")), "relay.state_dir: needs"),
    "overlap": (
        lambda old: with_listener(
            "public",
            listen=(Address("0.0.0.0", old.listeners["public"].listen[0].port),),  # noqa: S104 - refused
        )(old),
        "listeners.public.listen: needs a restart",
    ),
    "certificate": (
        lambda old: replace(
            old, certificate=RelayCertificate("files", Path("/none"), Path("/none"))
        ),
        "/none: cannot be read",
    ),
}


@pytest.mark.parametrize(("change", "fault"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_used_changes_nothing(
    run: Run, tmp_path: Path, change: Change, fault: str
) -> None:
    new = listener("public")

    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage, bystander(stage):
            settings = stage.relay.settings
            with pytest.raises(SettingsError, match=fault):
                await stage.reload(lambda old: more(replace(new, name="more"))(change(old)))
            assert stage.relay.settings is settings
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*new.listen[0])
            await stage.register()

    run(script())


def test_a_relay_that_ends_takes_no_other_settings(run: Run, tmp_path: Path) -> None:
    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage:
            client = await stage.serve()
            async with visiting(stage.public, hello(client.name)) as visitor:
                await answered(visitor, client)
                stage.stop.set()
                await client.hear(Drain)
                with pytest.raises(SettingsError, match="starting or ending"):
                    await stage.reload(lambda old: replace(old, name="other"))

    run(script())


# -- a hundred of them


def test_many_reloads_leave_nothing_behind(run: Run, tmp_path: Path) -> None:
    changes = [change for name, change in HARMLESS.items() if name != "a listener"]
    ports = [replace(listener("public"), name=f"p{number}") for number in range(3)]

    async def script() -> None:
        async with reloaded(relay_settings(tmp_path)) as stage, bystander(stage):
            original = stage.relay.settings

            async def once(number: int) -> None:
                change = changes[number % len(changes)]
                await stage.reload(lambda _: more(ports[number % 3])(change(original)))
                with pytest.raises((SettingsError, ListenFailed)):
                    await stage.reload(lambda old: replace(old, workers=number + 2))
                await stage.reload(lambda _: original)
                await asyncio.sleep(0)

            for number in range(len(changes)):
                await once(number)
            gc.collect()  # the loops of tests before, which have descriptors until then
            tasks, descriptors = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
            for number in range(50):
                await once(number)
            assert len(asyncio.all_tasks()) == tasks
            assert len(os.listdir("/proc/self/fd")) == descriptors

    run(script())
