import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.protocol.samples import (
    AUTH,
    BODY,
    BYE,
    DRAIN,
    HEADER,
    HELLO,
    MESSAGES,
    PING,
    REJECT,
    SERVE,
    SERVING,
    WELCOME,
)
from tunnel.errors import Code, LocalProtocolError, RemoteProtocolError
from tunnel.protocol.fields import Reason
from tunnel.protocol.frames import HEADER_LIMIT, UNAUTHENTICATED_LIMIT, frame
from tunnel.protocol.messages import (
    SCHEMAS,
    Auth,
    AuthBody,
    Message,
    Ping,
    Serve,
    StreamHeader,
    decode,
    decode_body,
    decode_header,
    encode,
    leading_alpn,
)

Anything = Message | AuthBody | StreamHeader

LONG_NAMES = tuple(f"{'a' * 60}.{i:03}.t" for i in range(64))  # 66 bytes each, over 4,096 together


def read(like: Anything, payload: bytes) -> Anything:
    """Decode a payload as what `like` is."""
    match like:
        case AuthBody():
            return decode_body(payload)
        case StreamHeader():
            return decode_header(payload)
        case _:
            return decode(payload)


def changed(sample: Anything, **members: object) -> bytes:
    """Return the sample's payload with some members of its JSON object replaced."""
    return json.dumps({**json.loads(encode(sample)), **members}).encode()


def label(value: object) -> str | None:
    return type(value).__name__ if type(value) in SCHEMAS else None


@pytest.mark.parametrize("message", [*MESSAGES, BODY, HEADER], ids=label)
def test_what_is_sent_is_what_is_read(message: Anything) -> None:
    assert read(message, encode(message)) == message


def test_a_message_on_the_wire_is_a_typed_object() -> None:
    assert encode(REJECT) == (
        b'{"type":"reject","code":"busy","message":"too many connections","retry_after":30.0}'
    )


def test_a_header_on_the_wire_has_no_type() -> None:
    assert encode(HEADER) == (
        b'{"kind":"visitor","id":"c1-7","name":"a.t.test","peer":"[2001:db8::7]:50001",'
        b'"local":"192.0.2.1:8443","alpn":["aDI","aHR0cC8xLjE"]}'
    )


def test_what_has_its_default_is_not_sent() -> None:
    assert encode(SERVE) == (
        b'{"type":"serve","name":"a.t.test","visitors":true,"challenge":false}'
    )


@pytest.mark.parametrize("message", [*MESSAGES, BODY, HEADER], ids=label)
def test_unknown_fields_are_passed_over(message: Anything) -> None:
    assert read(message, changed(message, future={"key": [1, None]}, later=2.5)) == message


REQUIRED = [
    (sample, field.word)
    for sample in (*MESSAGES, BODY, HEADER)
    for field in SCHEMAS[type(sample)].fields
    if field.is_required
]


@pytest.mark.parametrize(("sample", "word"), REQUIRED, ids=label)
def test_a_missing_field_is_the_peers_fault(sample: Anything, word: str) -> None:
    members = json.loads(encode(sample))
    del members[word]
    with pytest.raises(RemoteProtocolError, match=f"{word}: missing"):
        read(sample, json.dumps(members).encode())


NOWHERE_RIGHT: tuple[object, ...] = (None, [[]], {"": {}}, -1, 1.5, "\0", True)
FITS: Mapping[str, object] = {"bool": True, "str,": "\0", "seconds,": 1.5}  # but for these
WRONG = [
    (sample, field.word, wrong)
    for sample in (*MESSAGES, BODY, HEADER)
    for field in SCHEMAS[type(sample)].fields
    for wrong in NOWHERE_RIGHT
    if wrong is not FITS.get(field.codec.meaning.split()[0])
]


@pytest.mark.parametrize(("sample", "word", "wrong"), WRONG, ids=label)
def test_a_value_of_the_wrong_type_or_range_is_the_peers_fault(
    sample: Anything, word: str, wrong: object
) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{word}: "):
        read(sample, changed(sample, **{word: wrong}))


