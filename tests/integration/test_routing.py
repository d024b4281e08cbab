"""By which names a visitor is routed: the whole of it, in any case, however long the hello is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import Run
from tests.integration.hellos import made_hello
from tests.integration.stage import on_stage, relay_settings
from tests.integration.visitors import UNRECOGNIZED_NAME, answer_to, visiting

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
