"""What cannot be routed is answered at once, and costs the relay nothing."""

import asyncio
from pathlib import Path

import pytest

from tests.integration.conftest import Run
from tests.integration.hellos import hello, made_hello
from tests.integration.stage import Stage, on_stage, relay_settings
from tests.integration.visitors import AT_ONCE, UNRECOGNIZED_NAME, Visitor, answer_to, visiting
from tunnel.protocol.hello import (
    DECODE_ERROR,
    ILLEGAL_PARAMETER,
    NOT_HTTPS,
    RECORD_OVERFLOW,
    UNEXPECTED_MESSAGE,
    alert,
)
from tunnel.settings.values import RelayTimeouts

REFUSED = {
    "no server name": (made_hello(), UNRECOGNIZED_NAME),
    "two names": (made_hello(b"a.t.test", b"b.t.test"), alert(ILLEGAL_PARAMETER)),
    "IPv4 literal": (made_hello(b"192.0.2.1"), UNRECOGNIZED_NAME),
    "IPv6 literal": (made_hello(b"2001:db8::1"), UNRECOGNIZED_NAME),
    "label over 63": (made_hello(b"a" * 64 + b".t.test"), UNRECOGNIZED_NAME),
    "bytes from 0x80": (made_hello("ä.t.test".encode()), UNRECOGNIZED_NAME),
    "NUL": (made_hello(b"a\0.t.test"), UNRECOGNIZED_NAME),
    "empty name": (made_hello(b""), alert(DECODE_ERROR)),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: a.t.test\r\n\r\n", NOT_HTTPS),
    "HTTP/2 without TLS": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", NOT_HTTPS),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", alert(UNEXPECTED_MESSAGE)),
    "random bytes": (bytes.fromhex("8f02d3a1") * 100, alert(UNEXPECTED_MESSAGE)),
    "random bytes after a first one of TLS": (b"\x16" + b"\xff" * 60, alert(70)),
    "hello over 16 KiB": (made_hello(b"a.t.test", padding=17000), alert(ILLEGAL_PARAMETER)),
    "record over 16 KiB": (b"\x16\x03\x01\xff\xff\x01", alert(RECORD_OVERFLOW)),
    "a name nobody serves": (hello("nobody.example"), UNRECOGNIZED_NAME),
    "a validation nobody asked for": (hello("a.t.test", ("acme-tls/1",)), UNRECOGNIZED_NAME),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_is_answered_at_once(reason: str, run_on_each: Run, tmp_path: Path) -> None:
    said, answer = REFUSED[reason]

    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            assert await answer_to(stage.public, said) == answer

    run_on_each(body())


def test_the_relay_serves_after_all_of_them(run_on_each: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve()
            async with asyncio.TaskGroup() as group:
                for said, _ in REFUSED.values():
                    group.create_task(answer_to(stage.public, said))
            first = hello(client.name)
            async with visiting(stage.public, first) as visitor:
                call = await client.take()
                assert await call.hear(len(first)) == first
                await call.stream.send(b"served")
                assert await visitor.hear(6) == b"served"

    run_on_each(body())


UNFINISHED = {"nothing": b"", "half": hello("a.t.test")[:100], "GE": b"GE", "one byte": b"\x16"}


@pytest.mark.parametrize("said", UNFINISHED.values(), ids=UNFINISHED)
def test_who_does_not_finish_its_hello_is_closed_in_time(
    said: bytes, run_on_each: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        timeouts = RelayTimeouts(client_hello=0.5)
        async with on_stage(relay_settings(tmp_path, timeouts=timeouts)) as stage:
            now = asyncio.get_running_loop().time
            begun = now()
            async with visiting(stage.public, said) as visitor:
                await visitor.ended()
                assert 0.4 < now() - begun < AT_ONCE

    run_on_each(body())


def test_a_hello_in_many_pieces_is_read(run_on_each: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve()
            first = hello(client.name)
            async with visiting(stage.public) as visitor:
                for start in range(0, len(first), 50):
                    await visitor.say(first[start : start + 50])
                    await asyncio.sleep(0)
                assert await (await client.take()).hear(len(first)) == first

    run_on_each(body())


def test_a_visitor_that_resets_at_once_harms_nobody(run_on_each: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            for said in (b"", b"\x16", hello("nobody.example"), b"GET / HTTP/1.1\r\n\r\n"):
                async with visiting(stage.public, said) as visitor:
                    visitor.reset()
            await _is_alive(stage)

    run_on_each(body())


async def _is_alive(stage: Stage) -> None:
    assert await answer_to(stage.public, hello("nobody.example")) == UNRECOGNIZED_NAME


def test_the_alert_waits_for_a_visitor_that_still_sends(run_on_each: Run, tmp_path: Path) -> None:
    """Else the RST for what was not read would overtake the alert."""

    async def send_on(visitor: Visitor) -> None:
        for _ in range(10):
            await visitor.say(bytes(1000))

    async def body() -> None:
        async with (
            on_stage(relay_settings(tmp_path)) as stage,
            visiting(stage.public, b"SSH-2.0-x\r\n") as visitor,
        ):
            await send_on(visitor)
            assert await visitor.hear_all() == alert(UNEXPECTED_MESSAGE)

    run_on_each(body())
