import json
import struct
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.unit.protocol.samples import (
    AUTH,
    BODY,
    BYE,
    DRAIN,
    FINGERPRINT,
    HELLO,
    LEAF_HASH,
    MESSAGES,
    PING,
    PONG,
    REJECT,
    SERVE,
    SERVING,
    WELCOME,
    client_in,
    payload_of,
    relay_in,
    seal,
)
from tunnel.errors import Code, LocalProtocolError, Refused, RemoteProtocolError
from tunnel.protocol.fields import Reason
from tunnel.protocol.frames import AUTHENTICATED_LIMIT, UNAUTHENTICATED_LIMIT
from tunnel.protocol.messages import (
    Auth,
    Bye,
    Drain,
    Hello,
    Message,
    Ping,
    Pong,
    Reject,
    Serve,
    Serving,
    Welcome,
    decode,
    encode,
)
from tunnel.protocol.registration import (
    FROM_CLIENT,
    FROM_RELAY,
    Claim,
    ClientRegistration,
    RelayRegistration,
    State,
    signed_message,
)

MAY_REACH_THE_RELAY: Mapping[State, set[type[Message]]] = {
    State.OPENED: {Bye},
    State.GREETED: {Auth, Bye},
    State.CLAIMED: {Bye},
    State.WELCOMED: {Serve, Ping, Pong, Bye},
    State.LEFT: set(),
}
MAY_REACH_THE_CLIENT: Mapping[State, set[type[Message]]] = {
    State.OPENED: {Hello, Reject},
    State.GREETED: {Reject},
    State.CLAIMED: {Welcome, Reject},
    State.WELCOMED: {Serving, Ping, Pong, Drain, Bye},
    State.LEFT: set(),
}


def refuse_key(_key: bytes, _signature: bytes, _message: bytes) -> bytes:
    raise Refused(Code.UNAUTHORIZED, "not this key's signature")


def refusing_relay() -> RelayRegistration:
    relay = RelayRegistration(HELLO, "quic", LEAF_HASH, refuse_key)
    relay.greeting()
    return relay


def test_the_signed_bytes_are_those_of_the_specification() -> None:
    expected = b" " * 64 + b"tunnel-auth/1\0"
    for part in (b"quic", LEAF_HASH, b'{"type":"hello"}', b"{}"):
        expected += struct.pack(">I", len(part)) + part
    assert signed_message("quic", LEAF_HASH, b'{"type":"hello"}', b"{}") == expected


@pytest.mark.parametrize(
    "other",
    [
        ("h2", LEAF_HASH, b"hello", b"body"),
        ("quic", b"x" * 32, b"hello", b"body"),
        ("quic", LEAF_HASH, b"hellob", b"ody"),
        ("quic", LEAF_HASH, b"hello", b"body "),
    ],
)
def test_a_proof_holds_for_one_transport_leaf_hello_and_body(
    other: tuple[str, bytes, bytes, bytes],
) -> None:
    assert signed_message(*other) != signed_message("quic", LEAF_HASH, b"hello", b"body")


def test_both_ends_compute_the_same_bytes_to_sign() -> None:
    seen: list[bytes] = []

    def note(_key: bytes, _signature: bytes, message: bytes) -> bytes:
        seen.append(message)
        return FINGERPRINT

    def sign(message: bytes) -> bytes:
        seen.append(message)
        return b"s" * 70

    relay = RelayRegistration(HELLO, "h2", LEAF_HASH, note)
    client = ClientRegistration("h2", LEAF_HASH)
    client.receive(payload_of(relay.greeting()))
    relay.receive(payload_of(client.auth(BODY, sign)))
    assert seen[0] == seen[1]


def test_the_hello_is_covered_as_it_was_sent_unknown_fields_included() -> None:
    seen: list[bytes] = []
    odd = b'{ "later": [1], ' + encode(HELLO)[1:]
    client = ClientRegistration("quic", LEAF_HASH)
    client.receive(odd)

    def sign(message: bytes) -> bytes:
        seen.append(message)
        return b"s"

    client.auth(BODY, sign)
    assert odd in seen[0]


