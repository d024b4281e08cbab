"""One of each message, as the protocol's tests use them."""

from dataclasses import replace

from tunnel.errors import Code
from tunnel.protocol.fields import DirectOffer, Reason
from tunnel.protocol.frames import FrameReader
from tunnel.protocol.messages import (
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
    encode,
)
from tunnel.protocol.registration import ClientRegistration, RelayRegistration, State

LEAF_HASH = bytes(range(32))
FINGERPRINT = b"f" * 32

HELLO = Hello(versions=(1,), nonce=b"n" * 32, relay="eu1", features=("replica", "future"))
BODY = AuthBody(
    version=1,
    key=b"k" * 91,
    instance=b"i" * 16,
    names=("a.t.test", "shop.example.com"),
    features=("replica", "other"),
    software="tunnel 0.1.0",
)
AUTH = Auth(body=encode(BODY), signature=b"s" * 70)
WELCOME = Welcome(
    session=b"S" * 16,
    granted={"a.t.test": 8443},
    refused={"shop.example.com": Reason(Code.NAME_REFUSED)},
    heartbeat=5.0,
    streams=1000,
    observed=("192.0.2.7", 50000),
    direct=DirectOffer(b"D" * 32, 64),
)
HEADER = StreamHeader(
    kind=StreamKind.VISITOR,
    id="c1-7",
    name="a.t.test",
    peer=("2001:db8::7", 50001),
    local=("192.0.2.1", 8443),
    alpn=(b"h2", b"http/1.1"),
)
REJECT = Reject(Reason(Code.BUSY), "too many connections", 30.0)
BYE = Bye(Reason(Code.DRAINING), "going away")
SERVE = Serve("a.t.test", visitors=True, challenge=False)
SERVING = Serving("a.t.test", visitors=True, challenge=False)
PING, PONG = Ping(7), Pong(7)
DRAIN = Drain(deadline=30.0, retry_after=2.0)

MESSAGES: tuple[Message, ...] = (
    HELLO,
    AUTH,
    WELCOME,
    REJECT,
    BYE,
    SERVE,
    SERVING,
    PING,
    PONG,
    DRAIN,
)


def payload_of(sent: bytes) -> bytes:
    """Return the payload of the one frame that `sent` is."""
    reader = FrameReader()
    reader.feed(sent)
    payload = reader.next_frame()
    assert payload is not None
    assert reader.held_bytes == 0
    return payload


def accept_key(_key: bytes, _signature: bytes, _message: bytes) -> bytes:
    return FINGERPRINT


def seal(_message: bytes) -> bytes:
    return b"s" * 70


def relay_in(state: State) -> RelayRegistration:
    """Return a relay's end that got to `state` by messages."""
    relay = RelayRegistration(HELLO, "quic", LEAF_HASH, accept_key)
    if state is State.LEAVING:
        relay.leave(Code.TIMEOUT)
    elif state is not State.OPENED:
        relay.greeting()
    if state in (State.CLAIMED, State.WELCOMED):
        relay.receive(encode(AUTH))
    if state is State.WELCOMED:
        relay.send(WELCOME)
    if state is State.LEFT:
        relay.receive(encode(BYE))
    assert relay.state is state
    return relay


def client_in(state: State) -> ClientRegistration:
    """Return a client's end that got to `state` by messages."""
    client = ClientRegistration("quic", LEAF_HASH, features=("replica", "other"))
    if state is State.LEAVING:
        client.leave(Code.OK)
    elif state is State.LEFT:
        client.receive(encode(REJECT))
    elif state is not State.OPENED:
        client.receive(encode(HELLO))
    if state in (State.CLAIMED, State.WELCOMED):
        client.auth(replace(BODY, version=client.version), seal)
    if state is State.WELCOMED:
        client.receive(encode(WELCOME))
    assert client.state is state
    return client