@pytest.mark.parametrize(
    "payload",
    [b'{"type":"hullo"}', b"{}", b'{"type":7}', b'{"type":["ping"]}', b'{"type":"authbody"}',
     b'{"type":"Ping","seq":1}'],
)  # fmt: skip
def test_an_unknown_type_is_the_peers_fault(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown message type"):
        decode(payload)


def test_an_unknown_code_word_reads_as_aborted_and_is_kept() -> None:
    message = decode(changed(BYE, code="quota_exceeded"))
    assert message == replace(BYE, reason=Reason(Code.ABORTED, "quota_exceeded"))


def test_the_kept_word_is_what_a_log_shows() -> None:
    assert [str(Reason(Code.ABORTED, "quota")), str(Reason(Code.BUSY))] == ["quota", "busy"]


WITHIN: list[tuple[Anything, dict[str, Any]]] = [
    (HELLO, {"versions": [65535] * 16, "relay": "é" * 64, "features": ["f" * 16] * 16}),
    (BODY, {"names": ["a.test"] * 64, "software": "é" * 64, "extension": "A" * 5462}),
    (BODY, {"names": [*LONG_NAMES[:62]]}),
    (WELCOME, {"heartbeat": 1, "streams": 1, "granted": {"a.test": 65535}, "refused": {}}),
    (WELCOME, {"heartbeat": 60, "streams": 2**31 - 1, "granted": {"a.test": 1}}),
    (REJECT, {"message": "é" * 256, "retry_after": 600}),
    (REJECT, {"message": "", "retry_after": 0}),
    (SERVING, {"message": "é" * 256, "retry_after": 604_800}),
    (PING, {"seq": 2**63 - 1}),
    (PING, {"seq": 0}),
    (DRAIN, {"deadline": 86400}),
    (HEADER, {"alpn": ["QUFB" * 85] * 4, "id": "x" * 64, "kind": "challenge"}),
    (HEADER, {"alpn": ["QQ"] * 64}),
    (HEADER, {"peer": "192.0.2.1:0", "local": "[::1]:65535"}),
]
BEYOND: list[tuple[Anything, str, Any]] = [
    (HELLO, "versions", []),
    (HELLO, "versions", [1] * 17),
    (HELLO, "versions", [0]),
    (HELLO, "versions", [True]),
    (HELLO, "versions", [1.0]),
    (HELLO, "nonce", "A" * 42),
    (HELLO, "nonce", "A" * 44),
    (HELLO, "relay", "é" * 65),
    (HELLO, "features", ["f"] * 17),
    (HELLO, "features", ["f" * 17]),
    (HELLO, "features", [""]),
    (HELLO, "features", ["Replica"]),
    (BODY, "names", []),
    (BODY, "names", ["a.test"] * 65),
    (BODY, "names", [*LONG_NAMES]),
    (BODY, "names", ["A.test"]),
    (BODY, "instance", "A" * 24),
    (BODY, "software", "é" * 65),
    (BODY, "extension", "A" * 5463),
    (BODY, "version", 65536),
    (WELCOME, "heartbeat", 0.999),
    (WELCOME, "heartbeat", 60.001),
    (WELCOME, "heartbeat", "5"),
    (WELCOME, "streams", 0),
    (WELCOME, "granted", {"a.test": 0}),
    (WELCOME, "granted", {"a.test": 65536}),
    (WELCOME, "granted", {"A.test": 1}),
    (WELCOME, "granted", {f"a{i}.test": 1 for i in range(65)}),
    (WELCOME, "refused", {"a.test": "NAME_REFUSED"}),
    (WELCOME, "refused", {"a.test": "x" * 33}),
    (WELCOME, "session", "A" * 20),
    (WELCOME, "observed", "example.org:443"),
    (REJECT, "message", "é" * 257),
    (REJECT, "retry_after", 600.001),
    (REJECT, "retry_after", -0.001),
    (SERVING, "retry_after", 604_800.001),
    (SERVING, "message", "x" * 257),
    (SERVING, "message", None),
    (REJECT, "code", ""),
    (PING, "seq", 2**63),
    (PING, "seq", -1),
    (DRAIN, "deadline", 86401),
    (HEADER, "alpn", ["QUFB" * 85] * 4 + ["QUFBQUE"]),
    (HEADER, "alpn", [""]),
    (HEADER, "alpn", ["QQ"] * 65),
    (HEADER, "id", "x" * 65),
    (HEADER, "kind", "stranger"),
    (HEADER, "name", "127.0.0.1"),
]


@pytest.mark.parametrize(("sample", "members"), WITHIN, ids=label)
def test_the_last_value_within_a_limit_is_read(sample: Anything, members: dict[str, Any]) -> None:
    read(sample, changed(sample, **members))


@pytest.mark.parametrize(("sample", "word", "value"), BEYOND, ids=label)
def test_the_first_value_beyond_a_limit_is_refused(
    sample: Anything, word: str, value: object
) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{word}: "):
        read(sample, changed(sample, **{word: value}))


@pytest.mark.parametrize(
    "text",
    ["A" * 43 + "=", "A" * 42 + "B", "+" + "A" * 42, "/" + "A" * 42, " " + "A" * 42,
     "A" * 43 + "\n", "A" * 41, "é" * 43],
)  # fmt: skip
def test_only_canonical_unpadded_base64url_is_read(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match=r"hello\.nonce: "):
        decode(changed(HELLO, nonce=text))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[::ffff:192.0.2.1]:1", ("192.0.2.1", 1)),
        ("[2001:DB8:0::1]:443", ("2001:db8::1", 443)),
    ],
)
def test_addresses_are_read_in_their_usual_spelling(text: str, address: tuple[str, int]) -> None:
    assert decode(changed(WELCOME, observed=text)) == replace(WELCOME, observed=address)


