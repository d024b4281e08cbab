"""Hostile bytes and hostile turns: only documented errors leave the protocol, memory stays flat."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.protocol.samples import client_in, relay_in
from tunnel.errors import Code, Refused, RemoteProtocolError
from tunnel.protocol.fields import Reason
from tunnel.protocol.frames import UNAUTHENTICATED_LIMIT, FrameReader, frame
from tunnel.protocol.messages import (
    MESSAGE_TYPES,
    SCHEMAS,
    Auth,
    AuthBody,
    Bye,
    Drain,
    Hello,
    Message,
    Ping,
    Pong,
    Reject,
    Serve,
    Serving,
    StreamHeader,
    StreamKind,
    Welcome,
    decode,
    decode_body,
    decode_header,
    encode,
)
from tunnel.protocol.objects import NESTING_LIMIT, parse_object
from tunnel.protocol.registration import State

PATIENT = settings(deadline=None, max_examples=60)  # a busy machine is no fault

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "test"]))
WORDS = st.from_regex(r"[a-z0-9_-]{1,16}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=64)
VERSIONS = st.integers(1, 65535)
FEATURES = st.lists(WORDS, max_size=16).map(tuple)
HOSTS = st.ip_addresses().filter(lambda ip: getattr(ip, "ipv4_mapped", None) is None).map(str)
ADDRESSES = st.tuples(HOSTS, st.integers(0, 65535))
UNKNOWN_WORDS = WORDS.filter(lambda word: word not in {code.word for code in Code})
REASONS = st.builds(Reason, st.sampled_from(Code)) | st.builds(
    Reason, st.just(Code.ABORTED), UNKNOWN_WORDS
)
RETRY_AFTER = st.none() | st.floats(0, 600)
SEQUENCE = st.integers(0, 2**63 - 1)

VALID: Mapping[type, st.SearchStrategy[Any]] = {
    Hello: st.builds(
        Hello,
        st.lists(VERSIONS, min_size=1, max_size=16).map(tuple),
        st.binary(min_size=32, max_size=32),
        TEXT,
        FEATURES,
    ),
    Auth: st.builds(
        Auth,
        st.binary(min_size=2, max_size=99),
        st.binary(min_size=1, max_size=128),
    ),
    AuthBody: st.builds(
        AuthBody,
        VERSIONS,
        st.binary(min_size=1, max_size=256),
        st.binary(min_size=16, max_size=16),
        st.lists(NAMES, min_size=1, max_size=9).map(tuple),
        FEATURES,
        TEXT,
        st.none() | st.binary(max_size=4096),
    ),
    Welcome: st.builds(
        Welcome,
        st.binary(min_size=16, max_size=16),
        st.dictionaries(NAMES, st.integers(1, 65535), max_size=9),
        st.dictionaries(NAMES, REASONS, max_size=9),
        st.floats(1, 60),
        st.integers(1, 2**31 - 1),
        ADDRESSES,
    ),
    Reject: st.builds(Reject, REASONS, TEXT, RETRY_AFTER),
    Bye: st.builds(Bye, REASONS, TEXT, RETRY_AFTER),
    Serve: st.builds(Serve, NAMES, st.booleans(), st.booleans(), st.booleans()),
    Serving: st.builds(
        Serving,
        NAMES,
        st.booleans(),
        st.booleans(),
        st.none() | REASONS,
        st.none() | st.floats(0, 604_800),
        TEXT,
    ),
    Ping: st.builds(Ping, SEQUENCE),
    Pong: st.builds(Pong, SEQUENCE),
    Drain: st.builds(Drain, st.floats(0, 86400), st.floats(0, 600)),
    StreamHeader: st.builds(
        StreamHeader,
        st.sampled_from(StreamKind),
        TEXT,
        NAMES,
        ADDRESSES,
        ADDRESSES,
        st.lists(st.binary(min_size=1, max_size=16), max_size=64).map(tuple),
    ),
}
MESSAGES: st.SearchStrategy[Message] = st.one_of([VALID[each] for each in MESSAGE_TYPES])

FIELD_WORDS = sorted({field.word for schema in SCHEMAS.values() for field in schema.fields})
TYPE_WORDS = sorted(SCHEMAS[each].word for each in MESSAGE_TYPES)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from([*TYPE_WORDS, "a.test", "busy", "192.0.2.1:1", "A" * 43, "A" * 22])
)
KEYS = st.sampled_from(FIELD_WORDS) | st.text(max_size=8) | NAMES
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)
)


@st.composite
def bent(draw: st.DrawFn, messages: st.SearchStrategy[Any]) -> bytes:
    """Draw a message's payload in which some members were replaced, removed or added."""
    members = json.loads(encode(draw(messages)))
    for word in draw(st.lists(st.sampled_from(FIELD_WORDS), max_size=3)):
        members[word] = draw(VALUES)
    for word in draw(st.lists(st.sampled_from(["type", *FIELD_WORDS]), max_size=2)):
        members.pop(word, None)
    return json.dumps(members).encode("utf-8")


