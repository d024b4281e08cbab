"""docs/protocol.md says what the code does: its tables are drawn from the code here."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tunnel.errors import Code
from tunnel.protocol.backoff import FIXED_INTERVALS, REFUSED_INTERVAL, RETRY_AFTER_CODES
from tunnel.protocol.frames import AUTHENTICATED_LIMIT, HEADER_LIMIT, UNAUTHENTICATED_LIMIT
from tunnel.protocol.messages import BODY_SCHEMA, HEADER_SCHEMA, MESSAGE_TYPES, SCHEMAS
from tunnel.protocol.registration import FROM_CLIENT, FROM_RELAY, State, Steps

DOCUMENT = Path(__file__).parents[3] / "docs" / "protocol.md"
NEVER_ANSWERED = {Code.OK, Code.TARGET_DOWN, Code.NOT_SERVING, Code.ABORTED}


def rows_of(heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading, without its two head rows."""
    lines = iter(DOCUMENT.read_text(encoding="utf-8").splitlines())
    assert any(line.lstrip("# ") == heading and line.startswith("#") for line in lines), heading
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows or line.startswith("#"):
            break
    return rows[2:]


def fields_of(classes: Iterable[type]) -> Iterator[list[str]]:
    for each in classes:
        for field in SCHEMAS[each].fields:
            mark = "" if field.is_required else "?"
            yield [f"`{SCHEMAS[each].word}`", f"`{field.word}`{mark}", field.codec.meaning]


def steps_of(sender: str, steps: Steps) -> Iterator[tuple[str, str, str]]:
    for (state, message), target in steps.items():
        yield sender, f"`{SCHEMAS[message].word}`", f"{state.name} → {target.name}"


def retry_of(code: Code) -> str:
    if code in RETRY_AFTER_CODES:
        return "`retry_after`"
    if code in FIXED_INTERVALS:
        seconds = FIXED_INTERVALS[code]
        return "never¹" if seconds == REFUSED_INTERVAL else f"{seconds:g} s"
    return "–" if code in NEVER_ANSWERED else "back-off"  # noqa: RUF001 - as the table writes "none"


def test_the_message_table_is_that_of_the_code() -> None:
    assert [row[:3] for row in rows_of("Messages")] == list(fields_of(MESSAGE_TYPES))


def test_the_body_table_is_that_of_the_code() -> None:
    expected = [row[1:] for row in fields_of([BODY_SCHEMA.make])]
    assert [row[:2] for row in rows_of("The body of `auth`")] == expected


def test_the_header_table_is_that_of_the_code() -> None:
    expected = [row[1:] for row in fields_of([HEADER_SCHEMA.make])]
    assert [row[:2] for row in rows_of("Stream header")] == expected


def test_the_state_table_is_that_of_the_code() -> None:
    documented = {
        (sender, message, step)
        for sender, message, steps in rows_of("States")
        for step in steps.split(", ")
    }
    assert documented == {*steps_of("relay", FROM_RELAY), *steps_of("client", FROM_CLIENT)}


def test_the_code_table_is_that_of_the_code() -> None:
    expected = [[str(int(code)), f"`{code.word}`", retry_of(code)] for code in Code]
    assert [row[:3] for row in rows_of("6. Codes")] == expected


@pytest.mark.parametrize("limit", [HEADER_LIMIT, UNAUTHENTICATED_LIMIT, AUTHENTICATED_LIMIT])
def test_the_frame_limits_are_those_of_the_code(limit: int) -> None:
    assert f"{limit // 1024} KiB" in DOCUMENT.read_text(encoding="utf-8").split("## 2.")[0]


def test_every_state_is_explained() -> None:
    explained = {row[0] for row in rows_of("What the states mean")}
    assert explained == {state.name for state in State}
