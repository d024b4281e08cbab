import time

import pytest

from tunnel.errors import RemoteProtocolError
from tunnel.protocol.objects import NESTING_LIMIT, parse_object, render_object


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "{}{}",
        '{"a":1,"a":1}',
        '{"x":{"a":1,"a":2}}',
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":-Infinity}',
        '{"a":1e400}',
        '{"a":"\\ud800"}',
        '{"a":["\\udc00\\ud800"]}',
        '{"\\udfff":1}',
        '{"a":"unterminated',
        '\ufeff{"a":1}',
        '{"a":' + "9" * 5000 + "}",
        "{'a':1}",
        '{"a":1,}',
        '{"a":"line\nfeed"}',
    ],
)
def test_what_is_not_strict_json_is_the_peers_fault(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_object(text.encode())


@pytest.mark.parametrize("payload", [b"\xff", b'{"a":"\xed\xa0\x80"}', '{"a":1}'.encode("utf-16")])
def test_what_is_not_utf_8_is_the_peers_fault(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_object(payload)


def test_eight_levels_are_read() -> None:
    inner = NESTING_LIMIT - 1
    parse_object(b'{"a":' + b"[" * inner + b"]" * inner + b"}")


@pytest.mark.parametrize("levels", [NESTING_LIMIT, 16_000])
def test_nesting_over_eight_levels_is_refused(levels: int) -> None:
    with pytest.raises(RemoteProtocolError, match="nested deeper than 8"):
        parse_object(b'{"a":' + b"[" * levels + b"]" * levels + b"}")


def test_brackets_inside_strings_do_not_nest() -> None:
    assert parse_object(b'{"a":"\\"[[[[[[[[[[{{{{{{"}') == {"a": '"[[[[[[[[[[{{{{{{'}


def test_neighbours_do_not_add_up_to_nesting() -> None:
    assert parse_object(b'{"a":[[],[],[],[],[],[],[],[],{},{}]}') == {"a": [[]] * 8 + [{}] * 2}


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize("hostile", ['{"' + '\\"' * 32_000, '"' * 64_000, "\\" * 64_000])
def test_hostile_quoting_is_refused_in_linear_time(hostile: str) -> None:
    began = time.process_time()
    with pytest.raises(RemoteProtocolError):
        parse_object(hostile.encode())
    assert time.process_time() - began < 0.5  # quadratic would be tens of seconds


def test_the_reason_quotes_none_of_the_peers_bytes() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_object(b'{"secret":"\xff"}')
    assert "secret" not in str(caught.value)


def test_objects_are_written_without_spaces_and_in_utf_8() -> None:
    assert render_object({"a": [1, "é"]}) == '{"a":[1,"é"]}'.encode()