TOKENS = st.sampled_from(
    ['{"type":"ping"', '"seq":', '{"seq":', "1", "-0", "1e999", "NaN", "[", "]", "{", "}", ",", ":",
     '"', '\\"', "\\ud800", "\\udc00", "true", "null", " ", "\ud7ff", "\x00"]
)  # fmt: skip
SCRAPS = st.lists(TOKENS, max_size=30).map(lambda tokens: "".join(tokens).encode())
PAYLOADS = st.binary(max_size=200) | SCRAPS | bent(MESSAGES) | MESSAGES.map(encode)


@PATIENT
@given(MESSAGES)
def test_every_message_survives_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message


@PATIENT
@given(VALID[AuthBody])
def test_every_body_survives_the_wire(body: AuthBody) -> None:
    assert decode_body(encode(body)) == body


@PATIENT
@given(VALID[StreamHeader])
def test_every_header_survives_the_wire(header: StreamHeader) -> None:
    assert decode_header(encode(header)) == header


@pytest.mark.parametrize("read", [decode, decode_body, decode_header, parse_object])
@PATIENT
@given(payload=PAYLOADS | bent(VALID[AuthBody]) | bent(VALID[StreamHeader]))
def test_any_payload_is_read_or_is_the_peers_fault(read: Any, payload: bytes) -> None:
    try:
        read(payload)
    except RemoteProtocolError as error:
        reason = str(error)
    else:
        reason = ""
    assert len(reason) < 200  # it goes into a log


@PATIENT
@given(PAYLOADS)
def test_what_was_accepted_can_be_sent_on(payload: bytes) -> None:
    try:
        message = decode(payload)
    except RemoteProtocolError:
        return
    assert decode(encode(message)) == message


@PATIENT
@given(st.lists(st.booleans(), max_size=12), st.text('[]{}"\\\u00e9', max_size=8))
def test_nesting_is_counted_as_it_is(objects: list[bool], leaf: str) -> None:
    value: object = leaf
    for is_object in objects:
        value = {f"in {leaf}": value, "": leaf} if is_object else [leaf, value]
    payload = json.dumps({"top": value}).encode()
    if len(objects) < NESTING_LIMIT:
        assert parse_object(payload) == {"top": value}
        return
    with pytest.raises(RemoteProtocolError, match="nested"):
        parse_object(payload)


def auth_around(body: bytes) -> bytes:
    return encode(Auth(body, b"s")) if len(body) > 1 else body


BODIES = (VALID[AuthBody].map(encode) | bent(VALID[AuthBody]) | SCRAPS).map(auth_around)


@pytest.mark.parametrize("end", [relay_in, client_in])
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
@PATIENT
@given(payloads=st.lists(PAYLOADS | BODIES, min_size=1, max_size=3))
def test_after_any_frames_in_any_state_an_end_can_leave_or_has_ended(
    end: Any, state: State, payloads: list[bytes]
) -> None:
    registration, reason = end(state), ""
    for payload in payloads:
        try:
            registration.receive(payload)
        except (RemoteProtocolError, Refused) as fault:
            reason = str(fault)
            break
    assert not registration.is_open or registration.leave(Code.PROTOCOL, reason)


@PATIENT
@given(st.lists(st.binary(max_size=300) | PAYLOADS.map(frame), max_size=20))
def test_between_feeds_a_reader_holds_less_than_one_frame(chunks: list[bytes]) -> None:
    reader = FrameReader(64)
    try:
        for chunk in chunks:
            reader.feed(chunk)
            while (payload := reader.next_frame()) is not None:
                assert len(payload) <= 64
            assert reader.held_bytes < 4 + 64
    except RemoteProtocolError:
        assert reader.held_bytes == 0


@PATIENT
@given(st.integers(UNAUTHENTICATED_LIMIT + 1, 2**32 - 1), st.binary(max_size=64))
def test_a_length_over_the_limit_is_never_waited_for(length: int, more: bytes) -> None:
    reader = FrameReader()
    with pytest.raises(RemoteProtocolError):
        reader.feed(length.to_bytes(4, "big") + more)
    assert reader.held_bytes == 0
