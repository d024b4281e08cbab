"""How clients, visitors and the relay itself come to their end."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.clients import Call, ScriptedClient, dial
from tests.integration.conftest import Run
from tests.integration.forwarders import datagram_path
from tests.integration.hellos import hello
from tests.integration.stage import Stage, on_stage, relay_settings
from tests.integration.visitors import AT_ONCE, Cut, Visitor, visiting
from tunnel.errors import Code
from tunnel.protocol.messages import Bye, Drain, Ping, Reject, Welcome
from tunnel.settings.values import RelayTimeouts
from tunnel.tls.identity import generate


async def began(visitor: Visitor, client: ScriptedClient) -> Call:
    """Return the visitor's stream once it has brought a byte back."""
    call = await client.take()
    await call.stream.send(b"a")
    assert await visitor.hear(1) == b"a"
    return call


async def leave_when_drained(client: ScriptedClient) -> None:
    """Close a connection without streams as soon as the relay asks for it."""
    await client.hear(Drain)
    await client.channel.leave(Code.OK)
    client.connection.close()


# The relay stops


def test_an_idle_relay_ends_at_once(transport: str, run_on_each: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path, drain_timeout=5)) as stage:
            client = await stage.serve(transport)
            stage.stop.set()
            await leave_when_drained(client)
            async with asyncio.timeout(AT_ONCE):
                await stage.over.wait()

    run_on_each(body())


