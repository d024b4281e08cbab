"""What an authority answers, read without a network: problems, waits, JSON, hosts."""

import json
import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.acme.answers import (
    LINE_LIMIT,
    RETRY_AFTER_MAX,
    Answer,
    Document,
    problem_of,
    said,
    seconds_of,
)
from tunnel.acme.network import Body, Network, host_of
from tunnel.errors import IssueFailed

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
PROBLEM = st.dictionaries(
    st.sampled_from(["type", "detail", "subproblems", "identifier", "value"]), JSON
)


def document(**fields: Any) -> Document:
    return Document("ca.test", fields)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0),
        (" 120 ", 120),
        ("9" * 50, RETRY_AFTER_MAX),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("²", None),
        ("Tue, 01 Jan 2030 12:00:30 GMT", 30),
        ("Tue, 01 Jan 2030 12:00:30 -0000", 30),
        ("Tue, 01 Jan 2030 11:00:00 GMT", 0),
        ("Mon, 01 Jan 2035 12:00:00 GMT", RETRY_AFTER_MAX),
        ("Mon, 01 Jan 99999 12:00:00 GMT", None),
    ],
)
def test_a_wait_is_read_in_both_forms_and_bounded(
    header: str | None, seconds: float | None
) -> None:
    assert seconds_of(header, NOW) == seconds


@given(st.text())
def test_no_wait_is_ever_beyond_its_bounds(header: str) -> None:
    seconds = seconds_of(header, NOW)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_MAX


@given(st.integers(0, 7 * 86400))
def test_a_moment_and_its_seconds_say_the_same(seconds: int) -> None:
    moment = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert seconds_of(moment, NOW) == seconds_of(str(seconds), NOW) == seconds


def test_a_problem_is_its_word_and_what_is_said_of_it() -> None:
    kind = "urn:ietf:params:acme:error:caa"
    assert said(document(type=kind, detail="CAA\n forbids it")) == "caa: CAA forbids it"


def test_a_problem_says_what_is_wrong_with_each_name() -> None:
    subproblems = [
        {
            "type": "urn:ietf:params:acme:error:dns",
            "detail": "no such name",
            "identifier": {"type": "dns", "value": f"{number}.test"},
        }
        for number in range(7)
    ]
    line = said(document(type="urn:ietf:params:acme:error:compound", subproblems=subproblems))
    assert line.startswith("compound; 0.test: dns: no such name; 1.test")
    assert line.endswith("; and 2 more")


@given(PROBLEM | JSON)
def test_any_refusal_is_one_line_of_bounded_length(refusal: Any) -> None:
    line = str(problem_of(Answer("ca.test", 400, json.dumps(refusal).encode())))
    assert len(line) <= LINE_LIMIT
    assert len(line.splitlines()) == 1


@given(st.binary())
def test_any_content_is_a_json_object_or_a_fault(content: bytes) -> None:
    with suppress(IssueFailed):
        assert isinstance(Document.parsed("ca.test", content).fields, dict)


@pytest.mark.parametrize("value", [None, 7, [], {}])
def test_a_field_that_must_be_a_string_is_named_where_it_is_none(value: object) -> None:
    with pytest.raises(IssueFailed, match=r"ca\.test answered without a string as 'status'"):
        document(status=value).text("status")


@pytest.mark.parametrize("value", ["x", 7, ["x", 7], {"a": 1}])
def test_a_list_is_one_of_what_it_should_hold(value: object) -> None:
    with pytest.raises(IssueFailed, match="a list of strings"):
        document(urls=value).texts("urls")
    with pytest.raises(IssueFailed, match="a list of objects"):
        document(urls=value).documents("urls")


def test_what_is_absent_is_empty() -> None:
    assert document().texts("urls") == ()
    assert document().documents("urls") == ()
    assert document(meta=None).document("meta").fields == {}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://ca.test/dir", "ca.test"),
        ("https://user:word@ca.test:8443/dir", "ca.test:8443"),
        ("nonsense", "'nonsense'"),
        ("https://[", "'https://['"),
    ],
)
def test_a_server_is_called_by_its_host_and_never_by_its_secrets(url: str, host: str) -> None:
    assert host_of(url) == host


def test_what_is_not_https_is_never_asked() -> None:
    with pytest.raises(IssueFailed, match=r"cannot reach 127\.0\.0\.1:1: No connection adapters"):
        Network(None).fetch("http://127.0.0.1:1/")


def test_the_libraries_have_no_say_in_the_log() -> None:
    assert not logging.getLogger("urllib3.connectionpool").isEnabledFor(logging.ERROR)
    assert not logging.getLogger("acme.client").isEnabledFor(logging.ERROR)


def test_a_body_is_what_it_was_made_of() -> None:
    assert json.loads(Body({"a": [1, "b"]}).json_dumps()) == {"a": [1, "b"]}