def test_a_verified_claim_is_handed_over() -> None:
    assert relay_in(State.GREETED).receive(encode(AUTH)) == Claim(
        fingerprint=FINGERPRINT,
        key=BODY.key,
        instance=BODY.instance,
        names=BODY.names,
        software=BODY.software,
        extension=None,
        version=1,
        features=frozenset({"replica"}),
    )


def test_a_claim_whose_signature_fails_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        refusing_relay().receive(encode(AUTH))
    assert caught.value.code is Code.UNAUTHORIZED


def test_the_signature_is_judged_before_the_version() -> None:
    auth = Auth(encode(replace(BODY, version=2)), b"s")
    with pytest.raises(Refused) as caught:
        refusing_relay().receive(encode(auth))
    assert caught.value.code is Code.UNAUTHORIZED


def test_a_version_that_was_not_offered_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        relay_in(State.GREETED).receive(encode(Auth(encode(replace(BODY, version=2)), b"s")))
    assert caught.value.code is Code.VERSION


def test_a_second_attempt_at_the_signature_is_not_given() -> None:
    relay = refusing_relay()
    with pytest.raises(Refused):
        relay.receive(encode(AUTH))
    with pytest.raises(RemoteProtocolError, match="Auth while CLAIMED"):
        relay.receive(encode(AUTH))


