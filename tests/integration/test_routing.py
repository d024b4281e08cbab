"""By which names a visitor is routed: the whole of it, in any case, however long the hello is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import Run
from tests.integration.hellos import hello, made_hello
from tests.integration.stage import on_stage, relay_settings
from tests.integration.test_keys_client_visits import (
    SAID,
    anybody,
    at_work,
    settings_for,
    target,
    visit,
)
from tests.integration.visitors import UNRECOGNIZED_NAME, answer_to, visiting

LONG = 9 * 1024  # bytes: longer than any buffer of 8 KiB
NEIGHBOURS = {
    "its id under another suffix": "{id}.other.test",
    "its id under a part of the suffix": "{id}.test",
    "its id alone": "{id}",
    "a name below": "x.{name}",
    "a name that goes on": "{name}.test",
    "a name that begins earlier": "x{name}",
    "the suffix": "t.test",
}


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_what_is_only_like_a_served_name_is_not_recognized(
    neighbour: str, transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve(transport)
            first_label = client.name.partition(".")[0]
            name = NEIGHBOURS[neighbour].format(id=first_label, name=client.name)
            said = made_hello(name.encode())
            assert await answer_to(stage.public, said) == UNRECOGNIZED_NAME

    run(body())


@pytest.mark.parametrize(
    "spelling", [str.lower, str.upper, str.title], ids=lambda how: how.__name__
)
def test_a_served_name_is_served_however_it_is_spelt(
    spelling: Callable[[str], str], transport: str, run: Run, tmp_path: Path
) -> None:
    """RFC 6066 §3: host names are compared without regard to case."""

    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve(transport)
            first = made_hello(spelling(client.name).encode())
            async with visiting(stage.public, first) as visitor:
                call = await client.take()
                assert call.header.name == client.name
                assert await call.hear(len(first)) == first
                await call.stream.send(b"served")
                assert await visitor.hear(6) == b"served"

    run(body())


def test_a_long_hello_reaches_the_client_as_it_was(
    transport: str, run_on_each: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve(transport)
            first = made_hello(client.name.encode(), padding=LONG)
            assert len(first) > LONG
            async with visiting(stage.public) as visitor:
                await visitor.say(first[:1000])
                await visitor.say(first[1000:])
                call = await client.take()
                assert await call.hear(len(first)) == first
                await call.stream.send(b"served")
                assert await visitor.hear(6) == b"served"

    run_on_each(body())


def test_a_visitor_with_a_long_hello_is_served(
    transport: str, run_on_each: Run, tmp_path: Path
) -> None:
    alpn = ("http/1.1", *(f"{number:02}" * 120 for number in range(40)))
    assert LONG < len(hello("served.t.test", alpn)) < 16 * 1024

    async def body() -> None:
        async with (
            on_stage(relay_settings(tmp_path)) as stage,
            target(b"served ") as service,
            at_work(
                settings_for(stage, tmp_path, service, server={"transport": transport})
            ) as name,
        ):
            assert name is not None
            seen = await visit(stage, name, anybody(*alpn))
            assert (seen.alpn, seen.answer) == ("http/1.1", b"served " + SAID)

    run_on_each(body())