@pytest.mark.parametrize(
    "text",
    ["192.0.2.1", "192.0.2.1:", "192.0.2.1:65536", "192.0.2.1:0443", "192.0.2.1:+1",
     "192.0.2.256:1", "010.0.0.1:1", "2001:db8::1:443", "[192.0.2.1]:443",
     "[fe80::1%eth0]:1", "[::1]:٣", "[:::1]:1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match=r"welcome\.observed: "):
        decode(changed(WELCOME, observed=text))


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("::ffff:192.0.2.1", 1), "192.0.2.1:1"),
        (("fe80::1%eth0", 1), "[fe80::1]:1"),
        (("2001:0db8::0001", 443), "[2001:db8::1]:443"),
    ],
)
def test_addresses_are_sent_in_their_usual_spelling(address: tuple[str, int], text: str) -> None:
    assert json.loads(encode(replace(WELCOME, observed=address)))["observed"] == text


@pytest.mark.parametrize(
    "message",
    [
        replace(HELLO, nonce=b"short"),
        replace(REJECT, retry_after=601.0),
        replace(REJECT, retry_after=float("nan")),
        replace(REJECT, message="\ud800"),
        replace(WELCOME, observed=("relay.example.org", 443)),
        replace(WELCOME, heartbeat=0.0),
        Serve("Upper.test", visitors=True, challenge=True),
        Ping(True),
    ],
    ids=label,
)
def test_what_a_peer_would_refuse_is_not_sent(message: Message) -> None:
    with pytest.raises(LocalProtocolError):
        encode(message)


def test_the_largest_proof_fits_the_frame_before_authentication() -> None:
    body = replace(
        BODY,
        version=65535,
        key=b"k" * 256,
        names=("a." * 29 + "test",) * 64,
        features=("f" * 16,) * 16,
        software="\0" * 64,
        extension=b"x" * 4096,
    )
    assert frame(encode(Auth(encode(body), b"s" * 128)), UNAUTHENTICATED_LIMIT)


def test_the_largest_header_fits_its_frame() -> None:
    name = ".".join(["a" * 61] * 4) + ".test"
    far = ("2001:db8:1111:2222:3333:4444:5555:6666", 65535)
    alpn = leading_alpn([b"A" * 16] * 100)
    header = replace(HEADER, id="\0" * 64, name=name, peer=far, local=far, alpn=alpn)
    assert frame(encode(header), HEADER_LIMIT)


@pytest.mark.parametrize(
    ("entries", "kept"),
    [([b"h2", b"http/1.1"], 2), ([b"a"] * 65, 64), ([b"a" * 255] * 5, 4), ([], 0)],
)
def test_as_many_leading_alpn_entries_are_kept_as_a_header_carries(
    entries: list[bytes], kept: int
) -> None:
    assert leading_alpn(entries) == tuple(entries[:kept])


def test_nothing_after_the_first_entry_that_does_not_fit_is_kept() -> None:
    assert leading_alpn([b"a" * 255] * 4 + [b"b" * 5, b"c"]) == (b"a" * 255,) * 4


def test_every_sample_is_of_another_type() -> None:
    assert {type(each) for each in (*MESSAGES, BODY, HEADER)} == set(SCHEMAS)


def test_the_proof_carries_the_body_byte_for_byte() -> None:
    assert decode_body(AUTH.body) == BODY