def test_a_client_that_stays_is_sent_away(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve(transport)
            stage.stop.set()
            drain = await client.hear(Drain)
            assert drain.deadline == stage.settings.drain_timeout
            assert (await client.hear(Bye)).reason.code is Code.DRAINING
            assert await client.lost() is Code.DRAINING

    run(body())


def test_nobody_registers_any_more(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        settings = relay_settings(tmp_path, drain_timeout=5)
        async with on_stage(settings) as stage:
            staying = await stage.serve(transport)
            late = await stage.dial(transport, identity=generate())
            await late.greet()
            stage.stop.set()
            await staying.hear(Drain)
            answer = await late.claim(late.body())
            assert isinstance(answer, Reject)
            assert answer.reason.code is Code.DRAINING
            await staying.channel.leave(Code.OK)
            staying.connection.close()

    run(body())


def test_a_download_that_runs_is_finished(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        settings = relay_settings(tmp_path, drain_timeout=5)
        async with on_stage(settings) as stage:
            client = await stage.serve(transport)
            async with visiting(stage.public, hello(client.name)) as visitor:
                call = await began(visitor, client)
                stage.stop.set()
                await client.hear(Drain)
                with pytest.raises(OSError):  # noqa: PT011 - refused or reset, as the kernel says
                    await asyncio.open_connection(*stage.public)
                await call.stream.send(bytes(300_000))
                await call.stream.finish()
                visitor.finish()
                assert await visitor.hear_all() == bytes(300_000)
            client.connection.close()
            async with asyncio.timeout(AT_ONCE):
                await stage.over.wait()

    run(body())


def test_a_download_that_never_ends_is_cut_at_the_deadline(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        settings = relay_settings(tmp_path, drain_timeout=0.3)
        async with on_stage(settings) as stage:
            client = await stage.serve(transport)
            async with visiting(stage.public, hello(client.name)) as visitor:
                await began(visitor, client)
                stage.stop.set()
                with pytest.raises(Cut):
                    await visitor.hear(1)
            client.connection.close()
            async with asyncio.timeout(AT_ONCE):
                await stage.over.wait()

    run(body())


def test_a_visitor_who_waits_for_an_answer_is_not_left_behind(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        settings = relay_settings(tmp_path, drain_timeout=5)
        async with on_stage(settings) as stage:
            client = await stage.serve(transport)
            first = hello(client.name)
            async with visiting(stage.public, first) as visitor:
                call = await client.take()
                stage.stop.set()
                await client.hear(Drain)
                await call.stream.send(b"late")
                await call.stream.finish()
                assert await visitor.hear(4) == b"late"

    run(body())


# A client leaves or dies


def test_a_client_that_says_goodbye_is_gone(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve(transport)
            await client.channel.leave(Code.OK)
            assert await client.lost() is Code.OK

    run(body())


def test_a_name_taken_back_gets_no_more_visitors_while_running_ones_stay(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        timeouts = RelayTimeouts(visitor_hold=0.5)
        async with on_stage(relay_settings(tmp_path, timeouts=timeouts)) as stage:
            client = await stage.serve(transport)
            async with visiting(stage.public, hello(client.name)) as visitor:
                call = await began(visitor, client)
                await client.serve(visitors=False)
                async with visiting(stage.public, hello(client.name)) as late:
                    await late.ended()
                await call.stream.send(b"still")
                assert await visitor.hear(5) == b"still"

    run(body())


def test_visitors_of_a_connection_that_dies_are_cut(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve(transport)
            async with visiting(stage.public, hello(client.name)) as visitor:
                await began(visitor, client)
                client.connection.close(Code.INTERNAL)
                with pytest.raises(Cut):
                    await visitor.hear(1)

    run(body())


# Heartbeat


class Lines(logging.Handler):
    """Lets a test wait for a line of the log."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: dict[str, asyncio.Event] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Note the line's constant message."""
        self.seen.setdefault(record.getMessage(), asyncio.Event()).set()

    async def logged(self, message: str) -> None:
        """Wait for a line."""
        await self.seen.setdefault(message, asyncio.Event()).wait()


@contextmanager
def lines_of(module: str) -> Iterator[Lines]:
    """Collect what a module logs."""
    lines, logger = Lines(), logging.getLogger(module)
    logger.addHandler(lines)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an answer to a ping be due sooner than any operator could ask for."""
    monkeypatch.setattr("tunnel.protocol.heartbeat.ANSWER_TIMEOUT", 0.4)


SUSPECTED = "no answer to a ping: out of rotation"
RESTORED = "answers again: back in rotation"
BEATING = RelayTimeouts(heartbeat=1.0)


async def answer_pings(client: ScriptedClient) -> None:
    """Answer for ever."""
    await client.hear(Welcome)  # which never comes again


async def over_a_path(stage: Stage, address: tuple[str, int]) -> ScriptedClient:
    """Return a client that serves over a path which can fall silent."""
    client = await dial("quic", stage.agents._replace(port=address[1]), stage.pin, generate())
    stage.clients.append(client)
    assert isinstance(await client.register(), Welcome)
    await client.serve()
    return client


@pytest.mark.usefixtures("_hasty")
def test_who_falls_silent_is_out_of_rotation_then_closed(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        with lines_of("tunnel.relay.agents") as lines:
            async with (
                on_stage(relay_settings(tmp_path, timeouts=BEATING)) as stage,
                datagram_path(stage.agents) as (address, path),
            ):
                silent = await over_a_path(stage, address)
                path.is_dark = True
                await lines.logged(SUSPECTED)
                first = hello(silent.name)
                async with visiting(stage.public, first) as visitor:
                    other = await stage.serve("quic", silent.identity, instance=silent.instance)
                    call = await other.take()
                    assert await call.hear(len(first)) == first
                    await lines.logged("connection ended")
                    await call.stream.send(b"served")
                    assert await visitor.hear(6) == b"served"

    run(body())


@pytest.mark.usefixtures("_hasty")
def test_who_answers_again_is_back_in_rotation(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        with lines_of("tunnel.relay.agents") as lines:
            async with (
                on_stage(relay_settings(tmp_path, timeouts=BEATING)) as stage,
                datagram_path(stage.agents) as (address, path),
            ):
                client = await over_a_path(stage, address)
                path.is_dark = True
                await lines.logged(SUSPECTED)
                path.is_dark = False
                async with visiting(stage.public, hello(client.name)) as visitor:
                    await began(visitor, client)
                await lines.logged(RESTORED)

    run(body())


@pytest.mark.usefixtures("_hasty")
def test_who_reads_but_never_answers_over_tcp_is_closed(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path, timeouts=BEATING)) as stage:
            client = await stage.serve("h2")
            for _ in range(2):
                await client.hear(Ping)
            assert await client.lost() is Code.TIMEOUT

    run(body())


@pytest.mark.usefixtures("_hasty")
def test_who_answers_stays(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        with lines_of("tunnel.relay.agents") as lines:
            async with on_stage(relay_settings(tmp_path, timeouts=BEATING)) as stage:
                client = await stage.serve(transport)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(2.5):  # more than a dead one would last
                        await answer_pings(client)
                async with visiting(stage.public, hello(client.name)) as visitor:
                    await began(visitor, client)
            assert SUSPECTED not in lines.seen

    run(body())