@pytest.mark.parametrize("body", [b"{}", b"[]", b"\xff\xff", encode(HELLO)])
def test_a_malformed_body_is_the_clients_fault(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        relay_in(State.GREETED).receive(encode(Auth(body, b"s")))


def test_serve_before_auth_is_the_clients_fault() -> None:
    with pytest.raises(RemoteProtocolError, match="Serve while GREETED"):
        relay_in(State.GREETED).receive(encode(SERVE))


def test_welcome_before_auth_is_the_relays_fault() -> None:
    with pytest.raises(RemoteProtocolError, match="Welcome while GREETED"):
        client_in(State.GREETED).receive(encode(WELCOME))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("state", MAY_REACH_THE_RELAY, ids=lambda s: s.name)
def test_the_relay_takes_each_message_in_its_states_only(state: State, message: Message) -> None:
    relay = relay_in(state)
    if type(message) in MAY_REACH_THE_RELAY[state]:
        assert relay.receive(encode(message)) is not None
        return
    with pytest.raises(RemoteProtocolError, match=f"{type(message).__name__} while {state.name}"):
        relay.receive(encode(message))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("state", MAY_REACH_THE_CLIENT, ids=lambda s: s.name)
def test_the_client_takes_each_message_in_its_states_only(state: State, message: Message) -> None:
    client = client_in(state)
    if type(message) in MAY_REACH_THE_CLIENT[state]:
        assert client.receive(encode(message)) == message
        return
    with pytest.raises(RemoteProtocolError, match=f"{type(message).__name__} while {state.name}"):
        client.receive(encode(message))


@pytest.mark.parametrize("message", [AUTH, SERVE, PING, PONG], ids=lambda m: type(m).__name__)
def test_what_crossed_the_relays_last_word_is_passed_over(message: Message) -> None:
    assert relay_in(State.LEAVING).receive(encode(message)) is None


@pytest.mark.parametrize(
    "message", [HELLO, WELCOME, SERVING, DRAIN], ids=lambda m: type(m).__name__
)
def test_what_crossed_the_clients_last_word_is_passed_over(message: Message) -> None:
    assert client_in(State.LEAVING).receive(encode(message)) is None


def test_a_bye_that_crosses_ours_is_still_told() -> None:
    assert relay_in(State.LEAVING).receive(encode(BYE)) == BYE


def test_a_reject_that_crosses_our_bye_is_still_told() -> None:
    assert client_in(State.LEAVING).receive(encode(REJECT)) == REJECT


def test_a_malformed_message_is_a_fault_even_after_the_last_word() -> None:
    with pytest.raises(RemoteProtocolError):
        relay_in(State.LEAVING).receive(b"{")


def test_before_the_welcome_a_relay_leaves_with_a_reject() -> None:
    sent = relay_in(State.CLAIMED).leave(Code.BUSY, "full", 30.0)
    assert decode(payload_of(sent)) == Reject(Reason(Code.BUSY), "full", 30.0)


def test_after_the_welcome_a_relay_leaves_with_a_bye() -> None:
    sent = relay_in(State.WELCOMED).leave(Code.REVOKED)
    assert decode(payload_of(sent)) == Bye(Reason(Code.REVOKED), "")


@pytest.mark.parametrize(
    "state", [State.OPENED, State.GREETED, State.CLAIMED, State.WELCOMED], ids=lambda s: s.name
)
def test_a_client_may_leave_at_any_time(state: State) -> None:
    client, relay = client_in(state), relay_in(state)
    assert relay.receive(payload_of(client.leave(Code.OK))) == Bye(Reason(Code.OK), "")


@pytest.mark.parametrize("state", [State.LEAVING, State.LEFT], ids=lambda s: s.name)
def test_after_the_last_word_of_either_nothing_may_be_sent(state: State) -> None:
    relay = relay_in(state)
    assert not relay.is_open
    with pytest.raises(LocalProtocolError, match=f"sent Ping while {state.name}"):
        relay.send(PING)


def test_a_message_sent_out_of_its_turn_is_our_fault() -> None:
    with pytest.raises(LocalProtocolError, match="sent Welcome while GREETED"):
        relay_in(State.GREETED).send(WELCOME)


def test_a_message_that_could_not_be_sent_changes_nothing() -> None:
    relay = relay_in(State.CLAIMED)
    with pytest.raises(LocalProtocolError):
        relay.send(replace(WELCOME, heartbeat=0.0))
    assert relay.state is State.CLAIMED


def test_a_long_or_odd_farewell_is_made_to_fit() -> None:
    sent = relay_in(State.WELCOMED).leave(Code.INTERNAL, "\ud800" + "x" * 300)
    message = decode(payload_of(sent))
    assert isinstance(message, Bye)
    assert message.message == "?" + "x" * 255


@pytest.mark.parametrize("end", [relay_in, client_in])
def test_frames_may_be_longer_after_the_welcome(end: type) -> None:
    limits = [end(state).frame_limit for state in (State.CLAIMED, State.WELCOMED)]
    assert limits == [UNAUTHENTICATED_LIMIT, AUTHENTICATED_LIMIT]


def test_the_client_picks_the_highest_common_version() -> None:
    client = ClientRegistration("quic", LEAF_HASH, versions=(1, 2, 4))
    client.receive(encode(replace(HELLO, versions=(3, 2, 1))))
    assert client.version == 2


def test_without_a_common_version_the_client_refuses_and_can_say_so() -> None:
    client = ClientRegistration("quic", LEAF_HASH)
    with pytest.raises(Refused) as caught:
        client.receive(encode(replace(HELLO, versions=(2, 3))))
    assert caught.value.code is Code.VERSION
    assert json.loads(payload_of(client.leave(Code.VERSION)))["code"] == "version"


def test_both_ends_agree_on_the_features_that_both_have() -> None:
    client = client_in(State.GREETED)
    claim = relay_in(State.GREETED).receive(payload_of(client.auth(BODY, seal)))
    assert isinstance(claim, Claim)
    assert claim.features == client.features == {"replica"}


def test_a_claim_of_another_version_than_agreed_is_our_fault() -> None:
    with pytest.raises(LocalProtocolError, match="claimed version 2 after 1"):
        client_in(State.GREETED).auth(replace(BODY, version=2), seal)


def test_an_end_shows_its_role_transport_and_state() -> None:
    assert repr(relay_in(State.WELCOMED)) == "<RelayRegistration quic WELCOMED>"


@pytest.mark.parametrize(("table"), [FROM_RELAY, FROM_CLIENT])
def test_no_step_leads_out_of_an_ended_stream(table: dict[tuple[State, type], State]) -> None:
    assert not [step for step in table if step[0] in (State.LEAVING, State.LEFT)]
